"""Orders are found by e-mail and by transaction."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

INDEXES = {
    "orders_by_email": "orders (lower(email), id DESC)",
    # What is not paid is not in it, so that placing an order costs no more.
    "payments_by_transaction": "payments (transaction_id) WHERE transaction_id IS NOT NULL",
}


def upgrade() -> None:
    """Build the indexes beside the shop's work: orders are placed meanwhile."""
    with op.get_context().autocommit_block():
        for name, columns in INDEXES.items():
            # One whose building was broken off is left, and no query uses it.
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON {columns}")
