-- name: lock_reconciler
-- False while another one runs. The number stands for it; a death lets go of the lock.
SELECT pg_try_advisory_xact_lock(7237970109966541) AS mine

-- name: end_of_page
-- created at and id to go on after, how many. The last unsettled order of a page of that size;
-- nothing if there are fewer. An order is unsettled until its customer was told how it ended.
SELECT created_at, id
FROM orders
WHERE notified_at IS NULL AND (created_at, id) > ($1::timestamptz, $2::uuid)
ORDER BY created_at, id
OFFSET $3::bigint - 1
LIMIT 1

-- name: unsettled_orders
-- created at and id to go on after, those of the page's last one, seconds of rest before an order
-- counts, statuses. Oldest first. So a page costs as much, however few have one of the statuses.
SELECT
    o.id, o.external_id, o.user_id, o.status, now() - o.created_at AS age,
    p.id AS payment_id, p.external_id AS payment_external_id, p.status AS payment_status,
    p.method, p.amount, p.currency, p.decline_reason, now() - p.updated_at AS payment_rest
FROM orders o
JOIN payments p ON p.order_id = o.id
WHERE o.notified_at IS NULL
  AND (o.created_at, o.id) > ($1::timestamptz, $2::uuid)
  AND (o.created_at, o.id) <= ($3::timestamptz, $4::uuid)
  AND o.updated_at < now() - make_interval(secs => $5)
  AND o.status = ANY($6::text[])
ORDER BY o.created_at, o.id

-- name: moved_on
-- arrays: order id, its status and that of its payment as they were read. Which are not so any more.
SELECT o.id
FROM unnest($1::uuid[], $2::text[], $3::text[]) AS r(id, status, payment_status)
JOIN orders o USING (id)
JOIN payments p ON p.order_id = o.id
WHERE o.id = ANY($1) AND (o.status, p.status) <> (r.status, r.payment_status)

-- name: oldest_unsettled
-- Seconds since the oldest order was placed whose customer was not told yet; nothing if all were.
SELECT extract(epoch FROM now() - created_at)::float AS age_s
FROM orders
WHERE notified_at IS NULL
ORDER BY created_at, id
LIMIT 1
