-- name: place_order
-- $1 order id, $2 payment id, $3 user id, $4 idempotency key, $5 fingerprint, $6 seconds to live,
-- $7 email, $8 phone, $9 shipping address, $10 method, $11 token, $12 skus, $13 quantities.
-- One row where the order was placed; none where the key is taken or a product is not known. Too
-- little stock breaks the check of products.stock, and with it the whole statement.
WITH wanted AS (
    SELECT * FROM unnest($12::text[], $13::integer[]) WITH ORDINALITY AS w(sku, quantity, line)
), priced AS (
    -- In the order of their sku, so that two orders cannot wait for each other.
    SELECT p.sku, p.name, p.price, p.currency, p.stock, w.quantity, w.line
    FROM wanted w JOIN products p ON p.sku = w.sku
    ORDER BY p.sku
    FOR NO KEY UPDATE OF p
), sum AS (
    SELECT sum(price * quantity) AS total, min(currency) AS currency
    FROM priced
    HAVING count(*) = cardinality($12::text[]) AND min(currency) = max(currency)
), saved AS (
    INSERT INTO idempotency_keys AS k (user_id, key, fingerprint, answer, expires_at)
    SELECT $3, $4, $5, jsonb_build_object(
        'orderId', $1::uuid, 'paymentId', $2::uuid, 'status', 'pending',
        'total', total::text, 'currency', currency
    ), now() + make_interval(secs => $6)
    FROM sum
    ON CONFLICT (user_id, key) DO UPDATE
    SET fingerprint = excluded.fingerprint, answer = excluded.answer, expires_at = excluded.expires_at
    WHERE k.expires_at <= now()
    RETURNING key
), placed AS (
    SELECT total, currency FROM sum, saved
), taken AS (
    UPDATE products p
    SET stock = p.stock - i.quantity
    FROM priced i, placed
    WHERE p.sku = i.sku AND p.stock IS NOT NULL
), new_order AS (
    INSERT INTO orders (id, source, user_id, status, total, currency, email, phone, shipping_address)
    SELECT $1, 'checkout', $3, 'pending', total, currency, $7, $8, $9 FROM placed
), new_items AS (
    INSERT INTO order_items (order_id, line, sku, name, quantity, unit_price, took_stock)
    SELECT $1, i.line, i.sku, i.name, i.quantity, i.price, i.stock IS NOT NULL
    FROM priced i, placed
), new_payment AS (
    INSERT INTO payments (id, order_id, method, token, amount, currency, status)
    SELECT $2, $1, $10, $11, total, currency, 'pending' FROM placed
)
SELECT total::text, currency FROM placed

-- name: place_orders
-- Arrays with one entry an order: $1 order ids, $2 payment ids, $3 user ids, $4 keys,
-- $5 fingerprints, $7 emails, $8 phones, $9 shipping addresses, $10 methods, $11 tokens, $12 how
-- many lines each has. $6 seconds to live. Arrays with one entry a line of an order: $13 numbers of
-- the orders, from 1, $14 numbers of the lines, $15 skus, $16 quantities.
-- A row for each order that was placed, with its number; see place_order.
WITH asked AS (
    SELECT * FROM unnest(
        $1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::bytea[], $7::text[], $8::text[],
        $9::jsonb[], $10::text[], $11::text[], $12::integer[]
    ) WITH ORDINALITY AS a(
        id, payment_id, user_id, key, fingerprint, email, phone, shipping_address, method, token,
        lines, number
    )
), wanted AS (
    SELECT * FROM unnest($13::integer[], $14::integer[], $15::text[], $16::integer[])
        AS w(number, line, sku, quantity)
), known AS (
    SELECT sku, name, price, currency, stock
    FROM products
    WHERE sku = ANY($15::text[])
    ORDER BY sku
    FOR NO KEY UPDATE
), priced AS (
    SELECT w.number, w.line, w.quantity, k.sku, k.name, k.price, k.currency, k.stock
    FROM wanted w JOIN known k USING (sku)
), sum AS (
    SELECT a.number, s.total, s.currency
    FROM asked a JOIN (
        SELECT number, count(*) AS lines, sum(price * quantity) AS total,
            min(currency) AS currency, max(currency) AS other_currency
        FROM priced GROUP BY number
    ) s USING (number)
    WHERE s.lines = a.lines AND s.currency = s.other_currency
), saved AS (
    INSERT INTO idempotency_keys AS k (user_id, key, fingerprint, answer, expires_at)
    SELECT a.user_id, a.key, a.fingerprint, jsonb_build_object(
        'orderId', a.id, 'paymentId', a.payment_id, 'status', 'pending',
        'total', s.total::text, 'currency', s.currency
    ), now() + make_interval(secs => $6)
    FROM asked a JOIN sum s USING (number)
    ORDER BY a.user_id, a.key
    ON CONFLICT (user_id, key) DO UPDATE
    SET fingerprint = excluded.fingerprint, answer = excluded.answer, expires_at = excluded.expires_at
    WHERE k.expires_at <= now()
    RETURNING user_id, key
), placed AS (
    SELECT a.*, s.total, s.currency
    FROM asked a JOIN sum s USING (number) JOIN saved USING (user_id, key)
), taken AS (
    UPDATE products p
    SET stock = p.stock - t.quantity
    FROM (
        SELECT i.sku, sum(i.quantity) AS quantity
        FROM priced i JOIN placed USING (number)
        GROUP BY i.sku
    ) t
    WHERE p.sku = t.sku AND p.stock IS NOT NULL
), new_orders AS (
    INSERT INTO orders (id, source, user_id, status, total, currency, email, phone, shipping_address)
    SELECT id, 'checkout', user_id, 'pending', total, currency, email, phone, shipping_address
    FROM placed
), new_items AS (
    INSERT INTO order_items (order_id, line, sku, name, quantity, unit_price, took_stock)
    SELECT o.id, i.line, i.sku, i.name, i.quantity, i.price, i.stock IS NOT NULL
    FROM priced i JOIN placed o USING (number)
), new_payments AS (
    INSERT INTO payments (id, order_id, method, token, amount, currency, status)
    SELECT payment_id, id, method, token, total, currency, 'pending' FROM placed
)
SELECT number::integer, total::text, currency FROM placed

-- name: find_key
-- user id, key
SELECT fingerprint, answer FROM idempotency_keys
WHERE user_id = $1 AND key = $2 AND expires_at > now()

-- name: find_skus
-- skus
SELECT sku FROM products WHERE sku = ANY($1::text[])
