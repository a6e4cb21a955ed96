-- name: charges_of_payments
-- payment ids, transaction ids: what we have of each pair. A stray charge is settled once it is
-- given back, or is about to be.
SELECT
    a.n, p.id, p.status, p.amount, p.currency, p.transaction_id, p.method, o.status AS order_status,
    now() - p.updated_at AS rest,
    EXISTS (
        SELECT FROM stray_charges s
        WHERE s.payment_id = p.id AND s.transaction_id = a.transaction_id
          AND s.refunded_at IS NOT NULL
    ) OR EXISTS (
        SELECT FROM refunds r
        WHERE r.payment_id = p.id AND r.transaction_id = a.transaction_id
          AND p.transaction_id IS DISTINCT FROM a.transaction_id
          AND r.status IN ('pending', 'processing', 'completed')
    ) AS given_back
FROM unnest($1::uuid[], $2::text[]) WITH ORDINALITY AS a(id, transaction_id, n)
JOIN payments p USING (id)
JOIN orders o ON o.id = p.order_id
WHERE p.id = ANY($1)

-- name: refunds_by_id
-- refund ids
SELECT id, payment_id, status, amount, currency, gateway_id, now() - updated_at AS rest
FROM refunds
WHERE id = ANY($1::uuid[])

-- name: charges_between
-- the first id and the last of that time, id to go on after, how many, seconds of rest. Payments
-- that a gateway was paid for. Their ids begin with the time; those of adopted orders do not.
SELECT id, external_id, transaction_id, amount, currency, method, created_at
FROM payments
WHERE id >= $1 AND id < $2 AND id > $3
  AND status IN ('completed', 'refunded') AND transaction_id IS NOT NULL
  AND updated_at < now() - make_interval(secs => $5)
ORDER BY id
LIMIT $4

-- name: refunds_between
-- as charges_between
SELECT r.id, r.payment_id, r.transaction_id, r.gateway_id, r.amount, r.currency, r.created_at,
       p.external_id AS payment_external_id
FROM refunds r JOIN payments p ON p.id = r.payment_id
WHERE r.id >= $1 AND r.id < $2 AND r.id > $3
  AND r.status = 'completed' AND r.gateway_id IS NOT NULL
  AND r.updated_at < now() - make_interval(secs => $5)
ORDER BY r.id
LIMIT $4

-- name: record_difference
-- kind, entry, transaction id, key, payment id, ours, theirs, currency, made at, repair, whether
-- the repair settles it
INSERT INTO book_differences AS d
    (kind, entry, transaction_id, key, payment_id, ours, theirs, currency, made_at, repair,
     settled_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, CASE WHEN $11 THEN now() END)
ON CONFLICT (entry, transaction_id, kind) DO UPDATE
SET ours = excluded.ours, theirs = excluded.theirs, repair = coalesce(excluded.repair, d.repair),
    seen_at = now(), settled_at = excluded.settled_at

-- name: begin_books
SELECT now() AS at

-- name: settle_differences
-- when the comparison began, and the time that it was of. What was not seen again is gone; a stray
-- charge is when it is given back, however long ago it was made.
UPDATE book_differences d
SET settled_at = now()
WHERE settled_at IS NULL
  AND (seen_at < $1 AND made_at >= $2 AND made_at < $3
       OR entry = 'charge' AND EXISTS (
           SELECT FROM stray_charges s
           WHERE s.payment_id = d.payment_id AND s.transaction_id = d.transaction_id
             AND s.refunded_at IS NOT NULL))

-- name: open_differences
-- how many. The oldest first.
SELECT entry, kind, transaction_id, key, payment_id, ours, theirs, currency, made_at, repair,
       noticed_at
FROM book_differences
WHERE settled_at IS NULL
ORDER BY noticed_at, transaction_id
LIMIT $1

-- name: count_differences
SELECT entry, kind, count(*) AS differences
FROM book_differences
WHERE settled_at IS NULL
GROUP BY entry, kind

-- name: stray_of_cancelled
-- how many. Charges that nobody gets anything for, of orders that are cancelled.
SELECT s.payment_id, s.transaction_id
FROM stray_charges s
JOIN payments p ON p.id = s.payment_id
JOIN orders o ON o.id = p.order_id
WHERE s.refunded_at IS NULL AND o.status = 'cancelled' AND p.status = 'failed'
ORDER BY s.noticed_at, s.transaction_id
LIMIT $1
