"""A shop of real processes, that a test can use, break and mend."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.conftest import SECRET, Program, process_environment, start_program, wait_until

from orderflow.resources import Resources
from orderflow.sandbox.servers import free_port
from orderflow.sandbox.tokens import make_token
from orderflow.settings import Settings

REPOSITORY = Path(__file__).parents[2]


@dataclass
class ShopProcesses:
    """The API and the workers of one shop."""

    folder: Path
    environment: dict[str, str]
    port: int
    programs: dict[str, Program] = field(default_factory=dict)
    _starts: Iterator[int] = field(default_factory=itertools.count)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, *names: str, **changes: str) -> None:
        """Start `api` or a worker by name, with changes to its settings."""
        for name in names:
            module = ["orderflow.api"] if name == "api" else ["orderflow.worker", name]
            log = self.folder / f"{name}.{next(self._starts)}.log"
            self.programs[name] = start_program(
                log, *module, environment=self.environment | changes
            )
        for name in names:
            wait_until(
                self._ready if name == "api" else self._started(name), f"the start of {name}"
            )

    def stop(self, *names: str) -> None:
        """Stop as a deploy does."""
        for name in names:
            assert self.programs.pop(name).stop() == 0, self.log(name)

    def kill(self, name: str) -> None:
        """Stop as a crash does."""
        program = self.programs.pop(name)
        program.process.kill()
        program.process.wait()

    def log(self, name: str) -> str:
        """Return what all processes of this name have said."""
        return "".join(log.read_text() for log in sorted(self.folder.glob(f"{name}.*.log")))

    def client(self, user: str = "user-1", *, admin: bool = False) -> httpx.Client:
        token = make_token(SECRET, user, admin=admin)
        return httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=30,
            trust_env=False,
        )

    def checkout(self, **changes: Any) -> dict[str, Any]:
        """Place an order over HTTP and return its receipt."""
        with self.client() as client:
            answer = client.post("/checkout", json=body(**changes))
        assert answer.status_code == 202, answer.text
        receipt: dict[str, Any] = answer.json()
        return receipt

    def order(self, order_id: str) -> dict[str, Any]:
        with self.client(admin=True) as client:
            order: dict[str, Any] = client.get(f"/orders/{order_id}").raise_for_status().json()
        return order

    def wait_for(self, order_id: str, status: str) -> dict[str, Any]:
        wait_until(lambda: self.order(order_id)["status"] == status, f"order {status}", 60)
        return self.order(order_id)

    def _started(self, name: str) -> Callable[[], bool]:
        return lambda: "worker started" in self.programs[name].log.read_text()

    def _ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/livez", trust_env=False).is_success
        except httpx.TransportError:
            assert self.programs["api"].process.poll() is None, self.log("api")
            return False


def body(**changes: Any) -> dict[str, Any]:
    return {
        "items": [{"sku": "pot-glass", "quantity": 1}],
        "paymentMethod": "card",
        "paymentToken": "tok_approve",
        "contact": {"email": "ada@shop.example"},
    } | changes


@pytest.fixture
def closed_shop(
    settings: Settings,
    resources: Resources,  # noqa: ARG001 - loads the catalogue
    tmp_path: Path,
) -> Iterator[ShopProcesses]:
    """A shop with its catalogue, of which no process runs yet."""
    port = free_port()
    shop = ShopProcesses(
        folder=tmp_path,
        port=port,
        environment={
            "PORT": str(port),
            "JWT_SECRET": SECRET,
            **process_environment(settings),
            "RECONCILE_INTERVAL_MS": "1000",
            "RECONCILE_GRACE_MS": "500",
        },
    )
    yield shop
    for name in list(shop.programs):
        shop.kill(name)


@pytest.fixture
def shop(closed_shop: ShopProcesses) -> ShopProcesses:
    """A shop whose every process runs."""
    closed_shop.start("payment", "notification", "order", "api")
    return closed_shop


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a person who clones this would have: the tracked files, as they are now."""
    folder = tmp_path_factory.mktemp("clone") / "orderflow"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        original, copy = REPOSITORY / name, folder / name
        if original.exists():  # git lists what was deleted and is not committed yet
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(original, copy)
    return folder
