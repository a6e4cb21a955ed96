"""A shop of real processes behind a PgBouncer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tests.conftest import wait_until
from tests.pgbouncer import SESSIONS, running_pgbouncer

_CONNECTIONS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend'
"""


async def test_every_order_is_paid_and_told(closed_shop, postgres_server, sql, mail_server):
    outside = await sql.fetchval(_CONNECTIONS)
    database = closed_shop.environment["DATABASE_URL"].rpartition("/")[2]
    with running_pgbouncer(postgres_server) as pooler:
        closed_shop.environment |= {
            "DATABASE_URL": f"{pooler}/{database}",
            "DATABASE_POOLER": "transaction",
            "DATABASE_TIMEOUT_MS": "10000",
        }
        closed_shop.start("payment", "notification", "order", "api")
        with ThreadPoolExecutor(10) as threads:
            receipts = list(threads.map(lambda _: closed_shop.checkout(), range(40)))
        for receipt in receipts:
            closed_shop.wait_for(receipt["orderId"], "confirmed")
        wait_until(
            lambda: all(mail_server.mails(receipt["orderId"]) for receipt in receipts), "the mails"
        )
        assert await sql.fetchval(_CONNECTIONS) - outside <= SESSIONS
        closed_shop.stop("api", "payment", "notification", "order")
    said = "".join(map(closed_shop.log, ("api", "payment", "notification", "order")))
    assert "prepared statement" not in said
    assert '"level": "error"' not in said
