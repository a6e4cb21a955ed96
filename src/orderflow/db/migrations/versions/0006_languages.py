"""The languages in which a customer likes to be written to."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_VIEW = """
    CREATE OR REPLACE VIEW order_details AS
    SELECT
        o.id, o.source, o.user_id, o.status, o.total, o.currency, o.email, o.phone,
        o.shipping_address, o.created_at, o.updated_at,
        p.id AS payment_id, p.method AS payment_method, p.status AS payment_status,
        p.decline_reason,
        coalesce(i.items, '[]') AS items, o.languages
    FROM orders o
    JOIN payments p ON p.order_id = o.id
    LEFT JOIN LATERAL (
        SELECT jsonb_agg(
            jsonb_build_object('sku', sku, 'name', name, 'quantity', quantity,
                               'unit_price', unit_price::text)
            ORDER BY line
        ) AS items
        FROM order_items WHERE order_id = o.id
    ) i ON true
"""


def upgrade() -> None:
    """Add the column, which is null where nothing is known, and show it in the view."""
    op.execute("ALTER TABLE orders ADD COLUMN languages text[]")  # the most wished first
    op.execute(_VIEW)
