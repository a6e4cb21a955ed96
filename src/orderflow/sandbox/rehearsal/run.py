"""The order of events: start, carry the orders, count, report, stop."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import psutil
import typer
from redis import Redis
from redis.exceptions import RedisError

from orderflow.db import open_database
from orderflow.db.migrate import migrate
from orderflow.errors import OrderflowError
from orderflow.products import has_products, load_products
from orderflow.sandbox.rehearsal.cast import (
    Cast,
    RehearsalError,
    environment_of,
    only_one,
    stop_leftovers,
)
from orderflow.sandbox.rehearsal.customers import products
from orderflow.sandbox.rehearsal.interrupts import Interrupted, Interrupts
from orderflow.sandbox.rehearsal.plot import draw
from orderflow.sandbox.rehearsal.progress import Show, shown_progress
from orderflow.sandbox.rehearsal.sampling import Sample, Sampler, Samples, mark_of, read_depths
from orderflow.sandbox.rehearsal.verdict import (
    Check,
    Verdict,
    check_memory,
    check_queues,
    check_stalled,
    count_orders,
    measure_memory,
    redis_peak_bytes,
)
from orderflow.sandbox.servers import ServerError

DEFAULT_ORDERS = 5_000_000

_LOOK_EVERY_S = 1.0
#: Orders that do not move for this long will not.
_PATIENCE_S = 60.0
_DATABASE_TIMEOUT_MS = 30_000
#: Exit statuses.
_HOLDS, _FAILED, _REFUSED, _INTERRUPTED = 0, 1, 2, 130


def run_rehearsal(folder: Path, orders: int | None, *, resume: bool, processes: int) -> int:
    """Carry `orders` orders with data in `folder`, or go on with those of `folder`.

    `processes` is how many run each of the payment and the notification worker. Return the exit
    status: 0 everything holds, 1 something does not, 2 it was refused, 130 it was interrupted.
    """
    interrupts = Interrupts()
    try:
        if resume and not _plan_file(folder).exists():
            raise RehearsalError(f"there is no rehearsal in {folder} to resume")
        with only_one(folder):
            plan = _plan(folder, orders, resume=resume, processes=processes)
            left = stop_leftovers(folder)
            if left:
                _say(f"Ended {left} processes that a rehearsal before this left running")
            return _rehearse(plan, interrupts)
    except Interrupted:
        _say(f"Stopped. Go on with: orderflow rehearse --resume --folder {folder}")
        return _INTERRUPTED
    except RehearsalError as error:
        _say(f"orderflow rehearse: {error}")
        return _REFUSED
    except (ServerError, OrderflowError) as error:
        _say(f"orderflow rehearse: {error}")
        return _FAILED


def _say(text: str) -> None:
    typer.echo(text)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is rehearsed, and where."""

    folder: Path
    orders: int
    processes: int

    @property
    def records(self) -> Path:
        return self.folder / "records"


def _plan(folder: Path, orders: int | None, *, resume: bool, processes: int) -> _Plan:
    """Read what the folder's rehearsal is, or write it down. Raises RehearsalError."""
    file = _plan_file(folder)
    begun = json.loads(file.read_text("utf-8"))["orders"] if file.exists() else None
    if begun is not None and not resume:
        raise RehearsalError(
            f"{folder} has a rehearsal of {begun:,} orders: go on with it by --resume, remove the "
            "folder, or name another one by --folder"
        )
    if begun is not None and orders not in {None, begun}:
        raise RehearsalError(f"the rehearsal in {folder} is one of {begun:,} orders")
    plan = _Plan(folder, begun or orders or DEFAULT_ORDERS, processes)
    if begun is None:
        file.write_text(json.dumps({"orders": plan.orders}), "utf-8")
    return plan


def _plan_file(folder: Path) -> Path:
    return folder / "rehearsal.json"


def _rehearse(plan: _Plan, interrupts: Interrupts) -> int:
    with ExitStack() as exits:
        cast = Cast(plan.folder, exits, interrupts)
        try:
            return _perform(plan, cast)
        finally:
            # From here on all is being stopped, and a second Ctrl-C would leave some of it.
            interrupts.hold()


def _perform(plan: _Plan, cast: Cast) -> int:
    servers = cast.start_servers()
    asyncio.run(_prepare(servers["DATABASE_URL"]))
    environment = environment_of(plan.orders, servers)
    cast.start_workers(environment, plan.processes)
    cast.start_producer(environment, plan.orders, mark_of(plan.folder))
    _say(f"Carrying {plan.orders:,} orders; data and logs are in {plan.folder}")
    samples = Samples(plan.folder / "samples.jsonl")
    with closing(Sampler(plan.folder, servers["REDIS_URL"], cast.processes(), samples)) as sampler:
        trouble = _carry(plan, cast, sampler, samples, servers["DATABASE_URL"])
    _say("Counting every order, charge and mail")
    checks = [_ended(trouble, cast.stop_programs())]
    checks += asyncio.run(_counted(plan, servers["DATABASE_URL"]))
    checks += _left_in_queues(servers["REDIS_URL"])
    checks.append(check_stalled(cast.stalled(), samples.last.sitting if samples.last else 0))
    verdict = _verdict(plan, samples.all, checks)
    _report(plan, verdict, samples.all)
    return _HOLDS if verdict.ok else _FAILED


async def _prepare(database_url: str) -> None:
    """Migrate, and fill an empty shop."""
    await migrate(database_url)
    async with open_database(database_url, 1, _DATABASE_TIMEOUT_MS) as db:
        if not await has_products(db):
            await load_products(products(), db)


def _carry(
    plan: _Plan, cast: Cast, sampler: Sampler, samples: Samples, database_url: str
) -> str | None:
    """Look each second until every order is at its end; return what kept one from it."""
    moved_at = time.monotonic()
    moved = None
    with shown_progress(plan.orders) as show:
        while True:
            looked_at = time.monotonic()
            try:
                sample = _look(sampler, samples, show)
                done = _is_done(plan, cast, sample) and asyncio.run(_all_settled(database_url))
            except (RedisError, asyncpg.PostgresError, OSError) as error:
                return cast.death() or f"a server does not answer: {type(error).__name__}: {error}"
            if done:
                return None
            if moved != sample.moved:
                moved, moved_at = sample.moved, looked_at
            elif looked_at - moved_at > _PATIENCE_S:
                return _stuck(sample)
            death = cast.death()
            if death is not None:
                return death
            time.sleep(max(0.0, looked_at + _LOOK_EVERY_S - time.monotonic()))


def _look(sampler: Sampler, samples: Samples, show: Show) -> Sample:
    sample = sampler.take()
    samples.add(sample)
    show(sample)
    return sample


def _is_done(plan: _Plan, cast: Cast, sample: Sample) -> bool:
    return sample.placed == plan.orders and cast.has_placed_all and sample.queued == 0


async def _all_settled(database_url: str) -> bool:
    """Say whether no order is left whose customer was not told."""
    connection = await asyncpg.connect(database_url)
    try:
        query = "SELECT NOT EXISTS (SELECT FROM orders WHERE notified_at IS NULL)"
        return bool(await connection.fetchval(query))
    finally:
        await connection.close()


def _stuck(sample: Sample) -> str:
    return (
        f"no order moved for {_PATIENCE_S:.0f} s: {sample.placed:,} placed, {sample.paid:,} paid, "
        f"{sample.notified:,} notified, {sample.queued:,} jobs in the queues"
    )


def _ended(trouble: str | None, statuses: dict[str, int]) -> Check:
    """Say how the run came to its end, and every process to its own."""
    wrong = [f"{name} with status {status}" for name, status in statuses.items() if status]
    if trouble is None and wrong:
        trouble = f"did not end as they should: {', '.join(wrong)}"
    return Check("end", trouble is None, trouble or "every process went on to its end")


async def _counted(plan: _Plan, database_url: str) -> list[Check]:
    try:
        return await count_orders(database_url, plan.records, plan.orders)
    except (OSError, asyncpg.PostgresError) as error:
        reason = f"PostgreSQL cannot be asked: {type(error).__name__}: {error}"
        return [Check("orders", ok=False, message=reason)]


def _left_in_queues(redis_url: str) -> list[Check]:
    try:
        with Redis.from_url(redis_url) as redis:
            return check_queues(read_depths(redis))
    except RedisError as error:
        reason = f"Redis cannot be asked: {type(error).__name__}"
        return [Check("queues", ok=False, message=reason)]


def _verdict(plan: _Plan, samples: Sequence[Sample], checks: Sequence[Check]) -> Verdict:
    memory = measure_memory(samples)
    return Verdict(
        orders=plan.orders,
        carried=samples[-1].notified if samples else 0,
        machine=_machine(),
        seconds=_seconds(samples),
        sittings=samples[-1].sitting if samples else 0,
        redis_peak_bytes=redis_peak_bytes(samples),
        memory=memory,
        checks=[*checks, *check_memory(samples, memory)],
    )


def _seconds(samples: Sequence[Sample]) -> float:
    """Return when the last order moved, so that a look at what has ended adds nothing."""
    return next((s.elapsed_s for s in samples if s.moved == samples[-1].moved), 0.0)


def _report(plan: _Plan, verdict: Verdict, samples: Sequence[Sample]) -> None:
    """Write the verdict and the picture, and say both."""
    report, picture = plan.folder / "report.json", plan.folder / "report.png"
    report.write_text(json.dumps(verdict.to_json(), indent=2), "utf-8")
    holds = "everything holds" if verdict.ok else "not everything holds"
    title = f"{verdict.to_title()}: {holds}\n{verdict.machine}"
    draw(samples, title, picture)
    _say(f"\n{verdict.to_text()}\n")
    _say(f"Report   {report}\nPicture  {picture}")


def _machine() -> str:
    """Return what this ran on."""
    memory_gib = psutil.virtual_memory().total / 2**30
    return f"{len(os.sched_getaffinity(0))} cores, {memory_gib:.0f} GiB, {_processor()}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return os.uname().machine
