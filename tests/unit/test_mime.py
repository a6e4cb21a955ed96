"""Mails as bytes: any reader makes of them what was meant, and no text gets out of its place."""

from __future__ import annotations

import re
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default

from hypothesis import example, given, settings
from hypothesis import strategies as st

from orderflow.senders import Message
from orderflow.senders.mime import write_from, write_mail

HEADERS = [
    *("From", "To", "Subject", "Date", "Message-ID", "Content-Language", "Auto-Submitted"),
    *("MIME-Version", "Content-Type"),
]
texts = st.text(st.characters(exclude_categories=["Cs"]))
lines = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=300)


def read(**changes: str | None) -> EmailMessage:
    fields = {"subject": "Hello", "text": "Hello.", "html": "<p>Hello.</p>", "reference": "x.1"}
    message = Message(recipient="ada@shop.example", **fields | changes)  # type: ignore[arg-type]
    written = write_mail(message, write_from("Müller <orders@shop.example>"), "shop.example")
    assert all(len(line) <= 998 for line in written.split(b"\r\n"))
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", written)
    mail = BytesParser(EmailMessage, policy=default).parsebytes(written)
    assert not mail.defects
    return mail


def body(mail: EmailMessage, subtype: str) -> str:
    part = mail.get_body([subtype])  # type: ignore[list-item]
    assert part is not None
    return str(part.get_content())


def as_lines(text: str) -> str:
    return re.sub(r"\r\n|\r|\n", "\r\n", f"{text}\n")


@settings(deadline=None)
@given(texts, texts)
@example(".\n..\r\n.\r", "=\n" + "x" * 2_000 + " \n\t\n")
@example("Grüße, 12,34 €\nFrom me to you", "\x00\x0b\u2028--")
def test_a_reader_sees_both_forms_as_they_were_written(text: str, html: str) -> None:
    mail = read(text=text, html=html)
    assert mail.keys() == HEADERS
    assert body(mail, "plain") == as_lines(text)
    assert body(mail, "html") == as_lines(html)


def test_a_mail_without_html_is_text_alone() -> None:
    mail = read(html=None)
    assert mail.get_content_type() == "text/plain"
    assert mail.get_content() == "Hello.\r\n"


@settings(deadline=None)
@given(lines)
@example("Ihre Bestellung 019a1b2c-3d4e-7f60-8a9b-0c1d2e3f4a5b ist bestätigt")
@example("=?utf-8?q?a=0D=0ABcc:_eve@shop.example?=")
@example("x" * 300)
def test_a_reader_sees_the_subject_as_it_was_written(subject: str) -> None:
    mail = read(subject=" ".join(subject.split()))
    assert mail.keys() == HEADERS
    assert " ".join(str(mail["Subject"]).split()) == " ".join(subject.split())


@settings(deadline=None)
@given(texts)
@example("Hello\r\nBcc: eve@shop.example")
@example("Hello\n\nBcc: eve@shop.example")
def test_nothing_in_a_subject_becomes_another_header(subject: str) -> None:
    assert read(subject=subject).keys() == HEADERS
