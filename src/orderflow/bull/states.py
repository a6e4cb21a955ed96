"""Where jobs are, as far as putting them back goes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import StrEnum

from orderflow.bull.producer import NodeQueue
from orderflow.bull.suspects import PUT_ASIDE


class JobState(StrEnum):
    """Where a job is, as far as putting it back goes."""

    MISSING = "missing"
    LOST = "lost"  # its hash is there, but it is in no list: nobody would ever run it
    LIVE = "live"  # waiting or delayed: it will run
    ASTRAY = "astray"  # delayed by a clock that was wrong: it would run, but much too late
    ACTIVE = "active"  # a worker is at it, or died over it: BullMQ's look for such finds it
    COMPLETED = "completed"
    FAILED = "failed"
    PUT_ASIDE = "put aside"  # failed, since it ended every worker that ran it


#: Further away than any delay of ours, in milliseconds: BullMQ's delays are by the clock of the
#: process that makes them, and this one was wrong. Clocks may differ by less.
ASTRAY_MS = 300_000

_STATES = {state.value: state for state in JobState}

#: Redis does nothing else meanwhile.
_LOOKED_AT_ONCE = 128

#: One script, so that a job that moves while it is looked for is in one place or the other. Ours
#: have a priority, so they wait in a set; the lists are searched from end to end, and only for
#: those that are in no set.
_SCRIPT = f"""
local prefix = KEYS[1]
-- A delay's score is its end in milliseconds times 4096, and a counter.
local astray = (redis.call("TIME")[1] * 1000 + {ASTRAY_MS}) * 4096
local function set(name, id) return redis.call("ZSCORE", prefix .. name, id) end
local function list(name, id) return redis.call("LPOS", prefix .. name, id) end
local function state(id)
  if redis.call("EXISTS", prefix .. id) == 0 then return "missing" end
  if set("prioritized", id) then return "live" end
  if redis.call("EXISTS", prefix .. id .. ":lock") == 1 then return "active" end
  if set("completed", id) then return "completed" end
  if set("failed", id) then
    local reason = redis.call("HGET", prefix .. id, "failedReason") or ""
    return string.find(reason, "{PUT_ASIDE}", 1, true) == 1 and "put aside" or "failed"
  end
  local due = set("delayed", id)
  if due then return tonumber(due) > astray and "astray" or "live" end
  if set("waiting-children", id) then return "live" end
  if list("active", id) then return "active" end
  if list("wait", id) or list("paused", id) then return "live" end
  return "lost"
end
local states = {{}}
for n, id in ipairs(ARGV) do states[n] = state(id) end
return states
"""


async def find_states(queue: NodeQueue, job_ids: Sequence[str]) -> dict[str, JobState]:
    """Say where each of a queue's jobs is, in a few round trips. Raises redis.RedisError."""
    script = queue.client.register_script(_SCRIPT)
    chunks = [
        job_ids[start : start + _LOOKED_AT_ONCE]
        for start in range(0, len(job_ids), _LOOKED_AT_ONCE)
    ]
    replies = await asyncio.gather(*(script(keys=[queue.keys[""]], args=chunk) for chunk in chunks))
    return {
        job_id: _STATES[place]
        for chunk, places in zip(chunks, replies, strict=True)
        for job_id, place in zip(chunk, places, strict=True)
    }
