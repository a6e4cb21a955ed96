"""Log lines: one form, ids in them, secrets not."""

from __future__ import annotations

import json
import logging

import pytest
import structlog

from orderflow.logs import configure_logs


@pytest.fixture(autouse=True)
def _restore_logging():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def logged(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


def test_a_line_is_json_with_its_time_level_and_fields(capsys):
    configure_logs("json", "info")
    structlog.get_logger("shop").info("order placed", order_id="o-1")
    line = json.loads(logged(capsys))
    assert line["event"] == "order placed"
    assert (line["order_id"], line["level"], line["logger"]) == ("o-1", "info", "shop")
    assert line["time"].endswith("Z")


def test_lines_of_other_libraries_have_the_same_form(capsys):
    configure_logs("json", "info")
    logging.getLogger("uvicorn").warning("something %s", "odd")
    assert json.loads(logged(capsys))["event"] == "something odd"


def test_the_level_is_kept(capsys):
    configure_logs("json", "warning")
    structlog.get_logger().info("quiet")
    assert logged(capsys) == ""


@pytest.mark.parametrize("form", ["json", "console"])
def test_secrets_are_masked_at_any_depth(capsys, form):
    configure_logs(form, "info")
    structlog.get_logger().info(
        "request",
        token="hunter2",
        headers={"Authorization": "Bearer hunter2", "Accept": "all"},
        bodies=[{"paymentToken": "hunter2"}, {"password": "hunter2"}],
    )
    line = logged(capsys)
    assert "hunter2" not in line
    assert "***" in line
    assert "all" in line


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_shows_no_local_variables(capsys, form):
    configure_logs(form, "info")

    def fails(password: str) -> None:
        raise ValueError(f"no: {len(password)}")

    try:
        fails("hunter" + "2")
    except ValueError:
        structlog.get_logger().exception("failed")
    line = logged(capsys)
    assert "ValueError: no: 7" in line
    assert "hunter2" not in line
