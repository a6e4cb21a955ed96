-- The statements of orderflow from before they were gathered into batches: one an order.

-- name: find_payment
-- payment id
SELECT
    p.id, p.external_id, p.order_id, o.external_id AS order_external_id, o.user_id,
    p.method, p.token, p.amount, p.currency, p.status, p.transaction_id, p.decline_reason,
    o.notified_at IS NOT NULL AS notified
FROM payments p JOIN orders o ON o.id = p.order_id
WHERE p.id = $1

-- name: begin_charge
-- payment id. Returns the status before, or nothing if the payment has an outcome.
WITH was AS (
    SELECT id, status
    FROM payments
    WHERE id = $1 AND status IN ('pending', 'processing')
    FOR UPDATE
), begun AS (
    UPDATE payments p
    SET status = 'processing', updated_at = now()
    FROM was
    WHERE p.id = was.id
    RETURNING p.order_id, was.status AS status_before
), order_begun AS (
    UPDATE orders
    SET status = 'processing', updated_at = now()
    WHERE id = (SELECT order_id FROM begun) AND status = 'pending'
)
SELECT status_before FROM begun

-- name: settle_paid
-- payment id, transaction id, statuses a payment may complete from, and an order be confirmed from.
-- Returns nothing if the payment has an outcome already.
WITH paid AS (
    UPDATE payments
    SET status = 'completed', transaction_id = $2, token = NULL, updated_at = now()
    WHERE id = $1 AND status = ANY($3::text[])
    RETURNING order_id
), confirmed AS (
    UPDATE orders
    SET status = 'confirmed', updated_at = now()
    WHERE id = (SELECT order_id FROM paid) AND status = ANY($4::text[])
)
SELECT order_id FROM paid

-- name: find_order
-- order id
SELECT * FROM order_details WHERE id = $1

-- name: claim_notification
-- order id, kind, channel, recipient, seconds the claim lasts. Returns nothing if it was sent
-- or refused, or if another worker's claim still holds.
INSERT INTO notifications AS n (order_id, kind, channel, recipient, claimed_until)
VALUES ($1, $2, $3, $4, now() + make_interval(secs => $5))
ON CONFLICT (order_id, kind, channel) DO UPDATE
SET recipient = excluded.recipient, claimed_until = excluded.claimed_until
WHERE n.sent_at IS NULL AND n.refused_reason IS NULL AND n.claimed_until <= now()
RETURNING order_id

-- name: record_sent
-- order id, kind, channel, reference of the sender
UPDATE notifications
SET sent_at = now(), reference = $4
WHERE order_id = $1 AND kind = $2 AND channel = $3

-- name: mark_notified
-- order id
UPDATE orders
SET notified_at = now(), updated_at = now()
WHERE id = $1 AND notified_at IS NULL
