"""Node BullMQ at the end of a pipe: see node/bridge.mjs for what it can do."""

from __future__ import annotations

import itertools
import json
import subprocess
import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
PATIENCE_S = 30.0


class NodeError(Exception):
    """What Node threw; its text is Node's."""


class Bridge:
    """One Node process with one version of BullMQ."""

    def __init__(self, node: str, version: str, redis_url: str) -> None:
        self.version = version
        self._process = subprocess.Popen(
            [node, str(FOLDER / "node" / "bridge.mjs"), version, redis_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._said: deque[str] = deque(maxlen=20)
        self._started: Future[Any] = Future()
        self._open: dict[int, Future[Any]] = {0: self._started}
        self._readers = [
            threading.Thread(target=self._read_answers, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        self._started.result(PATIENCE_S)

    def send(self, op: str, **args: Any) -> Future[Any]:
        """Ask for an operation; the future has its result or its NodeError."""
        future: Future[Any] = Future()
        request = {"id": next(self._ids), "op": op, "args": args}
        with self._lock:
            assert self._process.stdin is not None
            self._open[request["id"]] = future
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        return future

    def kill(self) -> None:
        """End the process as a power cut would."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End the process by ending its input."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        finally:
            self._process.kill()
            self._process.wait()
            for reader in self._readers:
                reader.join()
            for stream in (self._process.stdout, self._process.stderr):
                assert stream is not None
                stream.close()

    def _read_answers(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = json.loads(line)
            future = self._open.pop(answer["id"])
            if "error" in answer:
                future.set_exception(NodeError(answer["error"]["message"]))
            else:
                future.set_result(answer["result"])
        for future in list(self._open.values()):
            future.set_exception(NodeError("Node ended: " + "".join(self._said)))
        self._open.clear()

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        self._said.extend(self._process.stderr)


@dataclass(frozen=True)
class Node:
    """A bridge as one test uses it: all it does is under the test's own prefix."""

    bridge: Bridge
    prefix: str

    @property
    def version(self) -> str:
        return self.bridge.version

    def send(self, op: str, **args: Any) -> Future[Any]:
        """Ask for an operation and go on."""
        return self.bridge.send(op, prefix=self.prefix, **args)

    def ask(self, op: str, *, patience_s: float = PATIENCE_S, **args: Any) -> Any:
        """Ask for an operation and wait for its result. Raises NodeError."""
        return self.send(op, **args).result(patience_s)

    def add(self, queue: str, name: str, data: Any, opts: dict[str, Any] | None = None) -> str:
        """Add a job; return its id."""
        job_id: str = self.ask("add", queue=queue, name=name, data=data, opts=opts or {})
        return job_id

    def job(self, queue: str, job_id: str) -> dict[str, Any]:
        """Return a job as Node reads it, with its state."""
        job: dict[str, Any] | None = self.ask("getJob", queue=queue, jobId=job_id)
        assert job is not None, f"Node finds no job {job_id} on {queue}"
        return job
