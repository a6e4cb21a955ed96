"""A mail as it goes over SMTP.

The library's `EmailMessage` takes a millisecond to make and write one, many times all the rest of
a notification. So it is asked for what is not plain, and the mail is put together here.
"""

from __future__ import annotations

import re
from binascii import b2a_base64, b2a_qp
from collections.abc import Iterator
from datetime import UTC, datetime
from email.policy import SMTP
from email.utils import format_datetime
from secrets import token_hex

from orderflow.senders import Message

#: A subject that stands in its header as it is, on one line; not what reads as if it were encoded.
_PLAIN = re.compile(r"(?!.*=\?)[!-~](?:[ -~]{0,64}[!-~])?")

#: Bytes that with their encoding, and `Subject: ` before them, stay within 76 characters.
_PIECE = 39


def write_mail(message: Message, from_header: str, domain: str) -> bytes:
    """Return the mail. Its recipient has to be an address, without anything around it."""
    head = (
        f"{from_header}"
        f"To: {message.recipient}\r\n"
        f"Subject: {_in_a_header(message.subject)}\r\n"
        f"Date: {format_datetime(datetime.now(UTC))}\r\n"
        f"Message-ID: {message_id(message, domain)}\r\n"
        f"Content-Language: {message.language}\r\n"
        "Auto-Submitted: auto-generated\r\n"
        "MIME-Version: 1.0\r\n"
    ).encode()
    text = _part("plain", message.text)
    if message.html is None:
        return head + text
    mark = token_hex(16).encode()
    return b"".join(
        (
            head,
            b'Content-Type: multipart/alternative; boundary="%b"\r\n\r\n' % mark,
            *(b"--%b\r\n%b\r\n" % (mark, part) for part in (text, _part("html", message.html))),
            b"--%b--\r\n" % mark,
        )
    )


def message_id(message: Message, domain: str) -> str:
    """Return the Message-ID, which is the same for every attempt."""
    return f"<{message.reference}@{domain}>"


def write_from(sender: str) -> str:
    """Return the header `From` of a sender, as `Müller <orders@shop.example>`."""
    return str(SMTP.fold(*SMTP.header_store_parse("From", sender)))


def _in_a_header(subject: str) -> str:
    if _PLAIN.fullmatch(subject):
        return subject
    return "\r\n ".join(map(_encoded, _pieces(subject)))


def _pieces(text: str) -> Iterator[bytes]:
    """Cut a text into pieces of whole characters, each short enough for a line of a header."""
    piece = b""
    for character in text:
        encoded = character.encode()
        if len(piece) + len(encoded) > _PIECE:
            yield piece
            piece = b""
        piece += encoded
    if piece:
        yield piece


def _encoded(piece: bytes) -> str:
    return f"=?utf-8?b?{b2a_base64(piece, newline=False).decode()}?="


def _part(subtype: str, text: str) -> bytes:
    # As it is told to, the encoder leaves ends of lines alone; SMTP knows one kind of them.
    lines = f"{text}\n".replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\r\n")
    return (
        b'Content-Type: text/%b; charset="utf-8"\r\n'
        b"Content-Transfer-Encoding: quoted-printable\r\n\r\n%b"
    ) % (subtype.encode(), b2a_qp(lines.encode(), istext=True))
