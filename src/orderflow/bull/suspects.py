"""Jobs over which workers died: it is found out which of them does it.

BullMQ counts for each job how often its worker left it (`stc`), guilty or not, and fails it by
that count. Here a job that was left more than once is a suspect. A process runs one suspect at a
time, and writes a mark into the job's hash for as long as it runs: a mark that stays is a death of
this job's making. The innocent come through their run alone, and their mark goes with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog
from bullmq import UnrecoverableError
from redis.asyncio import Redis

log = structlog.get_logger(__name__)

#: From so many times left. Once proves nothing, since most workers die from outside with all slots
#: full, and those jobs are to be done in seconds, not one by one.
SUSPECT_FROM = 2

#: How the reason begins for which a job was put aside.
PUT_ASIDE = "it ended its worker's process"
_MARK = "of:death:"

#: A field for each run, named after its token: marking twice, as after a lost reply, counts once.
_MARK_SCRIPT = """
if redis.call("GET", KEYS[2]) ~= ARGV[2] then return -1 end
local own, deaths = ARGV[1] .. ARGV[2], 0
for _, field in ipairs(redis.call("HKEYS", KEYS[1])) do
  if string.sub(field, 1, #ARGV[1]) == ARGV[1] and field ~= own then deaths = deaths + 1 end
end
if deaths < tonumber(ARGV[3]) then redis.call("HSET", KEYS[1], own, ARGV[4]) end
return deaths
"""

#: Does a command until Redis has taken it.
UntilRecorded = Callable[[Callable[[], Awaitable[int]]], Awaitable[int]]


class Suspects:
    """The suspects of one worker, which take turns.

    `deaths` is how many marks make a job guilty, and `worker` is written into them.
    """

    def __init__(
        self, redis: Redis, prefix: str, deaths: int, worker: str, until_recorded: UntilRecorded
    ) -> None:
        self._redis = redis
        self._prefix = prefix
        self._deaths = deaths
        self._worker = worker
        self._until_recorded = until_recorded
        self._turn = asyncio.Lock()
        self._mark = redis.register_script(_MARK_SCRIPT)

    @asynccontextmanager
    async def alone(self, job_id: str, token: str) -> AsyncIterator[None]:
        """Wait for the job's turn, and keep its mark while it runs inside.

        Raises UnrecoverableError for a job that is guilty, and what `until_recorded` raises.
        """
        key = f"{self._prefix}:{job_id}"

        async def mark() -> int:
            deaths = int(
                await self._mark(
                    keys=[key, f"{key}:lock"], args=[_MARK, token, self._deaths, self._worker]
                )
            )
            if deaths < 0:
                # BullMQ's type and words for this.
                raise TypeError(f"Missing lock for job {job_id}")
            return deaths

        async def unmark() -> int:
            return await self._redis.hdel(key, _MARK + token)

        async with self._turn:
            deaths = await self._until_recorded(mark)
            if deaths >= self._deaths:
                log.error("job put aside: it ends its workers", job_id=job_id, deaths=deaths)
                often = "once" if deaths == 1 else f"{deaths} times"
                raise UnrecoverableError(f"{PUT_ASIDE} {often}")
            try:
                yield
            finally:
                await self._until_recorded(unmark)
