-- name: lock_payment_of
-- order id. Before its order, as charging locks them.
SELECT id FROM payments WHERE order_id = $1 FOR UPDATE

-- name: payment_of
-- order id. Asked by itself, once the payment is locked: what others wrote meanwhile is in the sum.
SELECT
    id, external_id, method, amount, currency, status, transaction_id, decline_reason,
    coalesce((
        SELECT sum(r.amount) FROM refunds r
        WHERE r.payment_id = p.id AND r.status NOT IN ('failed', 'void')
          AND r.transaction_id IS NOT DISTINCT FROM p.transaction_id
    ), 0) AS given_back
FROM payments p
WHERE order_id = $1

-- name: lock_payment
-- payment id
SELECT id FROM payments WHERE id = $1 FOR UPDATE

-- name: lock_order
-- order id
SELECT id, external_id, user_id, status FROM orders WHERE id = $1 FOR UPDATE

-- name: cancel_order
-- order id, event id, details, the statuses that an order may be cancelled from. The stock that it
-- took goes back. What is told of it now is the event, so the order counts as told.
WITH cancelled AS (
    UPDATE orders
    SET status = 'cancelled', notified_at = coalesce(notified_at, now()), updated_at = now()
    WHERE id = $1 AND status = ANY($4::text[])
    RETURNING id
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
INSERT INTO order_events (id, order_id, kind, details)
SELECT $2, id, 'order-cancelled', $3 FROM cancelled
RETURNING id

-- name: fail_payment
-- payment id, reason, the statuses that a payment may fail from
UPDATE payments
SET status = 'failed', decline_reason = $2, transaction_id = NULL, token = NULL,
    client_secret = NULL, updated_at = now()
WHERE id = $1 AND status = ANY($3::text[])

-- name: close_cash_payment
-- payment id. Nothing was charged, and nobody will pay any more.
UPDATE payments SET status = 'refunded', updated_at = now() WHERE id = $1 AND status = 'completed'

-- name: advance_order
-- order id, the status that it goes to, the statuses it may come from, event id, kind, details.
-- Returns nothing if it is in none of them.
WITH advanced AS (
    UPDATE orders SET status = $2, updated_at = now()
    WHERE id = $1 AND status = ANY($3::text[])
    RETURNING id
), announced AS (
    INSERT INTO webhook_deliveries (endpoint_id, type, order_id, order_status)
    SELECT e.id, 'order.' || $2, a.id, $2
    FROM webhook_endpoints e CROSS JOIN advanced a
    WHERE e.enabled AND 'order.' || $2 = ANY (e.types)
)
INSERT INTO order_events (id, order_id, kind, details)
SELECT $4, id, $5, $6 FROM advanced
RETURNING id

-- name: events_of_order
-- order id. The oldest first.
SELECT id, kind, refund_id, details, at, told_at
FROM order_events
WHERE order_id = $1
ORDER BY at, id

-- name: order_and_event
-- order id, kind. The details of the event, null where there was none.
SELECT o.id, o.external_id, o.user_id, o.status, e.details
FROM orders o
LEFT JOIN order_events e ON e.order_id = o.id AND e.kind = $2 AND e.refund_id IS NULL
WHERE o.id = $1

-- name: claim_event
-- order id, kind, refund id or null, the channels there are, seconds that a claim lasts. The order
-- with the event, and the channels of which this call has the claim.
WITH event AS MATERIALIZED (
    SELECT * FROM order_events
    WHERE order_id = $1 AND kind = $2 AND refund_id IS NOT DISTINCT FROM $3::uuid
), claimed AS (
    INSERT INTO event_messages AS m (event_id, channel, recipient, claimed_until)
    SELECT e.id, c.channel, c.recipient, now() + make_interval(secs => $5)
    FROM event e
    JOIN orders o ON o.id = e.order_id
    CROSS JOIN LATERAL (VALUES ('email', o.email), ('sms', o.phone)) AS c(channel, recipient)
    WHERE c.channel = ANY($4::text[]) AND c.recipient IS NOT NULL
    ON CONFLICT (event_id, channel) DO UPDATE
    SET recipient = excluded.recipient, claimed_until = excluded.claimed_until
    WHERE m.sent_at IS NULL AND m.refused_reason IS NULL AND m.claimed_until <= now()
    RETURNING channel
)
SELECT
    d.*, e.id AS event_id, e.at AS event_at, e.details AS event_details, e.refund_id,
    r.amount AS refund_amount, ARRAY(SELECT channel FROM claimed) AS claimed
FROM event e
JOIN order_details d ON d.id = e.order_id
LEFT JOIN refunds r
    ON r.id = coalesce(e.refund_id, (e.details ->> 'refund')::uuid)

-- name: find_event_message
-- event id, channel
SELECT sent_at, refused_reason FROM event_messages WHERE event_id = $1 AND channel = $2

-- name: record_event_sent
-- event id, channel, reference of the sender, whether the customer now knows it all
WITH sent AS (
    UPDATE event_messages SET sent_at = now(), reference = $3
    WHERE event_id = $1 AND channel = $2
)
UPDATE order_events SET told_at = coalesce(told_at, now()) WHERE id = $1 AND $4

-- name: record_event_refused
-- event id, channel, reason
UPDATE event_messages SET refused_reason = $3 WHERE event_id = $1 AND channel = $2

-- name: release_event_messages
-- event id, channels. The next attempt need not wait for the claims to end.
UPDATE event_messages
SET claimed_until = now()
WHERE event_id = $1 AND channel = ANY($2::text[]) AND sent_at IS NULL

-- name: mark_event_told
-- event id
UPDATE order_events SET told_at = now() WHERE id = $1 AND told_at IS NULL

-- name: untold_events
-- at and id to go on after, how many, seconds of rest before one counts. Oldest first.
SELECT
    o.id, e.id AS subject, e.at AS created_at, e.kind, e.refund_id, o.external_id, o.user_id,
    o.status, now() - e.at AS age, p.status AS payment_status
FROM order_events e
JOIN orders o ON o.id = e.order_id
JOIN payments p ON p.order_id = o.id
WHERE e.told_at IS NULL
  AND (e.at, e.id) > ($1::timestamptz, $2::uuid)
  AND e.at < now() - make_interval(secs => $4)
ORDER BY e.at, e.id
LIMIT $3
