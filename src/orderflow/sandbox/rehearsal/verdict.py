"""The verdict: every order, charge and mail is counted, and compared one by one.

PostgreSQL does it: the records are copied into temporary tables beside the orders, so that sets of
millions are compared exactly, and in memory that PostgreSQL bounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg

from orderflow.sandbox.recording import CHARGE_FILES, SENT_FILES
from orderflow.sandbox.rehearsal.cast import NOTIFICATION, ORDER, PAYMENT, PRODUCER
from orderflow.sandbox.rehearsal.customers import STOCK
from orderflow.sandbox.rehearsal.sampling import Depth, Sample

#: What the bound of the queues is for.
REDIS_LIMIT_BYTES = 1_000_000_000
#: A process that keeps as little as 14 bytes of each of five million orders grows by more.
GROWTH_LIMIT_BYTES = 64 * 1_048_576
_MIB = 1_048_576
_EXAMPLES = 3

# The stubs make it generic, and asyncpg itself does not.
_Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold: whether it does, and what was counted."""

    name: str
    ok: bool
    message: str

    def to_line(self) -> str:
        """Return the check as a line of the table."""
        return f"{'OK' if self.ok else 'NOT OK':<8}{self.name:<15}{self.message}"


@dataclass(frozen=True, slots=True)
class Memory:
    """The memory of one process in bytes; its growth is from a tenth of the sitting to its end."""

    peak_bytes: int
    growth_bytes: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a rehearsal came to: `carried` of `orders` orders in `seconds`, from till to mail."""

    orders: int
    carried: int
    machine: str
    seconds: float
    sittings: int
    redis_peak_bytes: int
    memory: Mapping[str, Memory]
    checks: Sequence[Check]

    @property
    def ok(self) -> bool:
        """Whether everything holds."""
        return all(check.ok for check in self.checks)

    @property
    def orders_per_s(self) -> float:
        """Orders that were carried in a second."""
        return self.carried / self.seconds if self.seconds else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as it is kept."""
        return {"ok": self.ok, "ordersPerSecond": round(self.orders_per_s, 1), **asdict(self)}

    def to_text(self) -> str:
        """Return the verdict as a table."""
        lines = [check.to_line() for check in self.checks]
        lines += [
            "",
            f"{self.to_title()}, in {self.sittings} sitting(s); {self.machine}",
            "",
            f"{'':<16}{'peak MiB':>10}{'growth MiB':>12}",
        ]
        for name, memory in self.memory.items():
            peak, growth = memory.peak_bytes / _MIB, memory.growth_bytes / _MIB
            lines.append(f"{name:<16}{peak:>10,.0f}{growth:>+12,.0f}")
        lines.append(f"{'redis used':<16}{self.redis_peak_bytes / _MIB:>10,.0f}")
        lines += ["", "Everything holds." if self.ok else "Not everything holds."]
        return "\n".join(lines)

    def to_title(self) -> str:
        """Return how many orders took how long."""
        minutes, seconds = divmod(round(self.seconds), 60)
        took = f"{minutes}:{seconds:02} min, {self.orders_per_s:,.0f}/s"
        return f"{self.carried:,} of {self.orders:,} orders in {took}"


async def count_orders(database_url: str, records: Path, orders: int) -> list[Check]:
    """Compare the rows with the records: `orders` orders, each charged once and told of once.

    Raises OSError or asyncpg.PostgresError if PostgreSQL cannot be asked.
    """
    connection: _Connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(_TABLES)
        checks = [
            *await _copied(connection, "charge_lines", records, CHARGE_FILES),
            *await _copied(connection, "mail_lines", records, SENT_FILES),
        ]
        await connection.execute(_COUNTED)
        checks += await _totals(connection, orders)
        for name, rule, wrong in _RULES:
            checks.append(await _check(connection, name, rule, wrong))
        return checks
    finally:
        await connection.close()


async def _copied(connection: _Connection, table: str, records: Path, pattern: str) -> list[Check]:
    """Copy the records into a table; a check for each file that is no record."""
    unreadable = []
    for file in _files(records, pattern):
        try:
            await connection.copy_to_table(table, source=file)
        except asyncpg.DataError as error:
            unreadable.append(Check("records", ok=False, message=f"{file.name}: {error}"))
    return unreadable


def _files(records: Path, pattern: str) -> list[Path]:
    return sorted(records.glob(pattern))


async def _totals(connection: _Connection, orders: int) -> list[Check]:
    """Count what there must be as many of as orders."""
    statuses = await connection.fetch("SELECT status, count(*) AS n FROM orders GROUP BY 1")
    placed = sum(row["n"] for row in statuses)
    by_status = ", ".join(f"{row['n']:,} {row['status']}" for row in statuses)
    checks = [Check("orders", placed == orders, f"{placed:,} of {orders:,}: {by_status}")]
    for name, lines, distinct in _COUNTS:
        counted, different = await connection.fetchval(lines), await connection.fetchval(distinct)
        message = f"{counted:,} of {orders:,}, for {different:,} different {name[1]}"
        checks.append(Check(name[0], counted == different == orders, message))
    return checks


async def _check(connection: _Connection, name: str, rule: str, wrong: str) -> Check:
    """Look for what breaks a rule."""
    found = await connection.fetchrow(
        f"WITH wrong AS MATERIALIZED ({wrong}) "  # noqa: S608 - a text of this file
        "SELECT count(*) AS n, ARRAY(SELECT id::text FROM wrong LIMIT $1) AS examples FROM wrong",
        _EXAMPLES,
    )
    if found is None or not found["n"]:
        return Check(name, ok=True, message=f"none {rule}")
    examples = ", ".join(found["examples"])
    more = ", …" if found["n"] > _EXAMPLES else ""
    return Check(name, ok=False, message=f"{found['n']:,} {rule}: {examples}{more}")


#: Of the records one row a line, as they are in the files.
_TABLES = """
SET work_mem = '128MB';
CREATE TEMP TABLE charge_lines (payment_id uuid NOT NULL);
CREATE TEMP TABLE mail_lines (order_id uuid NOT NULL, sent_ms bigint NOT NULL, kind text NOT NULL);
"""

_COUNTED = """
CREATE TEMP TABLE charged AS
SELECT payment_id, count(*) AS times FROM charge_lines GROUP BY payment_id;
CREATE TEMP TABLE mailed AS
SELECT order_id, count(*) AS times, min(rtrim(kind)) AS kind FROM mail_lines GROUP BY order_id;
ANALYZE charged;
ANALYZE mailed;
"""

_COUNTS = (
    (
        ("charges", "payments"),
        "SELECT count(*) FROM charge_lines",
        "SELECT count(*) FROM charged",
    ),
    (
        ("mails", "orders"),
        "SELECT count(*) FROM mail_lines",
        "SELECT count(*) FROM mailed",
    ),
    (
        ("notifications", "orders"),
        "SELECT count(*) FROM notifications WHERE sent_at IS NOT NULL",
        "SELECT count(DISTINCT order_id) FROM notifications WHERE sent_at IS NOT NULL",
    ),
)

#: What must not be: a query for the ids that break the rule.
_RULES = (
    (
        "orders",
        "ended otherwise than confirmed",
        "SELECT id FROM orders WHERE status <> 'confirmed'",
    ),
    (
        "orders",
        "left open: their customer counts as not told",
        "SELECT id FROM orders WHERE notified_at IS NULL",
    ),
    (
        "payments",
        "left without an outcome",
        "SELECT id FROM payments WHERE status <> 'completed'",
    ),
    (
        "charges",
        "charged twice",
        "SELECT payment_id AS id FROM charged WHERE times > 1",
    ),
    (
        "charges",
        "confirmed and never charged",
        """
        SELECT p.id FROM payments p JOIN orders o ON o.id = p.order_id
        WHERE o.status = 'confirmed'
          AND NOT EXISTS (SELECT FROM charged c WHERE c.payment_id = p.id)
        """,
    ),
    (
        "charges",
        "charged without a confirmed order",
        """
        SELECT c.payment_id AS id FROM charged c
        WHERE NOT EXISTS (
            SELECT FROM payments p JOIN orders o ON o.id = p.order_id
            WHERE p.id = c.payment_id AND o.status = 'confirmed')
        """,
    ),
    (
        "mails",
        "told twice",
        "SELECT order_id AS id FROM mailed WHERE times > 1",
    ),
    (
        "mails",
        "confirmed and never told",
        """
        SELECT o.id FROM orders o
        WHERE o.status = 'confirmed'
          AND NOT EXISTS (
            SELECT FROM mailed m WHERE m.order_id = o.id AND m.kind = 'order-confirmation')
        """,
    ),
    (
        "mails",
        "told of what is not so",
        """
        SELECT m.order_id AS id FROM mailed m
        WHERE m.kind <> 'order-confirmation' OR NOT EXISTS (
            SELECT FROM orders o WHERE o.id = m.order_id AND o.status = 'confirmed')
        """,
    ),
    (
        "notifications",
        "recorded otherwise than as one mail",
        """
        SELECT coalesce(n.order_id, m.order_id) AS id
        FROM mailed m FULL JOIN notifications n ON n.order_id = m.order_id
        WHERE m.order_id IS NULL OR n.sent_at IS NULL OR n.kind <> m.kind OR n.channel <> 'email'
        """,
    ),
    (
        "stock",
        "on the shelf otherwise than as sold",
        f"""
        SELECT p.sku AS id FROM products p LEFT JOIN (
            SELECT sku, sum(quantity) AS sold FROM order_items WHERE took_stock GROUP BY sku
        ) s USING (sku)
        WHERE p.stock <> {STOCK} - coalesce(s.sold, 0)
        """,  # noqa: S608 - a number of this package
    ),
)


def check_queues(depths: Mapping[str, Depth]) -> list[Check]:
    """Nothing may be left in a queue, whether it waits or has failed."""
    return [
        Check(
            "queues",
            depth.total == 0,
            f"{name}: {depth.waiting:,} waiting, {depth.active:,} active, "
            f"{depth.delayed:,} delayed, {depth.failed:,} failed",
        )
        for name, depth in depths.items()
    ]


def check_stalled(stalled: int, sittings: int) -> Check:
    """No job may be taken from a worker that lives. After a crash those of the dead are."""
    return Check("stalled", stalled == 0 or sittings > 1, f"{stalled:,} jobs found stalled")


def check_memory(samples: Sequence[Sample], memory: Mapping[str, Memory]) -> list[Check]:
    """Redis stays in its bound, and the size of our processes does not follow the orders."""
    peak = redis_peak_bytes(samples)
    checks = [Check("redis memory", peak <= REDIS_LIMIT_BYTES, f"{peak / _MIB:,.0f} MiB at most")]
    for name, measured in memory.items():
        if name.partition(".")[0] in {PAYMENT, NOTIFICATION, ORDER, PRODUCER}:
            grown = f"{name} grew by {measured.growth_bytes / _MIB:,.0f} MiB"
            checks.append(Check("memory", measured.growth_bytes <= GROWTH_LIMIT_BYTES, grown))
    return checks


def redis_peak_bytes(samples: Sequence[Sample]) -> int:
    """Return the most memory that Redis used for its data."""
    return max((sample.redis_peak_bytes for sample in samples), default=0)


def measure_memory(samples: Sequence[Sample]) -> dict[str, Memory]:
    """Return the peak of each process, and its growth in the last sitting, by its name."""
    if not samples:
        return {}
    sitting = [sample for sample in samples if sample.sitting == samples[-1].sitting]
    begun_s, ended_s = sitting[0].elapsed_s, sitting[-1].elapsed_s
    # Caches and pools fill at first; what grows after a tenth goes on growing.
    settled = [s for s in sitting if s.elapsed_s >= begun_s + (ended_s - begun_s) / 10]
    measured = {}
    for name in dict.fromkeys(name for sample in samples for name in sample.rss_bytes):
        sizes = [sample.rss_bytes[name] for sample in settled if name in sample.rss_bytes]
        peak = max(sample.rss_bytes.get(name, 0) for sample in samples)
        measured[name] = Memory(peak, sizes[-1] - sizes[0] if sizes else 0)
    return measured
