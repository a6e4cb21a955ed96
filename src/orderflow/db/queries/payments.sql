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
-- currency. Of many at once one writes the rows and the others find them, and get no row.
WITH new_order AS (
    INSERT INTO orders (id, external_id, source, status, total, currency)
    VALUES ($1, $2, 'external', 'pending', $6, $7)
    ON CONFLICT (id) DO NOTHING
    RETURNING id
)
INSERT INTO payments (id, external_id, order_id, method, amount, currency, status)
SELECT $3, $4, id, $5, $6, $7, 'pending' FROM new_order
RETURNING order_id

-- name: begin_charge
-- arrays: payment id, and as its job has them its order's id, amount and method. The payment as
-- it was before; it is being processed now if it was open and the job agrees with it.
WITH asked AS (
    SELECT *
    FROM unnest($1::uuid[], $2::uuid[], $3::numeric[], $4::text[])
        WITH ORDINALITY AS a(id, order_id, amount, method, n)
), was AS (
    SELECT * FROM payments WHERE id = ANY($1) ORDER BY id FOR UPDATE
), agreed AS MATERIALIZED (
    SELECT id, order_id
    FROM was JOIN asked USING (id, order_id, amount, method)
    WHERE status IN ('pending', 'processing')
), begun AS (
    UPDATE payments p
    SET status = 'processing', updated_at = now()
    FROM agreed
    WHERE p.id = agreed.id
), order_begun AS (
    UPDATE orders o
    SET status = 'processing', updated_at = now()
    FROM agreed
    WHERE o.id = agreed.order_id AND o.status = 'pending'
)
SELECT
    a.n, w.id, w.external_id, w.order_id, o.external_id AS order_external_id, o.user_id,
    w.method, w.token, w.amount, w.currency, w.transaction_id, w.decline_reason,
    o.notified_at IS NOT NULL AS notified,
    -- One that waited so long may have been charged before the database was restored, and gateways
    -- forget keys after a day: it is asked about first, as one is that was begun.
    CASE WHEN w.status = 'pending' AND w.created_at < now() - interval '12 hours'
         THEN 'processing' ELSE w.status END AS status
FROM asked a JOIN was w USING (id) JOIN orders o ON o.id = w.order_id

-- name: settle_paid
-- arrays: payment id, transaction id; then the statuses that a payment may complete from, and
-- an order be confirmed from. Returns nothing for a payment that has an outcome already.
WITH asked AS (
    SELECT * FROM unnest($1::uuid[], $2::text[]) WITH ORDINALITY AS a(id, transaction_id, n)
), open AS (
    SELECT id FROM payments
    WHERE id = ANY($1) AND status = ANY($3::text[])
    ORDER BY id
    FOR UPDATE
), paid AS (
    UPDATE payments p
    SET status = 'completed', transaction_id = a.transaction_id, token = NULL,
        client_secret = NULL, updated_at = now()
    FROM open JOIN asked a USING (id)
    WHERE p.id = open.id
    RETURNING a.n, p.order_id
), confirmed AS (
    UPDATE orders o
    SET status = 'confirmed', updated_at = now()
    FROM paid
    WHERE o.id = paid.order_id AND o.status = ANY($4::text[])
    RETURNING o.id
), announced AS (
    INSERT INTO webhook_deliveries (endpoint_id, type, order_id, order_status)
    SELECT e.id, 'order.confirmed', c.id, 'confirmed'
    FROM webhook_endpoints e CROSS JOIN confirmed c
    WHERE e.enabled AND 'order.confirmed' = ANY (e.types)
)
SELECT n FROM paid

-- name: settle_declined
-- arrays: payment id, reason; then the statuses that a payment may fail from, and an order be
-- cancelled from. Returns nothing for a payment that has an outcome already. Stock that the
-- orders took goes back.
WITH asked AS (
    SELECT * FROM unnest($1::uuid[], $2::text[]) WITH ORDINALITY AS a(id, reason, n)
), open AS (
    SELECT id FROM payments
    WHERE id = ANY($1) AND status = ANY($3::text[])
    ORDER BY id
    FOR UPDATE
), declined AS (
    UPDATE payments p
    SET status = 'failed', decline_reason = a.reason, transaction_id = NULL, token = NULL,
        client_secret = NULL, updated_at = now()
    FROM open JOIN asked a USING (id)
    WHERE p.id = open.id
    RETURNING a.n, p.order_id
), cancelled AS (
    UPDATE orders o
    SET status = 'cancelled', updated_at = now()
    FROM declined
    WHERE o.id = declined.order_id AND o.status = ANY($4::text[])
    RETURNING o.id
), back AS (
    SELECT i.sku, sum(i.quantity) AS quantity
    FROM cancelled c JOIN order_items i ON i.order_id = c.id
    WHERE i.took_stock
    GROUP BY i.sku
), shelf AS (
    -- In the order of their sku, as an order takes them.
    SELECT sku FROM products
    WHERE sku = ANY(ARRAY(SELECT sku FROM back)) AND stock IS NOT NULL
    ORDER BY sku
    FOR UPDATE
), returned AS (
    UPDATE products p
    SET stock = p.stock + b.quantity
    FROM shelf JOIN back b USING (sku)
    WHERE p.sku = shelf.sku
), announced AS (
    INSERT INTO webhook_deliveries (endpoint_id, type, order_id, order_status)
    SELECT e.id, 'order.cancelled', c.id, 'cancelled'
    FROM webhook_endpoints e CROSS JOIN cancelled c
    WHERE e.enabled AND 'order.cancelled' = ANY (e.types)
)
SELECT n FROM declined

-- name: keep_waiting
-- payment id, transaction id, client secret, the statuses that a payment may begin to wait from.
-- Returns nothing for a payment that waits already, or has an outcome.
UPDATE payments
SET status = 'requires_action', transaction_id = $2, client_secret = $3, token = NULL,
    updated_at = now()
WHERE id = $1 AND status = ANY($4::text[])
RETURNING id

-- name: rest_again
-- payment id. One that waits was asked about just now, and waits still.
UPDATE payments SET updated_at = now() WHERE id = $1 AND status = 'requires_action'

-- name: lock_unless_charging
-- payment id, seconds. The payment, locked, if it is open and no charge began within the seconds.
SELECT id
FROM payments
WHERE id = $1
  AND (status IN ('pending', 'requires_action')
       OR status = 'processing' AND updated_at < now() - make_interval(secs => $2))
FOR UPDATE

-- name: record_stray_charge
-- payment id, transaction id. Why the payment failed, if it did; returns nothing if the charge is
-- the payment's own, or was recorded before.
INSERT INTO stray_charges (payment_id, transaction_id)
SELECT id, $2 FROM payments WHERE id = $1 AND transaction_id IS DISTINCT FROM $2
ON CONFLICT (payment_id, transaction_id) DO NOTHING
RETURNING (SELECT decline_reason FROM payments WHERE id = $1)
