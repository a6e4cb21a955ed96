-- name: add_webhook_endpoint
-- id, URL, description, types, secret
INSERT INTO webhook_endpoints (id, url, description, types, secret)
VALUES ($1, $2, $3, $4, $5)
RETURNING id

-- name: webhook_endpoints
-- id of the only one or null, how far to count. The oldest first.
SELECT
    e.id, e.url, e.description, e.types, e.enabled, e.disabled_because, e.reached_at, e.created_at,
    e.secret, CASE WHEN e.old_secret_until > now() THEN e.old_secret_until END AS old_secret_until,
    (SELECT count(*) FROM (
        SELECT FROM webhook_deliveries d
        WHERE d.endpoint_id = e.id AND d.status = 'waiting' LIMIT $2) AS counted) AS waiting,
    (SELECT count(*) FROM (
        SELECT FROM webhook_deliveries d
        WHERE d.endpoint_id = e.id AND d.status = 'given_up' LIMIT $2) AS counted) AS given_up
FROM webhook_endpoints e
WHERE $1::uuid IS NULL OR e.id = $1
ORDER BY e.created_at, e.id

-- name: rotate_webhook_secret
-- endpoint id, new secret, seconds that the old one signs, too
UPDATE webhook_endpoints
SET old_secret = secret, old_secret_until = now() + make_interval(secs => $3), secret = $2
WHERE id = $1
RETURNING id

-- name: enable_webhook_endpoint
-- endpoint id. Returns nothing where it is enabled already.
UPDATE webhook_endpoints SET enabled = true, disabled_because = NULL
WHERE id = $1 AND NOT enabled
RETURNING id

-- name: disable_webhook_endpoint
-- endpoint id, why. Returns nothing where it is disabled already.
UPDATE webhook_endpoints SET enabled = false, disabled_because = $2
WHERE id = $1 AND enabled
RETURNING id

-- name: remove_webhook_deliveries
-- endpoint id, how many at most
DELETE FROM webhook_deliveries
WHERE id IN (SELECT id FROM webhook_deliveries WHERE endpoint_id = $1 LIMIT $2)
RETURNING id

-- name: remove_webhook_endpoint
-- endpoint id
DELETE FROM webhook_endpoints WHERE id = $1 RETURNING id

-- name: enabled_webhook_endpoints
SELECT id FROM webhook_endpoints WHERE enabled

-- name: claim_webhooks
-- arrays: endpoint id, how many of its deliveries at most; then the seconds that a claim lasts.
-- What is due, with all that is told of it. Another worker gets one of these only once its claim
-- has ended. What is told never changes any more, so that each attempt tells the same.
WITH due AS MATERIALIZED (
    SELECT d.id
    FROM unnest($1::uuid[], $2::integer[]) AS a(endpoint_id, room)
    CROSS JOIN LATERAL (
        SELECT w.id
        FROM webhook_deliveries w
        WHERE w.endpoint_id = a.endpoint_id AND w.due_at <= now()
        ORDER BY w.due_at
        LIMIT a.room
        FOR UPDATE SKIP LOCKED
    ) d
), claimed AS (
    UPDATE webhook_deliveries w
    SET due_at = now() + make_interval(secs => $3), attempts = attempts + 1
    FROM due
    WHERE w.id = due.id
    RETURNING w.id, w.endpoint_id, w.type, w.order_id, w.refund_id, w.order_status, w.happened_at,
              w.tries, w.attempts
)
SELECT
    c.*, e.url, e.secret,
    CASE WHEN e.old_secret_until > now() THEN e.old_secret END AS old_secret,
    o.external_id, d.total, d.currency, d.items, d.created_at, d.payment_id, d.payment_method,
    p.external_id AS payment_external_id,
    CASE WHEN c.type = 'order.cancelled' THEN d.decline_reason END AS decline_reason,
    shipped.details AS shipment, shipped.at AS shipped_at,
    CASE WHEN c.order_status = 'delivered' THEN delivered.at END AS delivered_at,
    r.amount AS refund_amount, r.cause AS refund_cause
FROM claimed c
JOIN webhook_endpoints e ON e.id = c.endpoint_id AND e.enabled
JOIN order_details d ON d.id = c.order_id
JOIN orders o ON o.id = c.order_id
JOIN payments p ON p.id = d.payment_id
LEFT JOIN order_events shipped
    ON shipped.order_id = c.order_id AND shipped.kind = 'order-shipped'
   AND c.order_status IN ('shipped', 'delivered')
LEFT JOIN order_events delivered
    ON delivered.order_id = c.order_id AND delivered.kind = 'order-delivered'
LEFT JOIN refunds r ON r.id = c.refund_id
WHERE d.id = ANY (ARRAY(SELECT order_id FROM claimed))
  AND o.id = ANY (ARRAY(SELECT order_id FROM claimed))

-- name: settle_webhooks
-- arrays: delivery id, number of the attempt, whether it is delivered, seconds until it is tried
-- again or null for not any more, milliseconds it took, status code or null, error or null, the
-- beginning of the answer. Returns nothing where another attempt has begun since and this one
-- failed, or where it has its end; whether nothing got through since it is tried, and its status.
WITH asked AS (
    SELECT *
    FROM unnest($1::bigint[], $2::integer[], $3::boolean[], $4::float[], $5::integer[],
                $6::integer[], $7::text[], $8::text[])
        WITH ORDINALITY AS a(id, attempt, delivered, wait_s, took_ms, status_code, error, answer, n)
), tried AS (
    INSERT INTO webhook_attempts (delivery_id, attempt, took_ms, status_code, error, answer)
    SELECT a.id, a.attempt, a.took_ms, a.status_code, a.error, a.answer
    FROM asked a JOIN webhook_deliveries w ON w.id = a.id
    WHERE w.id = ANY($1)
    ON CONFLICT (delivery_id, attempt) DO NOTHING
), settled AS (
    UPDATE webhook_deliveries w
    SET status = CASE WHEN a.delivered THEN 'delivered'
                      WHEN a.wait_s IS NULL THEN 'given_up' ELSE 'waiting' END,
        due_at = CASE WHEN NOT a.delivered THEN now() + make_interval(secs => a.wait_s) END,
        tries = w.tries + CASE WHEN a.delivered THEN 0 ELSE 1 END,
        ended_at = CASE WHEN a.delivered OR a.wait_s IS NULL THEN now() END
    FROM asked a
    WHERE w.id = ANY($1) AND w.id = a.id AND w.status = 'waiting'
      AND (a.delivered OR w.attempts = a.attempt)
    RETURNING a.n, w.endpoint_id, w.status, w.begun_at
), reached AS (
    -- Not with each of them, or all workers would wait for each other at this one row.
    UPDATE webhook_endpoints e
    SET reached_at = now()
    WHERE e.id IN (SELECT endpoint_id FROM settled WHERE status = 'delivered')
      AND (e.reached_at IS NULL OR e.reached_at < now() - interval '1 minute')
)
SELECT
    s.n, s.status,
    NOT EXISTS (
        SELECT FROM webhook_endpoints e WHERE e.id = s.endpoint_id AND e.reached_at >= s.begun_at
    ) AS silent
FROM settled s

-- name: webhook_deliveries
-- endpoint id, statuses, id to go on before or null, how many. The newest first.
SELECT d.*
FROM unnest($2::text[]) AS s(status)
CROSS JOIN LATERAL (
    SELECT id, type, order_id, refund_id, happened_at, status, due_at, attempts, ended_at
    FROM webhook_deliveries w
    WHERE w.endpoint_id = $1 AND w.status = s.status AND ($3::bigint IS NULL OR w.id < $3)
    ORDER BY w.id DESC
    LIMIT $4
) d
ORDER BY d.id DESC
LIMIT $4

-- name: webhook_delivery
-- endpoint id, delivery id
SELECT id, type, order_id, refund_id, happened_at, status, due_at, attempts, ended_at
FROM webhook_deliveries
WHERE endpoint_id = $1 AND id = $2

-- name: webhook_attempts
-- delivery ids. The newest of each first.
SELECT delivery_id, attempt, at, took_ms, status_code, error, answer
FROM webhook_attempts
WHERE delivery_id = ANY($1::bigint[])
ORDER BY delivery_id DESC, attempt DESC

-- name: resend_webhook
-- endpoint id, delivery id. It is tried anew from now on, unless its order is gone.
UPDATE webhook_deliveries w
SET status = 'waiting', due_at = now(), begun_at = now(), tries = 0, ended_at = NULL
WHERE endpoint_id = $1 AND id = $2 AND EXISTS (SELECT FROM orders o WHERE o.id = w.order_id)
RETURNING id

-- name: resend_webhooks
-- endpoint id, how many at most. Those that were given up, the oldest first.
UPDATE webhook_deliveries
SET status = 'waiting', due_at = now(), begun_at = now(), tries = 0, ended_at = NULL
WHERE id IN (
    SELECT w.id
    FROM webhook_deliveries w JOIN orders o ON o.id = w.order_id
    WHERE w.endpoint_id = $1 AND w.status = 'given_up'
    ORDER BY w.id
    LIMIT $2
)
RETURNING id

-- name: purge_webhooks
-- days that they are kept, how many at most. Those that wait stay.
DELETE FROM webhook_deliveries
WHERE id IN (
    SELECT id FROM webhook_deliveries
    WHERE ended_at < now() - make_interval(days => $1)
    ORDER BY ended_at
    LIMIT $2
)
RETURNING id

-- name: count_webhooks
-- how far to count. What waits for endpoints that are enabled, and how old the oldest of it is.
SELECT
    e.enabled, count(*) AS endpoints, coalesce(sum(w.waiting), 0)::bigint AS waiting,
    coalesce(max(w.oldest_s), 0)::float AS oldest_s
FROM webhook_endpoints e
LEFT JOIN LATERAL (
    SELECT
        (SELECT count(*) FROM (
            SELECT FROM webhook_deliveries d
            WHERE d.endpoint_id = e.id AND d.status = 'waiting' LIMIT $1) AS counted) AS waiting,
        (SELECT extract(epoch FROM now() - d.happened_at)
         FROM webhook_deliveries d
         WHERE d.endpoint_id = e.id AND d.status = 'waiting'
         ORDER BY d.id
         LIMIT 1) AS oldest_s
) w ON e.enabled
GROUP BY e.enabled
