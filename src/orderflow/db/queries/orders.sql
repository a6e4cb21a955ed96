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
