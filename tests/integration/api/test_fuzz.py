"""Requests made from the reference, right and wrong: each answer is in it, and none is 5xx."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, assume, given
from hypothesis import settings as hypothesis_settings
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from tests.conftest import SECRET, process_environment, start_program, wait_until

from orderflow.resources import Resources
from orderflow.sandbox.servers import free_port, port_is_taken
from orderflow.sandbox.tokens import make_token
from orderflow.settings import Settings


@pytest.fixture
def url(
    settings: Settings, resources: Resources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """The API as a process of its own."""
    assert resources
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    port = free_port()
    program = start_program(
        tmp_path / "api.log",
        "orderflow.api",
        environment=process_environment(settings) | {"PORT": str(port), "JWT_SECRET": SECRET},
    )
    wait_until(lambda: port_is_taken(port), "the API")
    yield f"http://127.0.0.1:{port}"
    assert program.stop() == 0
    assert "Traceback" not in program.log.read_text()


@pytest.mark.parametrize("admin", [False, True])
def test_every_answer_is_one_of_the_reference(url: str, admin: bool) -> None:
    reference = schemathesis.openapi.from_url(f"{url}/openapi.json")
    headers = {"Authorization": f"Bearer {make_token(SECRET, 'user-1', admin=admin)}"}
    operations = [found.ok() for found in reference.get_all_operations()]
    assert "/checkout" in {operation.path for operation in operations}
    for operation in operations:
        parts = list(operation.iter_parameters()) + list(operation.body)
        # Where nothing can be wrong there is nothing to try twice either.
        for mode in GenerationMode if parts else ():
            _try(operation, mode, headers)


def _try(operation: APIOperation, mode: GenerationMode, headers: dict[str, str]) -> None:
    @hypothesis_settings(
        max_examples=10 if operation.path.startswith("/admin/api/") else 20,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Case) -> None:
        # Of an empty list or object nothing is sent, so that nothing is wrong with the request.
        assume(all(value not in (None, [], {}) for value in (case.query or {}).values()))
        if mode is GenerationMode.POSITIVE and case.operation.path == "/checkout":
            # What is for sale no reference knows, and without it no order would be placed.
            for item in case.body["items"]:
                item["sku"] = "pot-glass"
        case.call_and_validate(
            headers=headers,
            timeout=30,
            # Nor does it know which cursors there are, nor what a total comes to.
            excluded_checks=[positive_data_acceptance],
        )

    check()
