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
-- arrays: payment id, and as its job has them its order's id, amount and method. The payment as
-- it was before; it is being processed now if it was open and the job agrees with it.
WITH asked AS (
    SELECT *
    FROM unnest($1::uuid[], $2::uuid[], $3::numeric[], $4::text[])
        WITH ORDINALITY AS a(id, order_id, amount, method, n)
), was AS (
    SELECT
        a.n, p.*,
        p.order_id = a.order_id AND p.amount = a.amount AND p.method = a.method AS agreed
    FROM payments p JOIN asked a ON a.id = p.id
    ORDER BY p.id
    FOR UPDATE OF p
), begun AS (
    UPDATE payments p
    SET status = 'processing', updated_at = now()
    FROM was w
    WHERE p.id = w.id AND w.agreed AND w.status IN ('pending', 'processing')
    RETURNING p.order_id
), order_begun AS (
    UPDATE orders o
    SET status = 'processing', updated_at = now()
    FROM begun b
    WHERE o.id = b.order_id AND o.status = 'pending'
)
SELECT
    w.n, w.id, w.external_id, w.order_id, o.external_id AS order_external_id, o.user_id,
    w.method, w.token, w.amount, w.currency, w.status, w.transaction_id, w.decline_reason,
    o.notified_at IS NOT NULL AS notified
FROM was w JOIN orders o ON o.id = w.order_id

-- name: settle_paid
-- arrays: payment id, transaction id; then the statuses that a payment may complete from, and
-- an order be confirmed from. Returns nothing for a payment that has an outcome already.
WITH asked AS (
    SELECT * FROM unnest($1::uuid[], $2::text[]) WITH ORDINALITY AS a(id, transaction_id, n)
), locked AS (
    SELECT a.* FROM payments p JOIN asked a USING (id) ORDER BY p.id FOR UPDATE OF p
), paid AS (
    UPDATE payments p
    SET status = 'completed', transaction_id = l.transaction_id, token = NULL, updated_at = now()
    FROM locked l
    WHERE p.id = l.id AND p.status = ANY($3::text[])
    RETURNING l.n, p.order_id
), confirmed AS (
    UPDATE orders o
    SET status = 'confirmed', updated_at = now()
    FROM paid p
    WHERE o.id = p.order_id AND o.status = ANY($4::text[])
)
SELECT n FROM paid

-- name: settle_declined
-- arrays: payment id, reason; then the statuses that a payment may fail from, and an order be
-- cancelled from. Returns nothing for a payment that has an outcome already. Stock that the
-- orders took goes back.
WITH asked AS (
    SELECT * FROM unnest($1::uuid[], $2::text[]) WITH ORDINALITY AS a(id, reason, n)
), locked AS (
    SELECT a.* FROM payments p JOIN asked a USING (id) ORDER BY p.id FOR UPDATE OF p
), declined AS (
    UPDATE payments p
    SET status = 'failed', decline_reason = l.reason, token = NULL, updated_at = now()
    FROM locked l
    WHERE p.id = l.id AND p.status = ANY($3::text[])
    RETURNING l.n, p.order_id
), cancelled AS (
    UPDATE orders o
    SET status = 'cancelled', updated_at = now()
    FROM declined d
    WHERE o.id = d.order_id AND o.status = ANY($4::text[])
    RETURNING o.id
), back AS (
    SELECT i.sku, sum(i.quantity) AS quantity
    FROM order_items i JOIN cancelled c ON c.id = i.order_id
    WHERE i.took_stock
    GROUP BY i.sku
), shelf AS (
    SELECT p.sku, b.quantity
    FROM products p JOIN back b USING (sku)
    WHERE p.stock IS NOT NULL
    ORDER BY p.sku
    FOR UPDATE OF p
), returned AS (
    UPDATE products p SET stock = p.stock + s.quantity FROM shelf s WHERE p.sku = s.sku
)
SELECT n FROM declined
