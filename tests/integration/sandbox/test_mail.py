"""The mail server, run as it is used: a process of its own, spoken to over SMTP."""

from __future__ import annotations

import email.policy
import signal
import smtplib
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import EmailMessage
from email.parser import BytesParser
from pathlib import Path

import aiosmtplib
import pytest

from orderflow.sandbox.servers import free_port, port_is_taken

COMMAND = (sys.executable, "-m", "orderflow.sandbox.mail")


@dataclass
class MailServer:
    process: subprocess.Popen[bytes]
    port: int
    folder: Path
    log: Path

    def client(self) -> smtplib.SMTP:
        return smtplib.SMTP("127.0.0.1", self.port, timeout=10)

    def mails(self) -> list[EmailMessage]:
        """The mails in the order in which they arrived."""
        parser = BytesParser(EmailMessage, policy=email.policy.default)
        return [parser.parsebytes(path.read_bytes()) for path in sorted(self.folder.glob("*.eml"))]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(10)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MailServer]:
    port, folder, log = free_port(), tmp_path / "mail", tmp_path / "mail.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            (*COMMAND, "--port", str(port), "--folder", str(folder)), stdout=output, stderr=output
        ) as process,
    ):
        try:
            deadline = time.monotonic() + 20
            while not port_is_taken(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"the mail server did not start: {log.read_text()}")
                time.sleep(0.02)
            yield MailServer(process, port, folder, log)
        finally:
            process.kill()


def message(subject: str, to: str = "ann@shop.example", text: str = "Thank you.\n") -> EmailMessage:
    mail = EmailMessage()
    mail["From"] = "Shop <orders@shop.example>"
    mail["To"] = to
    mail["Subject"] = subject
    mail.set_content(text)
    return mail


def test_keeps_a_mail_with_its_envelope(server: MailServer) -> None:
    with server.client() as client:
        client.send_message(
            message("Order 7 confirmed: 12,34 €", text=".a line with a dot\n"),
            from_addr="bounces@shop.example",
            to_addrs=["ann@shop.example", "copy@shop.example"],
        )

    [mail] = server.mails()
    assert mail["Subject"] == "Order 7 confirmed: 12,34 €"
    assert mail["To"] == "ann@shop.example"
    assert mail["X-MailFrom"] == "bounces@shop.example"
    assert mail["X-RcptTo"] == "ann@shop.example, copy@shop.example"
    assert mail.get_content().splitlines() == [".a line with a dot"]


async def test_takes_mail_from_the_client_that_orderflow_uses(server: MailServer) -> None:
    await aiosmtplib.send(message("Payment failed"), hostname="127.0.0.1", port=server.port)

    assert [mail["Subject"] for mail in server.mails()] == ["Payment failed"]


def test_names_sort_by_arrival_and_nothing_unfinished_stays(server: MailServer) -> None:
    subjects = [f"mail {number}" for number in range(50)]
    with server.client() as client:
        for subject in subjects:
            client.send_message(message(subject))

    assert [mail["Subject"] for mail in server.mails()] == subjects
    assert {path.suffix for path in server.folder.iterdir()} == {".eml"}


@pytest.mark.parametrize(
    ("address", "answer"),
    [
        ("refused@shop.example", (550, b"5.1.1")),
        ("Refused.Ann@shop.example", (550, b"5.1.1")),
        ("busy@shop.example", (451, b"4.3.0")),
        ("busy-7@shop.example", (451, b"4.3.0")),
    ],
)
def test_some_recipients_are_not_taken(
    server: MailServer, address: str, answer: tuple[int, bytes]
) -> None:
    with server.client() as client, pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
        client.send_message(message("lost", to=address))

    code, text = refused.value.recipients[address]
    assert (code, text[:5]) == answer
    assert server.mails() == []


def test_the_other_recipients_of_a_mail_get_it(server: MailServer) -> None:
    with server.client() as client:
        refused = client.send_message(
            message("both"), to_addrs=["ann@refused.example", "refused@shop.example"]
        )

    assert list(refused) == ["refused@shop.example"]
    [mail] = server.mails()
    assert mail["X-RcptTo"] == "ann@refused.example"


@pytest.mark.parametrize("announced", [True, False])
def test_a_mail_over_10_mb_is_refused(server: MailServer, announced: bool) -> None:
    with server.client() as client:
        client.ehlo()
        if not announced:  # a client that does not say the size beforehand
            del client.esmtp_features["size"]
        with pytest.raises(smtplib.SMTPResponseException) as refused:
            client.send_message(message("big", text=("x" * 70 + "\n") * 160_000))

    assert refused.value.smtp_code == 552
    assert server.mails() == []


def test_a_mail_that_cannot_be_kept_may_be_sent_again(server: MailServer) -> None:
    server.folder.rmdir()
    with server.client() as client:
        with pytest.raises(smtplib.SMTPDataError) as refused:
            client.send_message(message("no disk"))
        server.folder.mkdir()
        client.send_message(message("disk"))

    assert refused.value.smtp_code == 452
    assert [mail["Subject"] for mail in server.mails()] == ["disk"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ends_with_0_and_keeps_no_half_mail(server: MailServer, number: signal.Signals) -> None:
    with server.client() as client:
        client.ehlo()
        client.mail("orders@shop.example")
        client.rcpt("ann@shop.example")
        assert client.docmd("DATA")[0] == 354
        client.send(b"Subject: half a mail\r\n")

        assert server.stop(number) == 0

        with pytest.raises(smtplib.SMTPServerDisconnected):
            client.getreply()
    assert list(server.folder.iterdir()) == []
    [line] = server.log.read_text().splitlines()
    assert f"mail server on smtp://127.0.0.1:{server.port}" in line


def run_to_its_end(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (*COMMAND, *options), check=False, capture_output=True, text=True, timeout=20
    )


def test_a_taken_port_is_told_in_one_line(server: MailServer, tmp_path: Path) -> None:
    ended = run_to_its_end("--port", str(server.port), "--folder", str(tmp_path / "other"))

    assert ended.returncode == 1
    assert ended.stderr.startswith(f"cannot listen on 127.0.0.1:{server.port}: ")
    assert "already in use" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_folder_that_is_a_file_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a folder")
    ended = run_to_its_end("--port", str(free_port()), "--folder", str(path))

    assert ended.returncode == 1
    assert ended.stderr.startswith(f"cannot keep mail in {path}: ")
    assert len(ended.stderr.splitlines()) == 1
