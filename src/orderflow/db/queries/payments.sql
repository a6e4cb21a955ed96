-- name: find_payment
-- payment id
SELECT
    p.id, p.external_id, p.order_id, o.external_id AS order_external_id, o.user_id,
    p.method, p.token, p.amount, p.currency, p.status, p.transaction_id, p.decline_reason,
    o.notified_at IS NOT NULL AS notified
FROM payments p JOIN orders o ON o.id = p.order_id
WHERE p.id = $1

-- name: adopt_payment
-- order id, order's own id or null, payment id, payment's own id or null, method, amount,
-- currency. Of many at once one writes the rows and the others find them.
WITH new_order AS (
    INSERT INTO orders (id, external_id, source, status, total, currency)
    VALUES ($1, $2, 'external', 'pending', $6, $7)
    ON CONFLICT (id) DO NOTHING
    RETURNING id
)
INSERT INTO payments (id, external_id, order_id, method, amount, currency, status)
SELECT $3, $4, id, $5, $6, $7, 'pending' FROM new_order

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

-- name: settle_declined
-- payment id, reason, statuses a payment may fail from, and an order be cancelled from.
-- Returns nothing if the payment has an outcome already. Stock that the order took goes back.
WITH declined AS (
    UPDATE payments
    SET status = 'failed', decline_reason = $2, token = NULL, updated_at = now()
    WHERE id = $1 AND status = ANY($3::text[])
    RETURNING order_id
), cancelled AS (
    UPDATE orders
    SET status = 'cancelled', updated_at = now()
    WHERE id = (SELECT order_id FROM declined) AND status = ANY($4::text[])
    RETURNING id
), locked AS (
    SELECT p.sku, i.quantity
    FROM products p JOIN order_items i USING (sku)
    WHERE i.order_id = (SELECT id FROM cancelled) AND i.took_stock AND p.stock IS NOT NULL
    ORDER BY p.sku
    FOR UPDATE OF p
), returned AS (
    UPDATE products p
    SET stock = p.stock + l.quantity
    FROM locked l
    WHERE p.sku = l.sku
)
SELECT order_id FROM declined
