-- name: place_orders
-- arrays: order id, payment id, user id, idempotency key or null, fingerprint, seconds that the key
-- lives, lines as JSON [[sku, quantity], …], method, token, email, phone, shipping address as JSON,
-- languages by space; then the largest total. Of each order it says why it was not placed, or else
-- that it was.
-- Nothing of an order is written unless all of it is. Where the stock of one product does not do
-- for the whole batch, the check of that column refuses the statement.
WITH asked AS (
    SELECT *
    FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::bytea[], $6::integer[],
                $7::text[], $8::text[], $9::text[], $10::text[], $11::text[], $12::text[],
                $13::text[])
        WITH ORDINALITY AS a(order_id, payment_id, user_id, key, fingerprint, ttl_s,
                             lines, method, token, email, phone, shipping_address, languages, n)
), lines AS MATERIALIZED (
    SELECT
        a.n, a.order_id, l.line, l.pair ->> 0 AS sku, (l.pair ->> 1)::integer AS quantity,
        p.name, p.price, p.currency, p.stock
    FROM asked a
    CROSS JOIN json_array_elements(a.lines::json) WITH ORDINALITY AS l(pair, line)
    LEFT JOIN products p ON p.sku = l.pair ->> 0
), priced AS MATERIALIZED (
    SELECT
        n,
        sum(price * quantity) AS total,
        array_agg(sku ORDER BY line) FILTER (WHERE name IS NULL) AS unknown,
        array_agg(DISTINCT currency) FILTER (WHERE name IS NOT NULL) AS currencies,
        min(sku) FILTER (WHERE stock < quantity) AS short
    FROM lines
    GROUP BY n
), good AS (
    SELECT a.*, p.total::numeric(12, 2) AS total, p.currencies[1] AS currency
    FROM asked a JOIN priced p USING (n)
    WHERE p.unknown IS NULL AND cardinality(p.currencies) = 1 AND p.total <= $14
      AND p.short IS NULL
), kept AS (
    -- In the order of the keys, so that two batches cannot wait for each other. One that another
    -- request has written, or is writing, stays as it is; an expired one is replaced.
    INSERT INTO idempotency_keys AS k (user_id, key, fingerprint, answer, expires_at)
    SELECT
        user_id, key, fingerprint,
        jsonb_build_object('orderId', order_id, 'paymentId', payment_id, 'status', 'pending',
                           'total', total::text, 'currency', currency),
        now() + make_interval(secs => ttl_s)
    FROM good
    WHERE key IS NOT NULL
    ORDER BY user_id, key
    ON CONFLICT (user_id, key) DO UPDATE
    SET fingerprint = excluded.fingerprint, answer = excluded.answer,
        expires_at = excluded.expires_at
    WHERE k.expires_at <= now()
    RETURNING user_id, key
), placed AS MATERIALIZED (
    SELECT * FROM good g
    WHERE key IS NULL
       OR EXISTS (SELECT 1 FROM kept k WHERE k.user_id = g.user_id AND k.key = g.key)
), sold AS MATERIALIZED (
    SELECT l.* FROM lines l JOIN placed USING (n)
), wanted AS (
    SELECT sku, sum(quantity) AS quantity FROM sold WHERE stock IS NOT NULL GROUP BY sku
), locked AS (
    -- In the order of their sku, as a declined payment gives them back.
    SELECT sku FROM products
    WHERE sku = ANY(ARRAY(SELECT sku FROM wanted))
    ORDER BY sku
    FOR UPDATE
), taken AS (
    UPDATE products p
    SET stock = p.stock - w.quantity
    FROM locked JOIN wanted w USING (sku)
    WHERE p.sku = locked.sku
), new_orders AS (
    INSERT INTO orders (id, source, user_id, status, total, currency, email, phone, shipping_address,
                        languages)
    SELECT order_id, 'checkout', user_id, 'pending', total, currency, email, phone,
           shipping_address::jsonb, string_to_array(languages, ' ')
    FROM placed
), new_items AS (
    INSERT INTO order_items (order_id, line, sku, name, quantity, unit_price, took_stock)
    SELECT order_id, line, sku, name, quantity, price, stock IS NOT NULL FROM sold
), new_payments AS (
    INSERT INTO payments (id, order_id, method, token, amount, currency, status)
    SELECT payment_id, order_id, method, token, total, currency, 'pending' FROM placed
)
SELECT p.n, p.total, p.unknown, p.currencies, p.short, placed.n IS NOT NULL AS placed
FROM priced p LEFT JOIN placed USING (n)

-- name: find_idempotency_key
-- arrays: user id, key
SELECT a.n, k.fingerprint, k.answer
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS a(user_id, key, n)
JOIN idempotency_keys k USING (user_id, key)
WHERE k.user_id = ANY($1) AND k.key = ANY($2) AND k.expires_at > now()

-- name: purge_idempotency_keys
-- how many at most
WITH expired AS (
    SELECT user_id, key FROM idempotency_keys WHERE expires_at <= now() LIMIT $1
)
DELETE FROM idempotency_keys k USING expired e
WHERE k.user_id = e.user_id AND k.key = e.key AND k.expires_at <= now()
RETURNING k.key

-- name: find_short
-- skus, quantities. The first of them that there are not enough of.
SELECT p.sku
FROM unnest($1::text[], $2::integer[]) AS w(sku, quantity) JOIN products p USING (sku)
WHERE p.stock < w.quantity
ORDER BY p.sku
LIMIT 1

-- name: count_overdue
-- seconds, how many to count at most.
-- How many orders wait for their payment for longer than that. Only the youngest of those are
-- looked at, of one hour: it costs the same when millions wait, and what waits for a mail only, or
-- was stuck before for a reason of its own, is not taken for a full queue.
SELECT count(*) AS overdue
FROM (
    SELECT id, status
    FROM orders
    WHERE notified_at IS NULL
      AND created_at < now() - make_interval(secs => $1)
      AND created_at > now() - make_interval(secs => $1, hours => 1)
    ORDER BY created_at DESC, id DESC
    LIMIT 10 * $2
) AS last
WHERE status IN ('pending', 'processing')
  -- One that waits for its customer is not behind.
  AND NOT EXISTS (
      SELECT FROM payments p WHERE p.order_id = last.id AND p.status = 'requires_action')
