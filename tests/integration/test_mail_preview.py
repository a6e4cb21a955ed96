"""`orderflow mail preview`, run as it is: what it prints, and what it ends with."""

from __future__ import annotations

import subprocess
from pathlib import Path
from uuid import uuid4

import pytest
from tests.integration.cli import run_command
from tests.integration.conftest import PlaceOrder

from orderflow.senders.sample import SAMPLE
from orderflow.settings import Settings


def preview(folder: Path, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run_command("mail", "preview", *args, folder=folder, environment=environment)


def test_a_sample_is_shown_in_a_language(tmp_path: Path) -> None:
    done = preview(tmp_path, "order-confirmation", "--language", "de-AT")
    assert (done.returncode, done.stderr) == (0, "")
    subject, *_, sms = done.stdout.splitlines()
    assert subject == f"Subject: Ihre Bestellung {SAMPLE.id} ist bestätigt"
    assert sms.startswith(f"SMS: Ihre Bestellung {SAMPLE.id}")


def test_what_is_not_there_in_a_language_is_said(tmp_path: Path) -> None:
    done = preview(tmp_path, "payment-failed", "--language", "fr")
    assert done.returncode == 0
    assert done.stderr == "there is none in 'fr': this is in 'en'\n"
    assert done.stdout.startswith("Subject: Your order ")


async def test_an_order_is_shown_in_the_shops_own_words(
    tmp_path: Path, settings: Settings, place: PlaceOrder
) -> None:
    receipt = await place(contact={"email": "ada@shop.example", "language": "nl"})
    words = {"subject": "Dank u", "txt": "{{ order.id }}", "html": "<b>{{ order.id }}</b>"}
    (tmp_path / "own" / "nl").mkdir(parents=True)
    for part, text in words.items():
        (tmp_path / "own" / "nl" / f"order-confirmation.{part}.jinja").write_text(text)
    done = preview(
        tmp_path,
        *("order-confirmation", "--order", str(receipt.order_id), "--html"),
        TEMPLATES_DIR="own",
        DATABASE_URL=settings.database_dsn,
    )
    assert (done.stdout, done.stderr) == (f"<b>{receipt.order_id}</b>\n", "")
    unknown = uuid4()
    done = preview(
        tmp_path,
        *("order-confirmation", "--order", str(unknown)),
        DATABASE_URL=settings.database_dsn,
    )
    assert (done.returncode, done.stderr) == (1, f"There is no order '{unknown}'.\n")


@pytest.mark.parametrize(
    ("args", "environment", "told"),
    [
        (["order-lost"], {}, "KIND: must be one of order-cancelled, "),
        (["order-confirmation"], {"DEFAULT_LANGUAGE": "fr"}, "DEFAULT_LANGUAGE: must be one that"),
        (["order-confirmation"], {"TEMPLATES_DIR": "."}, "order-confirmation.txt.jinja, line 2, "),
    ],
    ids=["kind", "language", "template"],
)
def test_what_is_wrong_is_told_in_one_line(
    tmp_path: Path, args: list[str], environment: dict[str, str], told: str
) -> None:
    (tmp_path / "en").mkdir()
    (tmp_path / "en" / "order-confirmation.txt.jinja").write_text("Hello\n{{ order.nothing }}")
    done = preview(tmp_path, *args, **environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
