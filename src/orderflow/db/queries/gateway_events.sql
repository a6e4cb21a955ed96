-- name: keep_event
-- gateway, event id, type, payment id, transaction id if it says that money was taken, when it
-- happened. Returns nothing if it was kept before.
INSERT INTO gateway_events (gateway, event_id, type, payment_id, paid_transaction_id, happened_at)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (gateway, event_id) DO NOTHING
RETURNING event_id

-- name: find_event
-- gateway, event id
SELECT type, payment_id, paid_transaction_id, done, handled_at IS NOT NULL AS handled
FROM gateway_events
WHERE gateway = $1 AND event_id = $2

-- name: end_event
-- gateway, event id, what came of it, whether that is all
UPDATE gateway_events
SET done = $3, handled_at = CASE WHEN $4::boolean THEN now() END
WHERE gateway = $1 AND event_id = $2 AND handled_at IS NULL

-- name: events_of_payment
-- payment id. The oldest first.
SELECT gateway, event_id, type, received_at, done
FROM gateway_events
WHERE payment_id = $1
ORDER BY received_at, event_id

-- name: open_events
-- seconds of rest, how many at most. Oldest first, without those whose payment is still unknown.
SELECT gateway, event_id
FROM gateway_events e
WHERE handled_at IS NULL
  AND received_at < now() - make_interval(secs => $1)
  AND (done IS NULL OR EXISTS (SELECT FROM payments p WHERE p.id = e.payment_id))
ORDER BY received_at, event_id
LIMIT $2

-- name: purge_events
-- days that they are kept, how many at most. Those that are not handled stay.
WITH old AS (
    SELECT gateway, event_id FROM gateway_events
    WHERE handled_at < now() - make_interval(days => $1)
    ORDER BY handled_at
    LIMIT $2
)
DELETE FROM gateway_events e USING old
WHERE e.gateway = old.gateway AND e.event_id = old.event_id

-- name: find_client_secret
-- payment id
SELECT client_secret FROM payments WHERE id = $1
