"""What the doctor looks at of the queues: what is in them, and who works on them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from redis.asyncio import Redis

from orderflow.bull.masters import masters_of
from orderflow.bull.producer import node_client_name
from orderflow.bull.queues import JobQueues
from orderflow.contract import QueueName
from orderflow.doctor.findings import Findings, listed, ok, warn
from orderflow.settings import Settings

#: Keys are looked through in steps, so that Redis answers others in between, and not for ever.
_SCAN_STEP, _SCAN_STEPS = 1_000, 500


@dataclass(frozen=True, slots=True)
class QueueSite:
    """What the checks of the queues look at."""

    settings: Settings
    queues: JobQueues


async def prefix(site: QueueSite) -> Findings:
    """Say what other queues are under the prefix, and whether ours are under another one."""
    ours, names = site.settings.queue_prefix, site.queues.names
    seen, complete = await _find_queues(site.queues)
    found = {queue for prefix, queue in seen if prefix == names.prefix_of(queue)}
    contract = set(names.all())
    findings = await _judge_foreign(site, sorted(found - contract))
    elsewhere = sorted(
        {prefix for prefix, queue in seen if queue in contract and prefix != names.prefix_of(queue)}
    )
    if elsewhere and not found & contract:
        findings.append(
            warn(
                "prefix",
                f"QUEUE_PREFIX is '{ours}', where none of the queues is; they are under: "
                f"{listed(elsewhere)}",
                "Set QUEUE_PREFIX to the `prefix` that the Node services give to BullMQ",
            )
        )
    if not complete:
        findings.append(
            ok("prefix", f"Only the first {_SCAN_STEP * _SCAN_STEPS:,} keys were looked through")
        )
    return findings or [ok("prefix", f"Under '{ours}' are no queues but those of the contract")]


async def priorities(site: QueueSite) -> Findings:
    """Say whether jobs wait under numbers that the settings lack."""
    numbers = site.settings.priorities
    findings = []
    for queue in site.queues.names.all():
        unknown = numbers.unknown(await site.queues.priorities_in_use(queue))
        if unknown:
            findings.append(
                warn(
                    "priorities",
                    f"{queue}: jobs wait with the priority {listed(unknown)}, which is none of "
                    f"{numbers.high}, {numbers.medium}, {numbers.low}",
                    "Set PRIORITY_HIGH, PRIORITY_MEDIUM and PRIORITY_LOW to the numbers of the "
                    "other producers, and the same ones on all sides",
                )
            )
    return findings or [
        ok("priorities", f"HIGH {numbers.high}, MEDIUM {numbers.medium}, LOW {numbers.low}")
    ]


async def paused(site: QueueSite) -> Findings:
    """Say which queues are paused, and where a 5.x client left jobs aside."""
    findings = []
    resume = "Resume it in Bull Board, or by `await queue.resume()` in Node"
    for queue in site.queues.names.all():
        client, key = site.queues.client_of(queue), site.queues.names.key
        if await client.hexists(key(queue, "meta"), "paused"):
            findings.append(
                warn("paused", f"{queue} is paused: its jobs wait and none is started", resume)
            )
        aside = await client.llen(key(queue, "paused"))
        if aside:
            findings.append(
                warn(
                    "paused",
                    f"{queue}: {aside} jobs lie in the list `paused`, where only a 5.x client "
                    "puts them; no worker takes a job from it, and a second pause by 5.x loses it",
                    f"{resume}, again until this is gone: one call moves 7,000 jobs at most",
                )
            )
    return findings or [ok("paused", "No queue is paused")]


async def gateway(site: QueueSite) -> Findings:
    """Say whether workers leave the payment gateway alone, and why."""
    outage = await site.queues.told_of_outage("gateway")
    if outage is None:
        return [ok("gateway", "No worker tells that the payment gateway is away")]
    return [
        warn(
            "gateway",
            f"Payments wait: the gateway has failed since {outage.since:%Y-%m-%d %H:%M:%S} UTC "
            f"({outage.reason}), and is asked again at {outage.until:%H:%M:%S}",
            "Look at the gateway, GATEWAY_URL and GATEWAY_API_KEY; payments go on by themselves "
            "once it answers",
        )
    ]


async def workers(site: QueueSite) -> Findings:
    """Say who works on each queue, and in which language."""
    findings = []
    names = zip(QueueName, ("payment", "notification", "order"), strict=True)
    shards = [(s, name) for queue, name in names for s in site.queues.names.shards_of(queue)]
    for queue, name in shards:
        told = Counter(await _workers_on(site, queue))
        if told:
            who = ", ".join(f"{count} {worker}" for worker, count in sorted(told.items()))
            findings.append(ok("workers", f"{queue}: {who}"))
        else:
            findings.append(
                warn(
                    "workers",
                    f"{queue}: no worker is connected, so its jobs wait",
                    f"python -m orderflow.worker {name}",
                )
            )
    return findings


QUEUE_CHECKS: Sequence[Callable[[QueueSite], Awaitable[Findings]]] = (
    prefix,
    priorities,
    paused,
    gateway,
    workers,
)


async def _find_queues(queues: JobQueues) -> tuple[set[tuple[str, str]], bool]:
    """Return the prefixes and names of all queues, and whether every key was looked at."""
    looked = [await _find_on(master) for master in (await masters_of(queues)).values()]
    return set().union(*(found for found, _ in looked)), all(whole for _, whole in looked)


async def _find_on(client: Redis) -> tuple[set[tuple[str, str]], bool]:
    found: set[tuple[str, str]] = set()
    cursor = 0
    for _ in range(_SCAN_STEPS):
        cursor, keys = await client.scan(cursor, match="*:*:meta", count=_SCAN_STEP)
        # Neither a prefix of ours nor the name of a queue has a colon.
        parts = [str(key).split(":") for key in keys]
        found |= {(prefix, queue) for prefix, queue, *rest in parts if len(rest) == 1}
        if cursor == 0:
            return found, True
    return found, False


async def _judge_foreign(site: QueueSite, names: Sequence[str]) -> Findings:
    """Say which queues are not of the contract; one with jobs and no worker may be a slip."""
    if not names:
        return []
    idle = [
        name
        for name in names
        if await site.queues.depth(name) and not await _workers_on(site, name)
    ]
    ours = listed(site.queues.names.all())
    findings = [ok("prefix", f"Other queues under the same prefix: {listed(names)}")]
    if idle:
        findings.append(
            warn(
                "prefix",
                f"Jobs wait in queues that are not of the contract and have no worker: "
                f"{listed(idle)}",
                f"If a name is misspelled, the producer must use one of: {ours}",
            )
        )
    return findings


async def _workers_on(site: QueueSite, queue: str) -> list[str]:
    """Return what kind each worker on a queue is of."""
    prefix = site.queues.names.prefix_of(queue)
    connections = await site.queues.client_of(queue).client_list()
    kinds = (_worker(connection, prefix, queue) for connection in connections)
    return [kind for kind in kinds if kind is not None]


_PROCESS = re.compile(r".+-\d+")


def _worker(client: Mapping[str, str], prefix: str, queue: str) -> str | None:
    """Return what kind of worker on `queue` a connection belongs to, or None.

    Redis 7.2 and newer know the library of a connection. Before, the name has to do: ours always
    end in a process id, and Node's have a name only if they were given one.
    """
    base, _, name = client.get("name", "").partition(":w:")
    if base == f"{prefix}:{queue}":
        return "of the stock Python client"
    if base != node_client_name(prefix, queue):
        return None
    library = client.get("lib-name") or ""
    ours = library.startswith("redis-py") if library else bool(_PROCESS.fullmatch(name))
    return "of orderflow" if ours else "of Node"
