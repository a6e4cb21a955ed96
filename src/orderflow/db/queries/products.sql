-- name: upsert_product
-- sku, name, price, currency, stock (null: not counted)
INSERT INTO products (sku, name, price, currency, stock)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (sku) DO UPDATE
SET name = excluded.name, price = excluded.price, currency = excluded.currency,
    stock = excluded.stock

-- name: any_product
-- One that can be bought, if there is any.
SELECT sku FROM products WHERE stock IS NULL OR stock > 0 ORDER BY sku LIMIT 1

-- name: products_on_show
-- how many at most. In the order of their sku; stock is null where it is not counted.
SELECT sku, name, price, currency, stock FROM products ORDER BY sku LIMIT $1
