-- name: claim_messages
-- arrays: order id; then kind, the statuses that it is true of, the channels there are, and the
-- seconds that a claim lasts. The order, and the channels of which this call has the claim: not
-- one that was sent or refused, nor one that another worker has.
WITH asked AS (
    SELECT * FROM unnest($1::uuid[]) WITH ORDINALITY AS a(order_id, n)
), found AS MATERIALIZED (
    SELECT a.n, d.* FROM asked a JOIN order_details d ON d.id = a.order_id
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
SELECT
    f.*,
    ARRAY(SELECT c.channel FROM claimed c WHERE c.order_id = f.id) AS claimed
FROM found f

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
    WHERE m.order_id = a.order_id AND m.kind = $4 AND m.channel = $5
    RETURNING a.n
), told AS (
    UPDATE orders o
    SET notified_at = now(), updated_at = now()
    FROM asked a
    WHERE a.last AND o.id = a.order_id AND o.notified_at IS NULL
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
