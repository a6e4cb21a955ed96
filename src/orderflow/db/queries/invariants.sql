-- name: invariants
-- seconds that an order may be open, how many orders to look at, the id that one placed now could
-- have, whether customers may take longer. The number of violations by invariant. The first two read small indexes; to compare orders
-- with their payments, the primary key gives those of our checkout from the newest on. The ids of
-- adopted orders do not sort by age.
WITH newest AS (
    SELECT o.status AS order_status, p.status AS payment_status, p.method, p.transaction_id,
           p.id AS payment_id
    FROM (SELECT id, status FROM orders WHERE id <= $3 ORDER BY id DESC LIMIT $2) o
    -- One by one, so that it is by the key of each: a join may read all payments there are.
    CROSS JOIN LATERAL (
        SELECT id, status, method, transaction_id FROM payments WHERE order_id = o.id LIMIT 1
    ) p
)
SELECT 'orders_past_their_time' AS invariant, count(*) AS violations
FROM (
    SELECT id, status FROM orders
    WHERE notified_at IS NULL AND created_at < now() - make_interval(secs => $1)
    ORDER BY created_at, id
    LIMIT $2
) late
WHERE status IN ('pending', 'processing')
  AND NOT ($4 AND EXISTS (
      SELECT FROM payments p WHERE p.order_id = late.id AND p.status = 'requires_action'))
UNION ALL
SELECT 'stray_charges', count(*)
FROM (
    SELECT FROM stray_charges c
    WHERE refunded_at IS NULL AND NOT EXISTS (
        SELECT FROM refunds r
        WHERE r.payment_id = c.payment_id AND r.transaction_id = c.transaction_id
          AND r.status IN ('pending', 'processing')
    )
    LIMIT $2
) stray
UNION ALL
SELECT 'events_of_unknown_payments', count(*)
FROM (SELECT FROM gateway_events WHERE handled_at IS NULL AND done IS NOT NULL LIMIT $2) kept
UNION ALL
SELECT 'confirmed_without_payment', count(*)
FROM newest
WHERE order_status IN ('confirmed', 'shipped', 'delivered')
  AND (payment_status NOT IN ('completed', 'refunded')
       OR method <> 'cash' AND transaction_id IS NULL)
UNION ALL
SELECT 'payment_without_order', count(*)
FROM newest
WHERE payment_status = 'completed'
  AND order_status NOT IN ('confirmed', 'shipped', 'delivered')
  AND NOT EXISTS (
      SELECT FROM refunds r
      WHERE r.payment_id = newest.payment_id AND r.status IN ('pending', 'processing')
  )
UNION ALL
SELECT 'refunded_too_much', count(*)
FROM (
    SELECT FROM (SELECT payment_id FROM refunds ORDER BY id DESC LIMIT $2) r
    JOIN payments p ON p.id = r.payment_id
    JOIN LATERAL (
        SELECT max(of_charge.amount) AS amount
        FROM (
            SELECT sum(amount) AS amount FROM refunds
            WHERE payment_id = p.id AND status NOT IN ('failed', 'void')
            GROUP BY transaction_id
        ) of_charge
    ) given ON given.amount > p.amount
) too_much
UNION ALL
SELECT 'refunds_past_their_time', count(*)
FROM (
    SELECT FROM refunds
    WHERE status IN ('pending', 'processing') AND created_at < now() - interval '1 day'
    LIMIT $2
) late
UNION ALL
SELECT 'events_not_told', count(*)
FROM (
    SELECT FROM order_events
    WHERE told_at IS NULL AND at < now() - interval '1 hour'
    LIMIT $2
) untold
