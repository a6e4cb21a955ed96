-- name: claim_notification
-- order id, kind, channel, recipient, seconds the claim lasts. Returns nothing if it was sent
-- or refused, or if another worker's claim still holds.
INSERT INTO notifications AS n (order_id, kind, channel, recipient, claimed_until)
VALUES ($1, $2, $3, $4, now() + make_interval(secs => $5))
ON CONFLICT (order_id, kind, channel) DO UPDATE
SET recipient = excluded.recipient, claimed_until = excluded.claimed_until
WHERE n.sent_at IS NULL AND n.refused_reason IS NULL AND n.claimed_until <= now()
RETURNING order_id

-- name: find_notification
-- order id, kind, channel
SELECT recipient, sent_at, refused_reason
FROM notifications
WHERE order_id = $1 AND kind = $2 AND channel = $3

-- name: record_sent
-- order id, kind, channel, reference of the sender
UPDATE notifications
SET sent_at = now(), reference = $4
WHERE order_id = $1 AND kind = $2 AND channel = $3

-- name: record_refused
-- order id, kind, channel, reason
UPDATE notifications
SET refused_reason = $4
WHERE order_id = $1 AND kind = $2 AND channel = $3

-- name: release_notification
-- order id, kind, channel. The next attempt need not wait for the claim to end.
UPDATE notifications
SET claimed_until = now()
WHERE order_id = $1 AND kind = $2 AND channel = $3 AND sent_at IS NULL

-- name: mark_notified
-- order id
UPDATE orders
SET notified_at = now(), updated_at = now()
WHERE id = $1 AND notified_at IS NULL
