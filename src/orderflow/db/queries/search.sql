-- name: search_orders
-- ids, e-mail in small letters, any other text, how many of each kind, ids of orders and payments
-- that jobs of this id are about. By which of its ids each order was found, the newest order first.
-- Of the two whose filters are read, what is looked for can be one only.
WITH found AS (
    SELECT 'order id' AS found_by, id FROM orders WHERE id = ANY($1::uuid[])
    UNION ALL
    SELECT 'payment id', order_id FROM payments WHERE id = ANY($1::uuid[])
    UNION ALL
    -- By itself, or a plan may hope to meet enough of them soon, the newest first, without a filter.
    (SELECT 'e-mail', id
     FROM (SELECT id FROM orders WHERE $2 LIKE '%@%' AND lower(email) = $2 OFFSET 0) AS o
     ORDER BY id DESC LIMIT $4)
    UNION ALL
    (SELECT 'user id', id FROM orders WHERE user_id = $3 ORDER BY id DESC LIMIT $4)
    UNION ALL
    SELECT 'transaction id', order_id FROM payments
    WHERE $2 NOT LIKE '%@%' AND transaction_id = $3
    UNION ALL
    (SELECT 'transaction id', p.order_id
     FROM stray_charges s JOIN payments p ON p.id = s.payment_id
     WHERE s.transaction_id = $3 LIMIT $4)
    UNION ALL
    SELECT 'job id', id FROM orders WHERE id = ANY($5::uuid[])
    UNION ALL
    SELECT 'job id', order_id FROM payments WHERE id = ANY($5::uuid[])
    UNION ALL
    (SELECT 'job id', order_id FROM job_failures
     WHERE job_id = $3 AND order_id IS NOT NULL ORDER BY id DESC LIMIT $4)
)
SELECT DISTINCT ON (o.id)
    f.found_by, o.id, o.external_id, o.user_id, o.source, o.status, o.total, o.currency,
    o.created_at, o.updated_at, p.id AS payment_id, p.status AS payment_status
FROM found f JOIN orders o USING (id) JOIN payments p ON p.order_id = o.id
ORDER BY o.id DESC, f.found_by
LIMIT $4

-- name: order_in_full
-- order id
SELECT
    o.id, o.external_id, o.user_id, o.source, o.status, o.total, o.currency, o.created_at,
    o.updated_at, o.notified_at,
    p.id AS payment_id, p.external_id AS payment_external_id, p.method, p.status AS payment_status,
    p.transaction_id, p.decline_reason, p.created_at AS payment_created_at,
    p.updated_at AS payment_updated_at
FROM orders o JOIN payments p ON p.order_id = o.id
WHERE o.id = $1

-- name: notifications_of_order
-- order id
SELECT kind, channel, claimed_until, sent_at, reference, refused_reason
FROM notifications
WHERE order_id = $1
UNION ALL
SELECT e.kind, m.channel, m.claimed_until, m.sent_at, m.reference, m.refused_reason
FROM order_events e JOIN event_messages m ON m.event_id = e.id
WHERE e.order_id = $1

-- name: story_events
-- order id
SELECT kind, at, told_at FROM order_events WHERE order_id = $1

-- name: story_refunds
-- order id
SELECT id, cause, amount, currency, status, transaction_id, gateway_id, decline_reason,
       created_at, updated_at
FROM refunds
WHERE order_id = $1

-- name: stray_charges_of_payment
-- payment id
SELECT transaction_id, noticed_at, refunded_at FROM stray_charges WHERE payment_id = $1
