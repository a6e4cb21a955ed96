-- name: find_order
-- order id
SELECT * FROM order_details WHERE id = $1

-- name: list_orders
-- status or null, id to go on after or null, how many. Newest first.
SELECT * FROM order_details
WHERE ($1::text IS NULL OR status = $1) AND ($2::uuid IS NULL OR id < $2)
ORDER BY id DESC
LIMIT $3

-- name: list_orders_of_user
-- status or null, id to go on after or null, how many, user id. Newest first.
SELECT * FROM order_details
WHERE user_id = $4
  AND ($1::text IS NULL OR status = $1) AND ($2::uuid IS NULL OR id < $2)
ORDER BY id DESC
LIMIT $3

-- name: live_orders
-- array: order ids. How far each is, with the times that its rows know: its events but for those of
-- refunds, by kind; and its refunds, with how many steps they made and how many are still open.
-- Each row is found by itself, by LIMIT: asked for by `= ANY`, many would be compared with all ids.
SELECT
    a.n, o.*, p.*, e.events,
    r.refunds, r.steps AS refund_steps, r.open AS refunds_open, r.updated_at AS refunds_updated_at
FROM unnest($1::uuid[]) WITH ORDINALITY AS a(order_id, n)
CROSS JOIN LATERAL (
    SELECT id, user_id, status, created_at FROM orders WHERE id = a.order_id LIMIT 1
) o
CROSS JOIN LATERAL (
    SELECT status AS payment_status, decline_reason, updated_at AS payment_updated_at
    FROM payments
    WHERE order_id = a.order_id
    LIMIT 1
) p
CROSS JOIN LATERAL (
    SELECT jsonb_object_agg(kind, details || jsonb_build_object('at', at)) AS events
    FROM order_events
    WHERE order_id = a.order_id AND refund_id IS NULL
) e
CROSS JOIN LATERAL (
    SELECT
        jsonb_agg(
            jsonb_build_object('id', id, 'amount', amount::text, 'currency', currency,
                               'status', status, 'decline_reason', decline_reason)
            ORDER BY id
        ) AS refunds,
        count(*) + count(*) FILTER (WHERE status IN ('completed', 'failed', 'void')) AS steps,
        count(*) FILTER (WHERE status IN ('pending', 'processing')) AS open,
        max(updated_at) AS updated_at
    FROM refunds
    WHERE order_id = a.order_id
) r
