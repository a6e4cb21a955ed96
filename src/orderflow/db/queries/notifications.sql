-- name: claim_messages
-- arrays: order id; then kind, the statuses that it is true of, the channels there are, and the
-- seconds that a claim lasts. The order, and the channels of which this call has the claim: not
-- one that was sent or refused, nor one that another worker has.
WITH asked AS (
    SELECT * FROM unnest($1::uuid[]) WITH ORDINALITY AS a(id, n)
), found AS MATERIALIZED (
    SELECT a.n, d.* FROM order_details d JOIN asked a USING (id) WHERE d.id = ANY($1)
), claimed AS (
    INSERT INTO notifications AS m (order_id, kind, channel, recipient, claimed_until)
    SELECT f.id, $2, c.channel, c.recipient, now() + make_interval(secs => $5)
    FROM found f
    CROSS JOIN LATERAL (VALUES ('email', f.email), ('sms', f.phone)) AS c(channel, recipient)
    WHERE f.status = ANY($3::text[]) AND c.channel = ANY($4::text[]) AND c.recipient IS NOT NULL
    ON CONFLICT (order_id, kind, channel) DO UPDATE
    SET recipient = excluded.recipient, claimed_until = excluded.claimed_until
    WHERE m.sent_at IS NULL AND m.refused_reason IS NULL AND m.claimed_until <= now()
    RETURNING order_id, channel
)
SELECT f.*, coalesce(c.channels, '{}') AS claimed
FROM found f
LEFT JOIN (
    SELECT order_id, array_agg(channel) AS channels FROM claimed GROUP BY order_id
) c ON c.order_id = f.id

-- name: find_notification
-- order id, kind, channel
SELECT sent_at, refused_reason
FROM notifications
WHERE order_id = $1 AND kind = $2 AND channel = $3

-- name: record_sent
-- arrays: order id, reference of the sender, whether the customer now knows it all; then kind and
-- channel
WITH asked AS (
    SELECT *
    FROM unnest($1::uuid[], $2::text[], $3::boolean[]) WITH ORDINALITY AS a(order_id, reference, last, n)
), sent AS (
    UPDATE notifications m
    SET sent_at = now(), reference = a.reference
    FROM asked a
    WHERE m.order_id = ANY($1) AND m.kind = $4 AND m.channel = $5 AND m.order_id = a.order_id
    RETURNING a.n
), told AS (
    UPDATE orders o
    SET notified_at = coalesce(o.notified_at, now()), updated_at = now()
    FROM asked a
    WHERE o.id = ANY($1) AND o.id = a.order_id AND a.last
)
SELECT n FROM sent

-- name: record_refused
-- order id, kind, channel, reason
UPDATE notifications
SET refused_reason = $4
WHERE order_id = $1 AND kind = $2 AND channel = $3

-- name: release_notifications
-- order id, kind, channels. The next attempt need not wait for the claims to end.
UPDATE notifications
SET claimed_until = now()
WHERE order_id = $1 AND kind = $2 AND channel = ANY($3::text[]) AND sent_at IS NULL

-- name: mark_notified
-- order id
UPDATE orders
SET notified_at = now(), updated_at = now()
WHERE id = $1 AND notified_at IS NULL
