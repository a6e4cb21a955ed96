-- name: lock_idempotency_key
-- key hash. False while another transaction works on the same key; a death lets go of it.
SELECT pg_try_advisory_xact_lock($1) AS mine

-- name: find_idempotency_key
-- user id, key
SELECT fingerprint, answer
FROM idempotency_keys
WHERE user_id = $1 AND key = $2 AND expires_at > now()

-- name: save_idempotency_key
-- user id, key, fingerprint, answer, seconds to live. An expired one is replaced.
INSERT INTO idempotency_keys AS k (user_id, key, fingerprint, answer, expires_at)
VALUES ($1, $2, $3, $4, now() + make_interval(secs => $5))
ON CONFLICT (user_id, key) DO UPDATE
SET fingerprint = excluded.fingerprint, answer = excluded.answer, expires_at = excluded.expires_at
WHERE k.expires_at <= now()
RETURNING key

-- name: purge_idempotency_keys
-- how many at most
WITH expired AS (
    SELECT user_id, key FROM idempotency_keys WHERE expires_at <= now() LIMIT $1
)
DELETE FROM idempotency_keys k USING expired e
WHERE k.user_id = e.user_id AND k.key = e.key AND k.expires_at <= now()
RETURNING k.key

-- name: find_products
-- skus
SELECT sku, name, price, currency, stock IS NOT NULL AS counted
FROM products
WHERE sku = ANY($1::text[])

-- name: take_stock
-- skus, quantities. Returns the skus that had enough. Rows are locked in the order of their sku,
-- as return_stock does, so that two orders cannot wait for each other.
WITH wanted AS (
    SELECT * FROM unnest($1::text[], $2::integer[]) AS w(sku, quantity)
), locked AS (
    SELECT p.sku, w.quantity
    FROM products p JOIN wanted w USING (sku)
    ORDER BY p.sku
    FOR UPDATE OF p
)
UPDATE products p
SET stock = p.stock - l.quantity
FROM locked l
WHERE p.sku = l.sku AND p.stock >= l.quantity
RETURNING p.sku

-- name: insert_order
-- order id, user id, total, currency, email, phone, shipping address,
-- skus, names, quantities, unit prices, whether each took stock,
-- payment id, method, token
WITH new_order AS (
    INSERT INTO orders (id, source, user_id, status, total, currency, email, phone, shipping_address)
    VALUES ($1, 'checkout', $2, 'pending', $3, $4, $5, $6, $7)
    RETURNING id, created_at
), new_items AS (
    INSERT INTO order_items (order_id, line, sku, name, quantity, unit_price, took_stock)
    SELECT $1, i.line, i.sku, i.name, i.quantity, i.unit_price, i.took_stock
    FROM unnest($8::text[], $9::text[], $10::integer[], $11::numeric[], $12::boolean[])
        WITH ORDINALITY AS i(sku, name, quantity, unit_price, took_stock, line)
)
INSERT INTO payments (id, order_id, method, token, amount, currency, status)
SELECT $13, id, $14, $15, $3, $4, 'pending' FROM new_order
