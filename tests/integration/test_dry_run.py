"""`orderflow reconcile --dry-run`: what a run would do, told as a person sees it, and not done."""

from __future__ import annotations

from redis import Redis
from tests.conftest import process_environment
from tests.integration.cli import run_command

from orderflow.contract import payment_job
from orderflow.db.pool import QUERIES
from orderflow.settings import Settings


def dry_run(settings: Settings, *args: str, **environment: str) -> list[str]:
    environment = process_environment(settings) | {"RECONCILE_GRACE_MS": "1"} | environment
    done = run_command("reconcile", "--dry-run", *args, environment=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


#: Not DUMP: the same hash may be written in another order, as Redis grows its tables by and by.
READS = {
    "hash": lambda redis, key: redis.hgetall(key),
    "list": lambda redis, key: redis.lrange(key, 0, -1),
    "set": lambda redis, key: redis.smembers(key),
    "stream": lambda redis, key: redis.xrange(key),
    "string": lambda redis, key: redis.get(key),
    "zset": lambda redis, key: redis.zrange(key, 0, -1, withscores=True),
}


def keys(redis: Redis, settings: Settings) -> dict[str, object]:
    found = redis.scan_iter(match=f"{settings.queue_prefix}:*")
    return {key: READS[redis.type(key)](redis, key) for key in found}


async def test_every_order_that_is_not_left_alone_is_told_with_the_reason(
    settings, resources, place, redis, sql
):
    jobs = {}
    for name in ("waits", "lost", "failed", "old"):
        receipt = await place()
        job = payment_job(str(receipt.payment_id), str(receipt.order_id), "card", receipt.total)
        jobs[name] = (str(receipt.order_id), job)
    prefix = f"{settings.queue_prefix}:payment-processing"
    await resources.queues.remove(jobs["lost"][1])
    redis.zrem(f"{prefix}:prioritized", jobs["failed"][1].job_id)
    redis.zadd(f"{prefix}:failed", {jobs["failed"][1].job_id: 1})
    await sql.execute(
        "UPDATE orders SET created_at = now() - interval '3 h' WHERE id = $1", jobs["old"][0]
    )
    before = keys(redis, settings), await sql.fetch("SELECT * FROM orders ORDER BY id")

    # It needs no lock, so it can be asked while a run is under way.
    async with sql.transaction():
        await sql.execute(QUERIES["lock_reconciler"])
        lines = dry_run(settings, ORDER_TTL_S="3600")

    assert [line.split(maxsplit=1)[0] for line in lines[:3]] == [
        jobs[name][0] for name in ("old", "lost", "failed")
    ]
    words = ["3 h", "pending", "live", "expire", "past its time, and no money was taken"]
    assert all(word in lines[0] for word in words), lines[0]
    assert lines[1].endswith("missing    add job        its job is gone")
    assert lines[2].endswith("failed     retry job      its job failed, and it is not settled")
    assert lines[3:] == [
        "4 unsettled orders: add job 1, expire 1, leave 1, retry job 1",
        "room for jobs: payment-processing 99,998, notifications 100,000",
    ]
    after = keys(redis, settings), await sql.fetch("SELECT * FROM orders ORDER BY id")
    assert after == before, "it changed something"


async def test_the_lines_are_bounded_and_the_sums_are_not(settings, resources, place):
    for _ in range(5):
        receipt = await place()
        await resources.queues.remove(
            payment_job(str(receipt.payment_id), str(receipt.order_id), "card", receipt.total)
        )
    lines = dry_run(settings, "--limit", "2")
    assert [line.split()[-1] for line in lines[:2]] == ["gone", "gone"]
    assert lines[2:4] == ["… and 3 more", "5 unsettled orders: add job 5"]


def test_with_nothing_to_do_it_says_so(settings):
    assert dry_run(settings)[0] == "0 unsettled orders: nothing to do"
