"""Templates: every kind in every language, the shop's own before ours, and what goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from orderflow.contract import JobName
from orderflow.errors import InvalidSettings, TemplateFailed
from orderflow.orders import Item, Order
from orderflow.senders import Channel, Message
from orderflow.senders.messages import Templates
from orderflow.senders.sample import SAMPLE, SAMPLE_EVENT

Own = Callable[..., Templates]

SHIPPED = Path(__file__).parents[2] / "src/orderflow/templates"
KINDS = sorted({name.name.partition(".")[0] for name in SHIPPED.glob("en/*.subject.jinja")})
LANGUAGES = sorted(folder.name for folder in SHIPPED.iterdir() if folder.is_dir())


def render(
    templates: Templates,
    order: Order = SAMPLE,
    kind: str = "order-confirmation",
    channel: Channel = Channel.EMAIL,
) -> Message:
    return templates.render(JobName(kind), channel, order, "ada@shop.example", SAMPLE_EVENT)


@pytest.fixture
def own(tmp_path: Path) -> Own:
    """Write templates of a shop; return them, with ours behind."""

    def own(files: dict[str, str], default_language: str = "en") -> Templates:
        for name, text in files.items():
            path = tmp_path / f"{name}.jinja"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        return Templates(tmp_path, default_language)

    return own


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_written_in_every_language(kind: str, language: str) -> None:
    templates = Templates(None, language)
    mail = render(templates, kind=kind)
    sms = render(templates, kind=kind, channel=Channel.SMS)
    assert mail.language == sms.language == language
    assert mail.html is not None
    assert f'<html lang="{language}">' in mail.html
    for text in (mail.subject, mail.text, mail.html, sms.text):
        assert str(SAMPLE.id) in text
    assert (sms.subject, sms.html) == ("", None)
    assert "second flush" in mail.html
    assert "<second flush>" in mail.text
    assert "<second flush>" not in mail.html


def test_money_is_read_as_in_the_language() -> None:
    assert "Total: 42.80 EUR" in render(Templates()).text
    assert "Summe: 42,80 EUR" in render(Templates(None, "de")).text


def test_a_file_of_the_shop_goes_before_ours_and_the_others_stay(own: Own) -> None:
    mail = render(own({"en/order-confirmation.subject": "Hurray, {{ order.id }}"}))
    assert mail.subject == f"Hurray, {SAMPLE.id}"
    assert "is paid and confirmed" in mail.text


def test_the_frame_of_all_mails_is_one_file(own: Own) -> None:
    templates = own({"layout.html": "<b>Our shop</b>{% block content %}{% endblock %}"})
    for kind in KINDS:
        assert str(render(templates, kind=kind).html).startswith("<b>Our shop</b>")


def test_a_mail_may_do_without_html(own: Own) -> None:
    files = {"nl/order-confirmation.subject": "Bevestigd", "nl/order-confirmation.txt": "Dank u."}
    mail = render(own(files, "nl"))
    assert (mail.subject, mail.text, mail.html) == ("Bevestigd", "Dank u.", None)


def test_what_the_default_language_lacks_is_english(own: Own) -> None:
    mail = render(own({"nl/order-confirmation.subject": "Bevestigd"}, "nl"))
    assert (mail.language, mail.subject) == ("en", f"Your order {SAMPLE.id} is confirmed")


def test_a_default_language_that_nobody_wrote_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="DEFAULT_LANGUAGE: must be one that has templates: "):
        Templates(tmp_path, "fr")


def test_a_subject_stays_one_line(own: Own) -> None:
    item = Item("x", "Tea\r\nBcc: eve@shop.example\u2028X-Evil: 1", 1, SAMPLE.total)
    templates = own({"en/order-confirmation.subject": "{{ order.items[0].name }}"})
    mail = render(templates, replace(SAMPLE, items=(item,)))
    assert mail.subject == "Tea Bcc: eve@shop.example X-Evil: 1"


FAULTS = {
    "unknown-name": ("Hello\n{{ order.nam }}", 2, "has no attribute 'nam'"),
    "no-end": ("Hello\n\n{% if order %}", 3, "Unexpected end of template"),
    "missing-file": ("{% include 'nowhere.jinja' %}", 1, "TemplateNotFound, nowhere.jinja"),
    "python": ("Hello\n{{ 1 / 0 }}", 2, "ZeroDivisionError"),
    "personal": ("{{ order.created_at.strptime(order.email, '%Y') }}", 1, "ValueError"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_error_names_file_line_and_reason_and_no_data(own: Own, fault: str) -> None:
    text, line, reason = FAULTS[fault]
    with pytest.raises(TemplateFailed) as failed:
        render(own({"en/order-confirmation.txt": text}))
    told = str(failed.value)
    assert f"en/order-confirmation.txt.jinja, line {line}, " in told
    assert reason in told
    assert "ada@" not in told
    assert failed.value.__cause__ is None
