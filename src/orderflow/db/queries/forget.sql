-- name: orders_of_person
-- user id. With what is known of the person.
SELECT o.id, o.email, o.phone, o.shipping_address, p.id AS payment_id, ARRAY(
    SELECT e.details ->> 'trackingNumber' FROM order_events e
    WHERE e.order_id = o.id AND e.details ? 'trackingNumber'
) AS tracking_numbers
FROM orders o
JOIN payments p ON p.order_id = o.id
WHERE o.user_id = $1
ORDER BY o.id

-- name: failed_jobs_of_orders
-- order ids. Whatever their producers called them.
SELECT DISTINCT queue, job_id FROM job_failures WHERE order_id = ANY($1)

-- name: forget_orders
-- order ids, what the person is recognised by in a text, as a regular expression, and what stands
-- in the place of the user id. The money stays: how many rows of each table lost something.
WITH forgotten AS (
    UPDATE orders
    SET user_id = $3, email = NULL, phone = NULL, shipping_address = NULL, languages = NULL,
        forgotten_at = now()
    WHERE id = ANY($1)
    RETURNING 1
), paid AS (
    UPDATE payments
    SET token = NULL, client_secret = NULL,
        decline_reason = regexp_replace(decline_reason, $2, '***', 'gi')
    WHERE order_id = ANY($1)
      AND (token IS NOT NULL OR client_secret IS NOT NULL OR decline_reason ~* $2)
    RETURNING 1
), refunded AS (
    UPDATE refunds
    SET decline_reason = regexp_replace(decline_reason, $2, '***', 'gi'),
        idempotency_key = CASE WHEN idempotency_key ~* $2 THEN NULL ELSE idempotency_key END
    WHERE order_id = ANY($1) AND concat_ws(' ', decline_reason, idempotency_key) ~* $2
    RETURNING 1
), notified AS (
    UPDATE notifications
    SET recipient = '***', refused_reason = CASE WHEN refused_reason IS NOT NULL THEN '***' END
    WHERE order_id = ANY($1)
    RETURNING 1
), told AS (
    UPDATE event_messages m
    SET recipient = '***', refused_reason = CASE WHEN refused_reason IS NOT NULL THEN '***' END
    FROM order_events e
    WHERE e.order_id = ANY($1) AND m.event_id = e.id
    RETURNING 1
), shipped AS (
    UPDATE order_events
    SET details = details || '{"trackingNumber": "***"}'
    WHERE order_id = ANY($1) AND details ? 'trackingNumber'
    RETURNING 1
), failed AS (
    DELETE FROM job_failures WHERE order_id = ANY($1) RETURNING fingerprint, job_id
), grouped AS (
    UPDATE failure_groups g
    SET example = '***'
    FROM (SELECT DISTINCT fingerprint, job_id FROM failed) f
    WHERE g.fingerprint = f.fingerprint AND g.example_job_id = f.job_id
    RETURNING 1
)
SELECT
    (SELECT count(*) FROM forgotten) AS orders,
    (SELECT count(*) FROM paid) AS payments,
    (SELECT count(*) FROM refunded) AS refunds,
    (SELECT count(*) FROM notified) AS notifications,
    (SELECT count(*) FROM told) AS event_messages,
    (SELECT count(*) FROM shipped) AS order_events,
    (SELECT count(*) FROM failed) AS job_failures,
    (SELECT count(*) FROM grouped) AS failure_groups

-- name: forget_user
-- user id, what the person is recognised by. What hangs on no order.
WITH kept_keys AS (
    DELETE FROM idempotency_keys WHERE user_id = $1 RETURNING 1
), grouped AS (
    UPDATE failure_groups SET example = regexp_replace(example, $2, '***', 'gi')
    WHERE example ~* $2
    RETURNING 1
), bulk AS (
    UPDATE bulk_actions
    SET reason = regexp_replace(reason, $2, '***', 'gi'),
        refusals = CASE WHEN refusals::text ~* $2 THEN '[]' ELSE refusals END
    WHERE concat_ws(' ', reason, refusals::text) ~* $2
    RETURNING 1
), answered AS (
    UPDATE webhook_attempts SET answer = regexp_replace(answer, $2, '***', 'gi')
    WHERE answer ~* $2
    RETURNING 1
)
SELECT
    (SELECT count(*) FROM kept_keys) AS idempotency_keys,
    (SELECT count(*) FROM grouped) AS failure_groups,
    (SELECT count(*) FROM bulk) AS bulk_actions,
    (SELECT count(*) FROM answered) AS webhook_attempts

-- name: keeps_keys
-- user id
SELECT FROM idempotency_keys WHERE user_id = $1 LIMIT 1

-- name: actions_about
-- order ids, what the person is recognised by. All of the audit log is looked through.
SELECT id, target, reason, details, coalesce(order_id = ANY($1), false) AS of_an_order
FROM audit_log
WHERE order_id = ANY($1) OR concat_ws(' ', target, reason, details::text) ~* $2

-- name: allow_forgetting
-- The texts of the append-only audit log may be changed until the end of this transaction.
SELECT set_config('orderflow.forgetting', 'on', true)

-- name: forget_in_action
-- id, target, reason, details
UPDATE audit_log SET target = $2, reason = $3, details = $4 WHERE id = $1
