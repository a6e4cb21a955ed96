-- name: page_of_orders
-- id to go on after, id to end before, seconds, how many. The next orders by their ids, and which
-- of them were placed so long ago.
SELECT id, created_at < now() - make_interval(secs => $3) AS old
FROM orders
WHERE id > $1 AND id < $2
ORDER BY id
LIMIT $4

-- name: why_kept
-- order ids, seconds, the statuses that an order ends in. Why each order has not come to its end
-- yet, in the words of ended.Reason, or in its status; null where it has, so many seconds ago.
SELECT
    o.id, p.id AS payment_id,
    CASE
        WHEN o.status <> ALL($3::text[]) THEN o.status
        WHEN o.notified_at IS NULL OR EXISTS (
            SELECT FROM order_events e WHERE e.order_id = o.id AND e.told_at IS NULL
        ) THEN 'its customer is not told'
        WHEN EXISTS (
            SELECT FROM refunds r
            WHERE r.order_id = o.id AND r.status IN ('pending', 'processing')
        ) THEN 'a refund is under way'
        WHEN p.status NOT IN ('completed', 'failed', 'refunded')
          OR o.status = 'cancelled' AND p.status = 'completed' THEN 'its money is not given back'
        WHEN EXISTS (
            SELECT FROM stray_charges s WHERE s.payment_id = p.id AND s.refunded_at IS NULL
        ) THEN 'a stray charge is not given back'
        WHEN EXISTS (
            SELECT FROM book_differences d WHERE d.payment_id = p.id AND d.settled_at IS NULL
        ) THEN 'the books differ'
        WHEN EXISTS (
            SELECT FROM gateway_events g WHERE g.payment_id = p.id AND g.handled_at IS NULL
        ) THEN 'an event of the gateway is not done'
        WHEN EXISTS (
            SELECT FROM webhook_deliveries w WHERE w.order_id = o.id AND w.due_at IS NOT NULL
        ) THEN 'a webhook is not delivered'
        WHEN greatest(
            o.updated_at, p.updated_at,
            (SELECT max(r.updated_at) FROM refunds r WHERE r.order_id = o.id),
            (SELECT max(e.at) FROM order_events e WHERE e.order_id = o.id)
        ) > now() - make_interval(secs => $2) THEN 'it changed since'
    END AS kept
FROM orders o
JOIN payments p ON p.order_id = o.id
WHERE o.id = ANY($1)
ORDER BY o.id

-- name: names_of_jobs
-- order ids. What the jobs of each order are named after.
SELECT
    o.id, coalesce(o.external_id, o.id::text) AS order_key,
    coalesce(p.external_id, p.id::text) AS payment_key, p.method, p.amount,
    ARRAY(SELECT r.id FROM refunds r WHERE r.order_id = o.id) AS refunds,
    ARRAY(
        SELECT ARRAY[g.gateway, g.event_id] FROM gateway_events g WHERE g.payment_id = p.id
    ) AS events
FROM orders o
JOIN payments p ON p.order_id = o.id
WHERE o.id = ANY($1)
ORDER BY o.id

-- name: lock_payments
-- payment ids. Whoever gives money back, or cancels, locks them first.
SELECT id FROM payments WHERE id = ANY($1) ORDER BY id FOR UPDATE

-- name: count_orders
-- order ids, payment ids. How many rows of each table `delete_orders` would delete.
SELECT
    (SELECT count(*) FROM orders WHERE id = ANY($1)) AS orders,
    (SELECT count(*) FROM order_items WHERE order_id = ANY($1)) AS order_items,
    (SELECT count(*) FROM payments WHERE id = ANY($2)) AS payments,
    (SELECT count(*) FROM stray_charges WHERE payment_id = ANY($2)) AS stray_charges,
    (SELECT count(*) FROM refunds WHERE order_id = ANY($1)) AS refunds,
    (SELECT count(*) FROM notifications WHERE order_id = ANY($1)) AS notifications,
    (SELECT count(*) FROM order_events WHERE order_id = ANY($1)) AS order_events,
    (SELECT count(*) FROM event_messages m JOIN order_events e ON e.id = m.event_id
     WHERE e.order_id = ANY($1)) AS event_messages,
    (SELECT count(*) FROM idempotency_keys k JOIN orders o USING (user_id)
     WHERE o.id = ANY($1) AND k.answer ->> 'orderId' = o.id::text) AS idempotency_keys,
    (SELECT count(*) FROM gateway_events WHERE payment_id = ANY($2)) AS gateway_events,
    (SELECT count(*) FROM book_differences WHERE payment_id = ANY($2)) AS book_differences,
    (SELECT count(*) FROM job_failures WHERE order_id = ANY($1)) AS job_failures

-- name: delete_orders
-- order ids, payment ids. All that hangs on the orders goes with them, but for the audit log: how
-- many rows of each table.
WITH gone_keys AS (
    DELETE FROM idempotency_keys k USING orders o
    WHERE o.id = ANY($1) AND k.user_id = o.user_id AND k.answer ->> 'orderId' = o.id::text
    RETURNING 1
), gone_messages AS (
    DELETE FROM event_messages m USING order_events e
    WHERE e.order_id = ANY($1) AND m.event_id = e.id
    RETURNING 1
), gone_events AS (
    DELETE FROM order_events WHERE order_id = ANY($1) RETURNING 1
), gone_notifications AS (
    DELETE FROM notifications WHERE order_id = ANY($1) RETURNING 1
), gone_refunds AS (
    DELETE FROM refunds WHERE order_id = ANY($1) RETURNING 1
), gone_strays AS (
    DELETE FROM stray_charges WHERE payment_id = ANY($2) RETURNING 1
), gone_differences AS (
    DELETE FROM book_differences WHERE payment_id = ANY($2) RETURNING 1
), gone_gateway_events AS (
    DELETE FROM gateway_events WHERE payment_id = ANY($2) RETURNING 1
), gone_failures AS (
    DELETE FROM job_failures WHERE order_id = ANY($1) RETURNING 1
), gone_payments AS (
    DELETE FROM payments WHERE id = ANY($2) RETURNING 1
), gone_items AS (
    DELETE FROM order_items WHERE order_id = ANY($1) RETURNING 1
), gone_orders AS (
    DELETE FROM orders WHERE id = ANY($1) RETURNING 1
)
SELECT
    (SELECT count(*) FROM gone_orders) AS orders,
    (SELECT count(*) FROM gone_items) AS order_items,
    (SELECT count(*) FROM gone_payments) AS payments,
    (SELECT count(*) FROM gone_strays) AS stray_charges,
    (SELECT count(*) FROM gone_refunds) AS refunds,
    (SELECT count(*) FROM gone_notifications) AS notifications,
    (SELECT count(*) FROM gone_events) AS order_events,
    (SELECT count(*) FROM gone_messages) AS event_messages,
    (SELECT count(*) FROM gone_keys) AS idempotency_keys,
    (SELECT count(*) FROM gone_gateway_events) AS gateway_events,
    (SELECT count(*) FROM gone_differences) AS book_differences,
    (SELECT count(*) FROM gone_failures) AS job_failures

-- name: known_orders
-- order ids. Those of them that there are.
SELECT id FROM orders WHERE id = ANY($1::uuid[])
