"""The machine under the shop: its clock and its disks."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from orderflow.sandbox.chaos.scenarios import Run, Skipped, scenario

#: Where in /usr Debian, Ubuntu and Fedora have it.
_FAKETIME = ("lib/*/faketime/libfaketimeMT.so.1", "lib*/faketime/libfaketimeMT.so.1")
#: Room on the small disk beside what is there already.
_ROOM_BYTES = 48 * 2**20
#: So long nothing can be written.
_FULL_S = (2.0, 4.0)


@scenario("clock", "The clock of one worker of each kind is an hour ahead, then an hour behind")
async def _clock(run: Run) -> list[str]:
    library = _faketime()
    workers = ("payment-1", "notification-1", "order-1")
    for offset in ("+1h", "-1h"):
        environment = {
            "LD_PRELOAD": library,
            "FAKETIME": offset,
            # The kernel's time since boot is no clock that anyone sets.
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        await _restart(run, workers, environment)
        await asyncio.sleep(run.some_s(3.0, 4.0))
    await _restart(run, workers, {})
    return []


def _faketime() -> str:
    for pattern in _FAKETIME:
        for library in Path("/usr").glob(pattern):
            return str(library)
    raise Skipped("needs libfaketime, a package of the system")


async def _restart(run: Run, workers: tuple[str, ...], environment: dict[str, str]) -> None:
    for name in workers:
        kind = name.partition("-")[0]
        options = ("--concurrency", "20")
        await run.stack.swap(name, "orderflow.worker", kind, *options, environment=environment)


@scenario("full-disk-redis", "The disk of Redis' log is full for some seconds")
async def _full_disk_redis(run: Run) -> list[str]:
    async with _small_disk(run, "redis") as disk:
        await _fill(run, disk)
    return []


@scenario(
    "full-disk-postgres",
    "The disk of PostgreSQL is full for some seconds",
    may_tell_twice=True,
)
async def _full_disk_postgres(run: Run) -> list[str]:
    async with _small_disk(run, "postgres") as disk:
        await _fill(run, disk)
        if run.stack.postgres.process.poll() is not None:
            await run.stack.restart_postgres()
    return []


@asynccontextmanager
async def _small_disk(run: Run, server: str) -> AsyncIterator[Path]:
    """Have the server's data on a disk of its own, and bring them back. Raises Skipped."""
    disk = run.stack.folder / f"{server}-disk"
    used = _used_bytes(run.stack.homes[server])
    await asyncio.to_thread(_mount, disk, used + _ROOM_BYTES)
    try:
        before = run.stack.homes[server]
        await run.stack.move(server, disk / server)
        try:
            yield disk
        finally:
            (disk / "ballast").unlink(missing_ok=True)
            await run.stack.move(server, before)
    finally:
        await asyncio.to_thread(subprocess.run, ["umount", "--lazy", str(disk)], check=True)


async def _fill(run: Run, disk: Path) -> None:
    await asyncio.sleep(run.some_s(0.5, 1.5))
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        # What is freed meanwhile is taken as well.
        for _ in range(10):
            with suppress(OSError):  # there is no room left: as it is meant
                while file.write(bytes(2**20)):
                    pass
            with suppress(OSError):
                while file.write(bytes(2**10)):
                    pass
            await asyncio.sleep(run.some_s(*_FULL_S) / 10)
    ballast.unlink()


def _mount(disk: Path, size: int) -> None:
    disk.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        raise Skipped("needs to mount a small disk, which takes root")


def _used_bytes(folder: Path) -> int:
    size = 0
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError):  # a server at work removes files of its own
            size += file.stat().st_size
    return size
