"""Charges that no order has a use for."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add their table: a column or an index on payments would make each of its updates dearer."""
    op.execute(
        """
        CREATE TABLE stray_charges (
            payment_id uuid NOT NULL REFERENCES payments (id),
            transaction_id text NOT NULL,
            noticed_at timestamptz NOT NULL DEFAULT now(),
            refunded_at timestamptz, -- set by whoever gave the money back
            PRIMARY KEY (payment_id, transaction_id)
        )
        """
    )
