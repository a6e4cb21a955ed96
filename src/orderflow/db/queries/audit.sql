-- name: begin_action
-- actor, via, action, target, order id or null, reason, details
INSERT INTO audit_log (actor, via, action, target, order_id, reason, outcome, details)
VALUES ($1, $2, $3, $4, $5, $6, 'begun', $7)
RETURNING id

-- name: end_action
-- id of what began, outcome, details
INSERT INTO audit_log (begun, actor, via, action, target, order_id, reason, outcome, details)
SELECT id, actor, via, action, target, order_id, reason, $2, $3 FROM audit_log WHERE id = $1
RETURNING id

-- name: actions
-- id to go on before or null, how many, actor or null, action or null. What began, the newest
-- first, with its outcome: none while it is under way, and none if its process died over it.
SELECT b.id, b.at, b.actor, b.via, b.action, b.target, b.order_id, b.reason,
       e.outcome, e.at AS ended_at, b.details || coalesce(e.details, '{}') AS details
FROM audit_log b LEFT JOIN audit_log e ON e.begun = b.id
WHERE b.begun IS NULL
  AND ($1::bigint IS NULL OR b.id < $1)
  AND ($3::text IS NULL OR b.actor = $3) AND ($4::text IS NULL OR b.action = $4)
ORDER BY b.id DESC
LIMIT $2

-- name: actions_on_order
-- order id, how many. The newest first.
SELECT b.id, b.at, b.actor, b.via, b.action, b.target, b.order_id, b.reason,
       e.outcome, e.at AS ended_at, b.details || coalesce(e.details, '{}') AS details
FROM audit_log b LEFT JOIN audit_log e ON e.begun = b.id
WHERE b.order_id = $1 AND b.begun IS NULL
ORDER BY b.id DESC
LIMIT $2
