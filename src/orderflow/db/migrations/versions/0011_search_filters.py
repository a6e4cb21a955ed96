"""Orders are found by e-mail and by transaction at no cost to those who order and pay.

An index that holds each address and each transaction costs a random page for each, and keeps the
update that settles a payment from being HOT: 10 µs and more. These have a filter for each eight
pages of the table. A search reads all filters, and then the pages whose filter may know what is
looked for. They are written when the pages are vacuumed, and let updates be HOT (from PostgreSQL 16
on).
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

#: With so many rows on eight pages, a filter says "maybe" to one of 200 that it does not know.
_FILTER = "text_bloom_ops(n_distinct_per_range = {rows}, false_positive_rate = 0.005)"
_INDEX = "{table} USING brin ({what} {filter}) WITH (pages_per_range = 8)"

INDEXES = {
    "orders_email_filter": _INDEX.format(
        table="orders", what="lower(email)", filter=_FILTER.format(rows=320)
    ),
    "payments_transaction_filter": _INDEX.format(
        table="payments", what="transaction_id", filter=_FILTER.format(rows=350)
    ),
}
_REPLACED = ("orders_by_email", "payments_by_transaction")
_TABLES = ("orders", "payments")


def upgrade() -> None:
    """Build them beside the shop's work, and let go of the indexes that they are in place of."""
    with op.get_context().autocommit_block():
        for name, index in INDEXES.items():
            # One whose building was broken off is left.
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON {index}")
        for table in _TABLES:
            # What is not vacuumed yet has no filter, and a search reads all of it.
            op.execute(
                f"""
                ALTER TABLE {table} SET (
                    autovacuum_vacuum_insert_scale_factor = 0,
                    autovacuum_vacuum_insert_threshold = 100000)
                """
            )
            # How many orders an address has tells whether its filter is worth reading.
            op.execute(f"ANALYZE {table}")
        for name in _REPLACED:
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
