"""PostgreSQL: the pool, the named queries and the migrations."""

from orderflow.db.pool import Database, Transaction, open_database
from orderflow.db.reads import Reads

__all__ = ["Database", "Reads", "Transaction", "open_database"]
