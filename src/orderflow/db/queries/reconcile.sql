-- name: lock_reconciler
-- False while another one runs. The number stands for it; a death lets go of the lock.
SELECT pg_try_advisory_xact_lock(7237970109966541) AS mine

-- name: unsettled_orders
-- created at and id to go on after, seconds of rest before an order counts, how many.
-- Oldest first. An order is unsettled until its customer was told how it ended.
SELECT
    o.id, o.external_id, o.user_id, o.status, o.created_at,
    p.id AS payment_id, p.external_id AS payment_external_id, p.method, p.amount, p.decline_reason
FROM orders o
JOIN payments p ON p.order_id = o.id
WHERE o.notified_at IS NULL
  AND (o.created_at, o.id) > ($1::timestamptz, $2::uuid)
  AND o.updated_at < now() - make_interval(secs => $3)
ORDER BY o.created_at, o.id
LIMIT $4
