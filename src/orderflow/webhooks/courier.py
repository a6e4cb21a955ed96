"""The courier: carries out what is due, beside the jobs of every process of the order worker.

It claims in PostgreSQL and needs no Redis. A claim ends by itself, so that what a process that died
had under way goes out again, under the same id. Each endpoint has places of its own, so that one
that is slow holds up none of the others.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from uuid import UUID

import structlog

from orderflow.db import Database
from orderflow.errors import OrderflowError
from orderflow.metrics import WEBHOOK_ATTEMPTS
from orderflow.operations.audit import Actor
from orderflow.orders import Row
from orderflow.resources import Resources
from orderflow.webhooks.endpoints import disable_endpoint, get_endpoint
from orderflow.webhooks.messages import EventType, body_of, message_id
from orderflow.webhooks.posting import TOTAL_S, Answer, post
from orderflow.webhooks.retries import next_try_s
from orderflow.webhooks.signing import signed_headers
from orderflow.webhooks.targets import Targets
from orderflow.webhooks.transport import GuardedTransport

log = structlog.get_logger(__name__)

#: Messages under way to one endpoint by one process, at most.
PLACES = 16
#: A claim outlasts its attempt, and the writing of what came of it.
CLAIM_S = TOTAL_S + 15

#: How often is looked for what is due, and while there is no endpoint for the first one.
_EVERY_S, _WHILE_NONE_S = 0.5, 5.0

_ITSELF = Actor("orderflow", "worker")

for _outcome in ("delivered", "failed", "given_up"):
    WEBHOOK_ATTEMPTS.begin(_outcome)


async def deliver_webhooks(resources: Resources, stop: asyncio.Event) -> None:
    """Deliver what is due until `stop`, and end what is under way. The worker runs it."""
    targets = Targets(resources.settings.webhooks_allow_private)
    async with GuardedTransport(targets) as transport:
        await Courier(resources.db, transport).run(stop)


class Courier:
    """Delivers by `transport` what is due in `db`."""

    def __init__(self, db: Database, transport: GuardedTransport) -> None:
        self._db = db
        self._transport = transport
        self._under_way: Counter[UUID] = Counter()
        #: Endpoints that may have more that is due than they had places.
        self._crowded: set[UUID] = set()
        self._look = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Deliver until `stop`, and end what is under way.

        It raises nothing: the jobs beside it are not to end for it.
        """
        trouble = ""
        async with asyncio.TaskGroup() as group:
            stopping = group.create_task(self._look_at(stop))
            while not stop.is_set():
                self._look.clear()
                pause_s, said = _WHILE_NONE_S, ""
                try:
                    if await self._claim(group) is not None:
                        pause_s = _EVERY_S
                except OrderflowError as error:
                    said = str(error)
                except Exception:
                    log.exception("webhooks not looked at")
                if said and not trouble:
                    log.warning("webhooks not looked at", reason=said)
                trouble = said
                await self._pause(pause_s)
            stopping.cancel()

    async def run_once(self) -> int:
        """Deliver what is due now, as far as there are places; return how many were tried."""
        async with asyncio.TaskGroup() as group:
            return await self._claim(group) or 0

    async def _look_at(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._look.set()

    async def _pause(self, seconds: float) -> None:
        """Wait, or less where there is something to look at."""
        try:
            async with asyncio.timeout(seconds):
                await self._look.wait()
        except TimeoutError:
            pass

    async def _claim(self, group: asyncio.TaskGroup) -> int | None:
        """Begin what is due; return how many, or None where there is no endpoint."""
        endpoints = [row["id"] for row in await self._db.fetch("enabled_webhook_endpoints")]
        if not endpoints:
            return None
        rooms = {endpoint: PLACES - self._under_way[endpoint] for endpoint in endpoints}
        rows = await self._db.fetch("claim_webhooks", [*rooms], [*rooms.values()], CLAIM_S)
        claimed = Counter(row["endpoint_id"] for row in rows)
        self._crowded = {endpoint for endpoint in endpoints if claimed[endpoint] == rooms[endpoint]}
        for row in rows:
            self._under_way[row["endpoint_id"]] += 1
            group.create_task(self._deliver(row))
        return len(rows)

    async def _deliver(self, row: Row) -> None:
        endpoint = row["endpoint_id"]
        try:
            answer = await self._post(row)
            await self._settle(row, answer)
        except OrderflowError as error:
            # Its claim ends, and it is tried again: what cannot be written down did not happen.
            log.warning("webhook not settled", delivery_id=row["id"], reason=str(error))
        except Exception:
            log.exception("webhook not delivered", delivery_id=row["id"])
        finally:
            self._under_way[endpoint] -= 1
            # Not for each place that is free: what is claimed together costs one statement.
            if endpoint in self._crowded and self._under_way[endpoint] <= PLACES // 2:
                self._look.set()

    async def _post(self, row: Row) -> Answer:
        name = message_id(EventType(row["type"]), row["order_id"], row["refund_id"])
        secrets = [secret for secret in (row["secret"], row["old_secret"]) if secret]
        body = body_of(row)
        headers = signed_headers(name, int(time.time()), body, secrets)
        return await post(self._transport, row["url"], headers, body)

    async def _settle(self, row: Row, answer: Answer) -> None:
        """Write what came of an attempt, and what follows for the endpoint."""
        if answer.is_gone:
            # It goes on with this, too, if somebody enables it again.
            await self._disable(row, "it answered 410 Gone")
        wait_s = None
        if not answer.is_success:
            failed = row["tries"] + 1
            wait_s = 0.0 if answer.is_gone else next_try_s(failed, answer.retry_after_s)
        settled = await self._db.batch(
            "settle_webhooks",
            *(row["id"], row["attempts"], answer.is_success, wait_s),
            *(answer.took_ms, answer.status_code, answer.error, answer.text),
        )
        if settled is None:
            return  # another attempt decides, which began when the claim of this one had ended
        status = settled["status"]
        WEBHOOK_ATTEMPTS["failed" if status == "waiting" else status,] += 1
        log.debug(
            "webhook tried",
            delivery_id=row["id"],
            endpoint_id=str(row["endpoint_id"]),
            status_code=answer.status_code,
            error=answer.error,
        )
        if status == "given_up" and settled["silent"]:
            await self._disable(row, "nothing got through for days")

    async def _disable(self, row: Row, because: str) -> None:
        endpoint = row["endpoint_id"]
        if not (await get_endpoint(endpoint, db=self._db)).enabled:
            return  # several may be told at the same time
        log.warning("webhook endpoint disabled", endpoint_id=str(endpoint), reason=because)
        await disable_endpoint(endpoint, because, _ITSELF, db=self._db)
