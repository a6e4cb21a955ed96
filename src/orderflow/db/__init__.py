"""PostgreSQL: the pool, the named queries and the migrations."""

from orderflow.db.pool import Database, Transaction, open_database

__all__ = ["Database", "Transaction", "open_database"]
