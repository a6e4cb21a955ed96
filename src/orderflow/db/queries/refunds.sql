-- name: add_refund
-- id, order id, payment id, cause, transaction id or null, amount, currency, idempotency key or
-- null, what was asked for or null for all that is left
INSERT INTO refunds (id, order_id, payment_id, cause, transaction_id, amount, currency,
                     idempotency_key, asked)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
RETURNING *

-- name: find_refund_by_key
-- payment id, idempotency key
SELECT * FROM refunds WHERE payment_id = $1 AND idempotency_key = $2

-- name: refunds_of_order
-- order id. The oldest first.
SELECT * FROM refunds WHERE order_id = $1 ORDER BY id

-- name: begin_refund
-- refund id. The refund as it was before; the gateway may be asked for it from now on, if it is
-- known what is to be given back.
WITH was AS MATERIALIZED (
    SELECT * FROM refunds WHERE id = $1 FOR UPDATE
), begun AS (
    UPDATE refunds r
    SET status = 'processing', updated_at = now()
    FROM was JOIN payments p ON p.id = was.payment_id
    WHERE r.id = was.id AND was.status = 'pending'
      AND (was.transaction_id IS NOT NULL OR p.method = 'cash')
)
SELECT
    was.*, p.method, p.external_id AS payment_external_id, p.updated_at AS payment_updated_at,
    now() - p.updated_at AS payment_rest, o.external_id AS order_external_id, o.user_id
FROM was
JOIN payments p ON p.id = was.payment_id
JOIN orders o ON o.id = was.order_id

-- name: name_refunded_charge
-- refund id, transaction id. The charge was found that the refund waited for; nobody gets anything
-- for it, so it is written down, too.
WITH named AS (
    UPDATE refunds
    SET transaction_id = $2, status = 'processing', updated_at = now()
    WHERE id = $1 AND status = 'pending' AND transaction_id IS NULL
    RETURNING payment_id
)
INSERT INTO stray_charges (payment_id, transaction_id)
SELECT payment_id, $2 FROM named
ON CONFLICT (payment_id, transaction_id) DO NOTHING

-- name: void_refund
-- refund id. There was no charge.
UPDATE refunds
SET status = 'void', updated_at = now()
WHERE id = $1 AND status = 'pending' AND transaction_id IS NULL
RETURNING id

-- name: lock_payment_of_refund
-- refund id. So that of two refunds that end at the same time the second sees the first.
SELECT p.id FROM payments p JOIN refunds r ON r.payment_id = p.id WHERE r.id = $1 FOR UPDATE OF p

-- name: settle_refunded
-- refund id, what the gateway calls it or null, event id. The payment is refunded when all of it
-- is given back. Returns nothing for a refund that has its outcome already.
WITH given AS (
    UPDATE refunds
    SET status = 'completed', gateway_id = $2, updated_at = now()
    WHERE id = $1 AND status IN ('pending', 'processing')
    RETURNING *
), sums AS (
    SELECT g.payment_id, g.transaction_id, g.amount + coalesce((
        SELECT sum(r.amount) FROM refunds r
        WHERE r.payment_id = g.payment_id AND r.status = 'completed' AND r.id <> g.id
          AND r.transaction_id IS NOT DISTINCT FROM g.transaction_id
    ), 0) AS total
    FROM given g
), closed AS (
    UPDATE payments p
    SET status = 'refunded', updated_at = now()
    FROM sums s
    WHERE p.id = s.payment_id AND p.status = 'completed' AND s.total >= p.amount
      AND p.transaction_id IS NOT DISTINCT FROM s.transaction_id
), stray AS (
    UPDATE stray_charges c
    SET refunded_at = now()
    FROM sums s
    WHERE c.payment_id = s.payment_id AND c.transaction_id = s.transaction_id
      AND c.refunded_at IS NULL
), announced AS (
    INSERT INTO webhook_deliveries (endpoint_id, type, order_id, refund_id, order_status)
    SELECT e.id, 'order.refunded', o.id, g.id, o.status
    FROM webhook_endpoints e CROSS JOIN given g JOIN orders o ON o.id = g.order_id
    WHERE e.enabled AND 'order.refunded' = ANY (e.types)
)
INSERT INTO order_events (id, order_id, kind, refund_id)
SELECT $3, order_id, 'order-refunded', id FROM given
RETURNING id

-- name: settle_refund_declined
-- refund id, reason. Returns nothing for a refund that has its outcome already.
UPDATE refunds
SET status = 'failed', decline_reason = $2, updated_at = now()
WHERE id = $1 AND status IN ('pending', 'processing')
RETURNING id

-- name: find_refund
-- refund id
SELECT r.*, p.method, p.external_id AS payment_external_id, now() - p.updated_at AS payment_rest,
       o.external_id AS order_external_id, o.user_id
FROM refunds r
JOIN payments p ON p.id = r.payment_id
JOIN orders o ON o.id = r.order_id
WHERE r.id = $1

-- name: refund_stray_charge
-- refund id, payment id, transaction id. A charge that no order has a use for is to be given back,
-- whole, unless it is already. Returns nothing then.
INSERT INTO refunds (id, order_id, payment_id, cause, transaction_id, amount, currency)
SELECT $1, p.order_id, p.id, 'stray', c.transaction_id, p.amount, p.currency
FROM stray_charges c JOIN payments p ON p.id = c.payment_id
WHERE c.payment_id = $2 AND c.transaction_id = $3 AND c.refunded_at IS NULL AND p.amount > 0
  AND NOT EXISTS (
      SELECT FROM refunds r
      WHERE r.payment_id = p.id AND r.status NOT IN ('failed', 'void')
        AND (r.transaction_id = c.transaction_id
             OR r.cause = 'cancel' AND r.transaction_id IS NULL)
  )
RETURNING *

-- name: open_refunds
-- created at and id to go on after, how many, seconds of rest before one counts. Oldest first.
SELECT
    o.id, r.id AS subject, r.created_at, o.external_id, o.user_id, o.status,
    now() - r.created_at AS age, p.status AS payment_status
FROM refunds r
JOIN orders o ON o.id = r.order_id
JOIN payments p ON p.id = r.payment_id
WHERE r.status IN ('pending', 'processing')
  AND (r.created_at, r.id) > ($1::timestamptz, $2::uuid)
  AND r.updated_at < now() - make_interval(secs => $4)
ORDER BY r.created_at, r.id
LIMIT $3
