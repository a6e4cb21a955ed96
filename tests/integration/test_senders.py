"""Senders, spoken to as they are in production: mail over SMTP and TLS, SMS over HTTP."""

from __future__ import annotations

import asyncio
import json
import traceback
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.integration.post_office import PostOffice, open_post_office
from tests.integration.tls import make_certificates
from tests.integration.twilio import ACCOUNT, SENDER, TOKEN, Twilio, listening, open_twilio_server

from orderflow.errors import AddressRefused, SenderUnavailable
from orderflow.sandbox.servers import free_port
from orderflow.senders import Channel, Message, Sender
from orderflow.senders.opening import open_senders
from orderflow.senders.paced import PacedSender
from orderflow.senders.smtp import SmtpSender
from orderflow.settings import Settings

PASSWORD = "hunter2-and-more"
MAIL = Message("ada@shop.example", "Hello", "Hello.", "<p>Hello.</p>", "order-confirmation.1", "de")
SMS = Message("+4915112345678", "", "Hello, 12,34 €", reference="order-confirmation.1")


@pytest.fixture(params=[False, True], ids=["one by one", "pipelining"])
async def office(request: pytest.FixtureRequest) -> AsyncIterator[PostOffice]:
    async with open_post_office(says_pipelining=request.param) as office:
        yield office


@asynccontextmanager
async def mailing(office: PostOffice, **changes: Any) -> AsyncIterator[SmtpSender]:
    sender = SmtpSender(Settings(_env_file=None, smtp_port=office.port, **changes))
    yield sender
    await sender.close()


async def test_many_mails_share_few_connections_and_each_arrives_once(office: PostOffice) -> None:
    mails = [replace(MAIL, reference=f"order-confirmation.{n}") for n in range(60)]
    async with mailing(office, smtp_connections=3) as sender:
        references = await asyncio.gather(*(sender.send(mail) for mail in mails))
    arrived = Counter(str(mail["Message-ID"]).strip() for mail in office.mails)
    assert arrived == Counter(f"<{mail.reference}@shop.example>" for mail in mails)
    assert sorted(references) == sorted(arrived)
    assert len(office.sessions) <= 3


async def test_one_mail_after_the_other_needs_one_connection(office: PostOffice) -> None:
    async with mailing(office) as sender:
        for _ in range(5):
            await sender.send(MAIL)
        assert len(office.sessions) == 1
    assert len(office.mails) == 5


async def test_a_connection_that_the_server_closed_loses_no_mail(office: PostOffice) -> None:
    async with mailing(office) as sender:
        await sender.send(MAIL)
        office.hang_up()
        await sender.send(MAIL)
    assert (len(office.mails), len(office.sessions)) == (2, 2)


async def test_a_server_that_wants_to_close_gets_the_mail_on_a_new_connection(
    office: PostOffice,
) -> None:
    async with mailing(office) as sender:
        await sender.send(MAIL)
        office.answers["MAIL"] = "421 4.7.0 too many mails on one connection"
        with pytest.raises(SenderUnavailable, match=r"SMTP 421 4\.7\.0"):
            await sender.send(MAIL)
        del office.answers["MAIL"]
        await sender.send(MAIL)
    assert (len(office.mails), len(office.sessions)) == (2, 3)


@pytest.mark.parametrize(
    ("command", "answer", "error", "reason"),
    [
        ("RCPT", "550 5.1.1 no mailbox {address}", AddressRefused, "SMTP 550 5.1.1"),
        ("RCPT", "553 {address} is no address", AddressRefused, "SMTP 553"),
        ("RCPT", "452 4.2.2 mailbox of {address} is full", SenderUnavailable, "SMTP 452 4.2.2"),
        ("RCPT", "554 5.7.1 <{address}>: relay denied", SenderUnavailable, "SMTP 554 5.7.1"),
        ("RCPT", "530 sign in first", SenderUnavailable, "SMTP 530"),
        ("DATA", "552 5.3.4 too large", AddressRefused, "SMTP 552 5.3.4"),
        ("DATA", "451 4.3.0 try again, ada@shop.example", SenderUnavailable, "SMTP 451 4.3.0"),
        ("DATA", "550 5.7.26 not from you", SenderUnavailable, "SMTP 550 5.7.26"),
        ("MAIL", "553 5.1.8 bad sender", SenderUnavailable, "SMTP 553 5.1.8"),
    ],
)
async def test_a_refusal_is_for_good_where_it_is_about_the_address_or_the_mail(
    office: PostOffice, command: str, answer: str, error: type[Exception], reason: str
) -> None:
    office.answers[command] = answer
    async with mailing(office) as sender:
        with pytest.raises(error) as refused:
            await sender.send(MAIL)
        assert refused.value.fields["reason"] == reason  # type: ignore[attr-defined]
        assert "ada@" not in told(refused.value)
        office.answers.clear()
        await sender.send(MAIL)
    assert len(office.mails) == 1


async def test_a_server_that_hangs_is_left_and_the_next_mail_has_a_connection_of_its_own(
    office: PostOffice,
) -> None:
    async with mailing(office, smtp_timeout_ms=1_000, smtp_connections=1) as sender:
        office.open.clear()
        with pytest.raises(SenderUnavailable, match="no answer within 1000 ms"):
            await sender.send(MAIL)
        office.open.set()
        await asyncio.wait_for(sender.send(replace(MAIL, reference="order-confirmation.2")), 10)
    assert "<order-confirmation.2@shop.example>" in {
        str(mail["Message-ID"]).strip() for mail in office.mails
    }


async def test_dots_at_the_beginning_of_lines_stay_as_they_are(office: PostOffice) -> None:
    text = ".\n..\n.hidden\nend."
    async with mailing(office) as sender:
        await sender.send(replace(MAIL, text=text, html=None))
        await sender.send(MAIL)
    assert office.mails[0].get_content() == f"{text}\n".replace("\n", "\r\n")
    assert len(office.mails) == 2


@asynccontextmanager
async def answering(*answers: bytes) -> AsyncIterator[int]:
    """Give the port of a server that greets, gives these answers to what comes, and hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.current_task())
        writer.write(b"220 office\r\n")
        for answer in answers:
            await reader.read(65_536)
            for part in answer.split(b"|"):
                writer.write(part)
                # The client reads what there is before the rest comes.
                await asyncio.sleep(0.01)
        writer.close()

    serving: list[asyncio.Task[None] | None] = []
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        await asyncio.gather(*filter(None, serving))


HELLO = b"250-office\r\n250 PIPELINING\r\n"


async def test_answers_may_come_in_any_pieces() -> None:
    together = b"2|50-sender\r\n25|0 ok\r\n250 2.1.5 ok\r|\n354 go on\r\n"
    async with answering(HELLO, together, b"250-2.0.0\r\n250|\r\n", b"221 bye\r\n") as port:
        sender = SmtpSender(Settings(_env_file=None, smtp_port=port))
        await sender.send(MAIL)
        await sender.close()


@pytest.mark.parametrize(
    ("answers", "error", "reason"),
    [
        ([b"250 ok\r\n550 5.1.1 nobody\r\n354 go on\r\n"], AddressRefused, "SMTP 550 5.1.1"),
        ([b"250 ok\r\n250 ok\r\n451 4.3.0 later\r\n"], SenderUnavailable, "SMTP 451 4.3.0"),
        ([b"250 ok\r\n"], SenderUnavailable, "SMTPServerDisconnected"),
        ([b"250-" + b"x" * 40_000], SenderUnavailable, "SMTPServerDisconnected"),
        ([b"what?\r\n"], SenderUnavailable, "SMTPServerDisconnected"),
    ],
    ids=["no recipient", "no mail", "no more", "no end", "no sense"],
)
async def test_a_server_that_answers_otherwise_is_left(
    answers: list[bytes], error: type[Exception], reason: str
) -> None:
    async with answering(HELLO, *answers) as port:
        sender = SmtpSender(Settings(_env_file=None, smtp_port=port, smtp_timeout_ms=5_000))
        with pytest.raises(error) as failed:
            await sender.send(MAIL)
        assert failed.value.fields["reason"] == reason  # type: ignore[attr-defined]
        await sender.close()


async def test_a_server_that_is_away_is_an_attempt() -> None:
    sender = SmtpSender(Settings(_env_file=None, smtp_port=free_port()))
    with pytest.raises(SenderUnavailable, match="SMTPConnectError"):
        await sender.send(MAIL)


@pytest.mark.parametrize(
    "recipient",
    [
        "ada@shop.example\r\nBcc: eve@shop.example",
        "ada@shop.example\nRCPT TO:<eve@shop.example>",
        "ada@shop.example, eve@shop.example",
        "Ada <ada@shop.example>",
        "ada@shop.example> SIZE=1",
        "ada shop@shop.example",
        "ada",
        "",
    ],
    ids=range(8),
)
async def test_what_is_no_single_address_reaches_no_server(
    office: PostOffice, recipient: str
) -> None:
    async with mailing(office) as sender:
        with pytest.raises(AddressRefused, match="it is no address"):
            await sender.send(replace(MAIL, recipient=recipient))
    assert office.sessions == []


async def test_a_subject_brings_no_header_with_it(office: PostOffice) -> None:
    async with mailing(office) as sender:
        await sender.send(replace(MAIL, subject="Tea\r\nBcc: eve@shop.example\r\n\r\nHello"))
    [mail] = office.mails
    assert office.recipients == ["ada@shop.example"]
    assert mail["Bcc"] is None
    assert mail["Content-Language"] == "de"


async def test_an_international_domain_is_sent_as_name_servers_know_it(office: PostOffice) -> None:
    async with mailing(office) as sender:
        await sender.send(replace(MAIL, recipient="ada@bücher.example"))
    assert office.recipients == ["ada@xn--bcher-kva.example"]


async def test_an_international_mailbox_goes_to_servers_that_know_of_them() -> None:
    mail = replace(MAIL, recipient="ädä@bücher.example")
    async with open_post_office() as office, mailing(office) as sender:
        with pytest.raises(AddressRefused, match="the server takes it in ASCII only"):
            await sender.send(mail)
        assert office.mails == []
    async with open_post_office(enable_SMTPUTF8=True) as office, mailing(office) as sender:
        await sender.send(mail)
    assert office.recipients == ["ädä@xn--bcher-kva.example"]
    assert office.mails[0]["To"] == "ädä@bücher.example"


@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_mail_over_tls_with_a_password(tmp_path: Path, security: str) -> None:
    ca, context = make_certificates(tmp_path / "ours", "127.0.0.1")
    other_ca, _ = make_certificates(tmp_path / "other", "127.0.0.1")
    good = {
        "smtp_security": security,
        "smtp_ca_file": ca,
        "smtp_username": "shop",
        "smtp_password": PASSWORD,
    }
    async with open_post_office(context, PASSWORD, implicit=security == "tls") as office:
        async with mailing(office, **good) as sender:
            await sender.send(MAIL)
            await sender.send(MAIL)
        assert office.signed_in == [True, True]
        assert len(office.sessions) == 1
        refused = {
            "its certificate, ": {"smtp_ca_file": other_ca},
            "its certificate, Hostname mismatch": {"smtp_host": "localhost"},
            "SMTP 535": {"smtp_password": "wrong-secret"},
        }
        for reason, changes in refused.items():
            async with mailing(office, **good | changes) as sender:
                with pytest.raises(SenderUnavailable, match=reason) as error:
                    await sender.send(MAIL)
            assert PASSWORD not in told(error.value)
            assert "wrong-secret" not in told(error.value)
        assert len(office.mails) == 2


async def test_a_server_without_starttls_is_told_nothing(office: PostOffice) -> None:
    login = {"smtp_username": "shop", "smtp_password": PASSWORD}
    async with mailing(office, smtp_security="starttls", **login) as sender:
        with pytest.raises(SenderUnavailable):
            await sender.send(MAIL)
    assert office.mails == []


def told(error: BaseException) -> str:
    """Return all that a log or a failed job would show of an error."""
    return "".join(traceback.format_exception(error))


@pytest.fixture
async def twilio() -> AsyncIterator[Twilio]:
    async with open_twilio_server() as twilio:
        yield twilio


@asynccontextmanager
async def texting(url: str, **changes: Any) -> AsyncIterator[Sender]:
    given = {
        "twilio_account_sid": ACCOUNT,
        "twilio_auth_token": TOKEN,
        "twilio_from": SENDER,
        "twilio_url": url,
    }
    async with open_senders(Settings(_env_file=None, **given | changes)) as senders:
        yield senders[-1]


async def test_an_sms_is_sent_and_known_by_its_sid(twilio: Twilio) -> None:
    async with texting(twilio.url) as sender:
        assert await sender.send(SMS) == f"SM{1:032x}"
    assert twilio.taken == [{"To": SMS.recipient, "From": SENDER, "Body": "Hello, 12,34 €"}]


async def test_a_messaging_service_may_send(twilio: Twilio) -> None:
    service = f"MG{'0' * 32}"
    async with texting(twilio.url, twilio_from=service) as sender:
        await sender.send(SMS)
    assert twilio.taken[0]["MessagingServiceSid"] == service
    assert "From" not in twilio.taken[0]


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        ("+15005550001", "Twilio 21211, it is no number"),
        ("+15005550002", "Twilio 21612, it cannot be reached from this sender"),
        ("+15005550003", "Twilio 21408, the account may not send to its region"),
        ("+15005550004", "Twilio 21610, it is unsubscribed"),
        ("+15005550009", "Twilio 21614, it is not a mobile number"),
    ],
)
async def test_a_number_that_no_sms_reaches_is_refused_for_good(
    twilio: Twilio, number: str, reason: str
) -> None:
    async with texting(twilio.url) as sender:
        with pytest.raises(AddressRefused) as refused:
            await sender.send(replace(SMS, recipient=number))
    assert refused.value.reason == reason
    assert number not in told(refused.value)
    assert twilio.taken == []


@pytest.mark.parametrize(
    ("number", "changes", "reason"),
    [
        ("+15005550429", {}, "Twilio 20429, HTTP 429"),
        ("+15005550500", {}, "Twilio 20500, HTTP 500"),
        (SMS.recipient, {"twilio_auth_token": "wrong-secret"}, "Twilio 20003, HTTP 401"),
        (SMS.recipient, {"twilio_from": "+15005550007"}, "Twilio 21606, HTTP 400"),
        (SMS.recipient, {"twilio_account_sid": f"AC{'1' * 32}"}, "Twilio 20003, HTTP 401"),
    ],
    ids=["too-many", "down", "token", "sender", "account"],
)
async def test_what_may_work_later_is_an_attempt(
    twilio: Twilio, number: str, changes: dict[str, str], reason: str
) -> None:
    async with texting(twilio.url, **changes) as sender:
        with pytest.raises(SenderUnavailable) as failed:
            await sender.send(replace(SMS, recipient=number))
    assert failed.value.reason == reason
    assert number not in told(failed.value)
    assert "wrong-secret" not in told(failed.value)
    assert twilio.taken == []


async def test_an_answer_that_is_not_twilios_is_an_attempt() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>")

    async with listening(answer) as url, texting(url) as sender:
        with pytest.raises(SenderUnavailable, match="Twilio, HTTP 200"):
            await sender.send(SMS)


async def test_twilio_that_is_away_or_hangs_is_an_attempt() -> None:
    async with texting(f"http://127.0.0.1:{free_port()}") as sender:
        with pytest.raises(SenderUnavailable, match="ConnectError"):
            await sender.send(SMS)

    async def hang(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with listening(hang) as url, texting(url, twilio_timeout_ms=200) as sender:
        with pytest.raises(SenderUnavailable, match="no answer within 200 ms"):
            await sender.send(SMS)


async def test_messages_are_written_to_files_for_development(tmp_path: Path) -> None:
    mails, texts = tmp_path / "mails.jsonl", tmp_path / "sms.jsonl"
    settings = Settings(_env_file=None, mail_file=mails, sms_file=texts)
    async with open_senders(settings) as senders:
        assert [sender.channel for sender in senders] == [Channel.EMAIL, Channel.SMS]
        assert await senders[0].send(MAIL) == await senders[1].send(SMS) == MAIL.reference
    assert json.loads(mails.read_text()) == {
        "to": "ada@shop.example",
        "subject": "Hello",
        "text": "Hello.",
        "html": "<p>Hello.</p>",
        "reference": "order-confirmation.1",
        "language": "de",
    }
    assert json.loads(texts.read_text())["text"] == "Hello, 12,34 €"


async def test_a_file_that_cannot_be_written_is_an_attempt(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, mail_file=tmp_path / "no-folder" / "mails.jsonl")
    async with open_senders(settings) as senders:
        with pytest.raises(SenderUnavailable, match="FileNotFoundError"):
            await senders[0].send(MAIL)


async def test_messages_are_shown_in_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with open_senders(Settings(_env_file=None, mail_file="-", sms_file="-")) as senders:
        await senders[0].send(MAIL)
        await senders[1].send(SMS)
    shown = capsys.readouterr().out
    assert "email to ada@shop.example\nSubject: Hello\n\nHello.\n" in shown
    assert "sms to +4915112345678\n\nHello, 12,34 €\n" in shown


async def test_each_sender_has_a_pace_of_its_own() -> None:
    settings = Settings(_env_file=None, mail_file="-", sms_file="-", sms_rate="1/60")
    async with open_senders(settings) as (mail, sms):
        assert not isinstance(mail, PacedSender)
        assert isinstance(sms, PacedSender)
