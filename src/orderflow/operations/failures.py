"""Failures: what went wrong with which attempt of which job, kept past the job, and in groups.

A group is all that failed in the same way: the same queue, type of error, place in the code, and
message but for what differs from job to job. Workers of orderflow write them; what a Node worker
makes of a job is in Redis alone, and in the list of its failed jobs.
"""

from __future__ import annotations

import hashlib
import re
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import UUID

import structlog

from orderflow.bull.worker import FailedAttempt
from orderflow.contract import order_row_id
from orderflow.db import Database, Reads
from orderflow.errors import DatabaseUnavailable, FailureGroupNotFound
from orderflow.operations.masking import mask_text
from orderflow.orders import Row

log = structlog.get_logger(__name__)

#: Of one failure so much is kept. What is cut off of a stack is its beginning.
_MESSAGE, _STACK, _NAME = 2_000, 8_000, 255

_PURGED_AT_ONCE = 10_000
_FINGERPRINT = re.compile(r"[0-9a-f]{16}")

#: A word with a digit is a number, an id, an address or a time: it differs from job to job.
_VARYING = re.compile(r"[\w.:/+-]*\d[\w.:/+-]*")


@dataclass(frozen=True, slots=True)
class Failure:
    """One attempt that failed. `final`: no other followed. Text is masked as it is written."""

    id: int
    at: datetime
    queue: str
    job_id: str
    job_name: str
    order_id: UUID | None
    attempt: int
    final: bool
    error_type: str
    message: str
    stack: str
    fingerprint: str
    worker: str


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """What failed in the same way. `finals` are those failures after which no attempt was left."""

    fingerprint: str
    queue: str
    job_name: str
    error_type: str
    place: str
    example: str
    example_job_id: str
    failures: int
    finals: int
    first_seen: datetime
    last_seen: datetime


async def record_failure(failed: FailedAttempt, worker: str, *, db: Database) -> None:
    """Write a failed attempt down, together with those that fail at the same time.

    It raises nothing: where PostgreSQL does not take it, the log says so, and the jobs go on.
    """
    if isinstance(failed.error, DatabaseUnavailable):
        return  # as this would be
    try:
        await db.batch(
            "record_failures", *_row(failed, worker), apart=(failed.job_id, failed.attempt)
        )
    except Exception as error:
        log.warning("failure not kept", job_id=failed.job_id, reason=str(error))


def _row(failed: FailedAttempt, worker: str) -> tuple[Any, ...]:
    error, error_type = failed.error, type(failed.error).__name__
    message = _plain(str(error) or error_type)[:_MESSAGE]
    place = place_of_error(error)
    return (
        failed.queue,
        _plain(failed.job_id)[:_NAME],
        _plain(failed.name)[:_NAME],
        order_row_id(failed.data),
        failed.attempt,
        failed.final,
        error_type,
        message,
        _plain("".join(traceback.format_exception(error)))[-_STACK:],
        fingerprint_of(failed.queue, error_type, place, message),
        place,
        worker,
    )


def fingerprint_of(queue: str, error_type: str, place: str, message: str) -> str:
    """Return the name of the group: the same whatever numbers and ids the message has."""
    same = _VARYING.sub("#", message)
    digest = hashlib.sha256("\0".join((queue, error_type, place, same)).encode())
    return digest.hexdigest()[:16]


def place_of_error(error: BaseException) -> str:
    """Return where it was raised: the innermost function of ours or of a worker's own file.

    No line, which another release moves. Empty for an error that never was raised.
    """
    frames = _frames(error.__traceback__)
    ours = [frame for frame in frames if "site-packages" not in frame[0] and "<" not in frame[0]]
    for file, function in reversed(ours or frames):
        return f"{Path(file).name}:{function}"
    return ""


def _frames(trace: TracebackType | None) -> list[tuple[str, str]]:
    return [(frame.filename, frame.name) for frame in traceback.extract_tb(trace)]


def _plain(text: str) -> str:
    """Return a text that PostgreSQL takes, masked."""
    return mask_text(text.replace("\x00", ""))


async def list_groups(
    *,
    db: Database,
    queue: str | None = None,
    since: datetime | None = None,
    limit: int = 50,
) -> list[FailureGroup]:
    """Return the groups, the one that was seen last first: of one queue, or seen `since`."""
    return list(map(_group, await db.fetch("failure_groups", queue, since, limit)))


async def get_group(fingerprint: str, *, db: Database) -> FailureGroup:
    """Return one group. Raises FailureGroupNotFound."""
    named = _FINGERPRINT.fullmatch(fingerprint)
    row = await db.fetchrow("failure_group", fingerprint) if named else None
    if row is None:
        raise FailureGroupNotFound(fingerprint=fingerprint)
    return _group(row)


async def failures_of_group(
    fingerprint: str, *, db: Database, before: int | None = None, limit: int = 20
) -> list[Failure]:
    """Return failures of a group, the newest first; `before` is the id that a page goes on at."""
    return read_failures(await db.fetch("failures_of_group", fingerprint, before, limit))


async def failures_of_job(
    queue: str, job_id: str, *, db: Database, limit: int = 50
) -> list[Failure]:
    """Return every attempt of a job that failed, the newest first, also of one that is gone."""
    return read_failures(await db.fetch("failures_of_job", queue, job_id, limit))


async def failures_of_order(order_id: UUID, *, db: Reads, limit: int = 200) -> list[Failure]:
    """Return every failed attempt of an order's jobs, the newest first."""
    return read_failures(await db.fetch("failures_of_order", order_id, limit))


async def purge_failures(older_than_s: int, *, db: Database) -> int:
    """Forget failures of so long ago, with their groups and bulk actions; return how many.

    A call forgets 10,000 at most; the oldest go first.
    """
    return len(await db.fetch("purge_failures", older_than_s, _PURGED_AT_ONCE))


def read_failures(rows: Sequence[Row]) -> list[Failure]:
    """Return the failures in rows of `job_failures`."""
    return [Failure(**{name: row[name] for name in Failure.__slots__}) for row in rows]


def _group(row: Any) -> FailureGroup:
    return FailureGroup(**{name: row[name] for name in FailureGroup.__slots__})
