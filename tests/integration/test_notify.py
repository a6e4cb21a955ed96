"""Notifying through the real worker path, over real SMTP."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from bullmq import UnrecoverableError
from pydantic import SecretStr
from tests.integration.twilio import ACCOUNT, SENDER, TOKEN, open_twilio_server

from orderflow.bull.ending import Postponed
from orderflow.db import open_database
from orderflow.errors import (
    DatabaseUnavailable,
    NotificationBeingSent,
    SenderUnavailable,
    TemplateFailed,
)
from orderflow.resources import Resources
from orderflow.sandbox.servers import free_port
from orderflow.sandbox.tcp_proxy import Mode, TcpProxy
from orderflow.senders import Channel, Message
from orderflow.senders.messages import Templates
from orderflow.senders.opening import open_senders
from orderflow.senders.paced import PacedSender
from orderflow.senders.smtp import SmtpSender
from orderflow.setting_types import RequestRate
from orderflow.testing import perform_job


async def confirm(resources: Resources, order_id: object, **data: object) -> dict[str, object]:
    return await perform_job(
        "notification",
        "order-confirmation",
        {"orderId": str(order_id), "userId": "user-1", **data},
        resources,
    )


async def test_a_confirmation_is_mailed_as_text_and_html(resources, paid, mail_server, sql):
    receipt = await paid(
        items=[{"sku": "tea-assam", "quantity": 2}, {"sku": "gift-card", "quantity": 1}],
        shippingAddress={
            "name": "Ada <Lovelace> & Co",
            "line1": "12 St James's Square",
            "postalCode": "SW1Y 4JH",
            "city": "London",
            "country": "GB",
        },
    )
    assert await confirm(resources, receipt.order_id) == {"success": True, "sent": ["email"]}

    [mail] = mail_server.mails(receipt.order_id)
    assert mail["To"] == "ada@shop.example"
    assert mail["Subject"] == f"Your order {receipt.order_id} is confirmed"
    text = mail.get_body(["plain"]).get_content()
    assert "2 x Assam tea 250 g  17.80 EUR" in text
    assert "Total: 42.80 EUR" in text
    assert "Ada <Lovelace> & Co" in text
    html = mail.get_body(["html"]).get_content()
    assert "Ada &lt;Lovelace&gt; &amp; Co" in html
    record = await sql.fetchrow("SELECT * FROM notifications")
    assert (record["recipient"], record["channel"]) == ("ada@shop.example", "email")
    assert record["reference"] == mail["Message-ID"].strip()
    assert await sql.fetchval("SELECT notified_at IS NOT NULL FROM orders")


async def test_a_second_delivery_does_not_mail_again(resources, paid, mail_server):
    receipt = await paid()
    await confirm(resources, receipt.order_id)
    assert await confirm(resources, receipt.order_id) == {"success": True, "sent": []}
    assert len(mail_server.mails(receipt.order_id)) == 1


async def test_ten_deliveries_at_once_mail_once(resources, paid, mail_server):
    receipt = await paid()
    results = await asyncio.gather(
        *(confirm(resources, receipt.order_id) for _ in range(10)), return_exceptions=True
    )
    assert len(mail_server.mails(receipt.order_id)) == 1
    told = [result for result in results if result == {"success": True, "sent": ["email"]}]
    assert len(told) == 1
    # The others found it sent, or being sent: then BullMQ tries them again.
    for result in results:
        assert (
            result in told
            or result == {"success": True, "sent": []}
            or isinstance(result, NotificationBeingSent)
        )


async def test_a_claim_of_a_worker_that_died_ends(resources, paid, mail_server, sql):
    receipt = await paid()
    claim = """INSERT INTO notifications (order_id, kind, channel, recipient, claimed_until)
               VALUES ($1, 'order-confirmation', 'email', 'ada@shop.example', now() + $2)"""
    await sql.execute(claim.replace("$2", "interval '1 hour'"), receipt.order_id)
    with pytest.raises(NotificationBeingSent):
        await confirm(resources, receipt.order_id)

    await sql.execute("UPDATE notifications SET claimed_until = now()")
    assert await confirm(resources, receipt.order_id) == {"success": True, "sent": ["email"]}
    assert len(mail_server.mails(receipt.order_id)) == 1


async def test_a_declined_payment_is_told_with_its_reason(resources, paid, mail_server):
    receipt = await paid(paymentToken="tok_decline_insufficient_funds")
    await perform_job(
        "notification",
        "payment-failed",
        {"orderId": str(receipt.order_id), "userId": "user-1", "reason": "insufficient_funds"},
        resources,
    )
    [mail] = mail_server.mails(receipt.order_id)
    assert mail["Subject"] == f"Your order {receipt.order_id} could not be paid"
    assert "insufficient funds" in mail.get_body(["plain"]).get_content()


async def test_a_card_that_is_reported_stolen_is_not_told_to_who_has_it(
    resources, paid, mail_server
):
    receipt = await paid(paymentToken="tok_decline_stolen_card")
    await perform_job(
        "notification",
        "payment-failed",
        {"orderId": str(receipt.order_id), "userId": "user-1", "reason": "stolen_card"},
        resources,
    )
    [mail] = mail_server.mails(receipt.order_id)
    assert "was declined" in mail.get_body(["plain"]).get_content()
    assert "stolen" not in mail.as_string()


async def test_a_job_that_carries_its_name_in_the_data_works(resources, paid):
    receipt = await paid()
    data = {"type": "order-confirmation", "orderId": str(receipt.order_id), "userId": 7}
    result = await perform_job("notification", "send", data, resources)
    assert result == {"success": True, "sent": ["email"]}


async def test_the_name_of_the_job_wins_over_the_type_in_its_data(resources, paid, mail_server):
    receipt = await paid()
    await confirm(resources, receipt.order_id, type="payment-failed")
    [mail] = mail_server.mails(receipt.order_id)
    assert "is confirmed" in mail["Subject"]


async def test_a_phone_gets_an_sms(resources, paid, settings):
    receipt = await paid(contact={"email": "ada@shop.example", "phone": "+4915112345678"})
    assert (await confirm(resources, receipt.order_id))["sent"] == ["email", "sms"]
    [line] = settings.sms_file.read_text().splitlines()
    sms = json.loads(line)
    assert sms["to"] == "+4915112345678"
    assert str(receipt.order_id) in sms["text"]


async def test_a_mail_server_that_is_away_is_an_attempt_and_the_next_one_sends(
    resources, paid, settings, sql
):
    receipt = await paid()
    away = SmtpSender(settings.model_copy(update={"smtp_port": free_port()}))
    with pytest.raises(SenderUnavailable, match="SMTPConnectError"):
        await confirm(replace(resources, senders=(away,)), receipt.order_id)
    assert await sql.fetchval("SELECT notified_at FROM orders") is None

    assert await confirm(resources, receipt.order_id) == {"success": True, "sent": ["email"]}


async def test_a_mail_that_went_out_as_postgresql_went_away_is_recorded_and_not_sent_again(
    resources, paid, settings, mail_server, sql
):
    receipt = await paid()
    host, port = urlsplit(settings.database_dsn).hostname, urlsplit(settings.database_dsn).port
    async with TcpProxy(host, port) as network:

        class Sender:
            """Sends, and PostgreSQL is away from then on."""

            channel = Channel.EMAIL

            async def send(self, message: Message) -> str:
                reference = await resources.senders[0].send(message)
                network.set_mode(Mode.RESET)
                return reference

        url = settings.database_dsn.replace(f":{port}/", f":{network.port}/")
        async with open_database(url, 2, 5_000) as db:
            confirming = asyncio.create_task(
                confirm(replace(resources, db=db, senders=(Sender(),)), receipt.order_id)
            )
            async with asyncio.timeout(30):
                while not mail_server.mails(receipt.order_id):
                    await asyncio.sleep(0.01)
            with pytest.raises(DatabaseUnavailable):
                await db.ping()
            assert await sql.fetchval("SELECT notified_at FROM orders") is None
            network.set_mode(Mode.PASS)
            assert await confirming == {"success": True, "sent": ["email"]}
    assert await sql.fetchval("SELECT notified_at IS NOT NULL FROM orders")
    assert len(mail_server.mails(receipt.order_id)) == 1


async def test_a_mailbox_that_is_busy_is_an_attempt(resources, paid):
    receipt = await paid(contact={"email": "busy@shop.example"})
    with pytest.raises(SenderUnavailable, match="SMTP 451"):
        await confirm(resources, receipt.order_id)


async def test_an_address_that_is_refused_is_recorded_and_the_order_goes_on(resources, paid, sql):
    receipt = await paid(contact={"email": "refused@shop.example"})
    assert await confirm(resources, receipt.order_id) == {"success": True, "sent": []}
    assert await sql.fetchval("SELECT refused_reason FROM notifications") == "SMTP 550 5.1.1"
    assert await sql.fetchval("SELECT notified_at IS NOT NULL FROM orders")


async def test_a_customer_is_written_to_in_the_language_that_was_named(
    resources, paid, mail_server, settings
):
    contact = {"email": "ada@shop.example", "phone": "+4915112345678", "language": "de-AT"}
    receipt = await paid(contact=contact)
    await confirm(resources, receipt.order_id)
    [mail] = mail_server.mails(receipt.order_id)
    assert mail["Subject"] == f"Ihre Bestellung {receipt.order_id} ist bestätigt"
    assert mail["Content-Language"] == "de"
    assert "68,00 EUR" in mail.get_body(["plain"]).get_content()
    assert '<html lang="de">' in mail.get_body(["html"]).get_content()
    assert "ist bestätigt" in json.loads(settings.sms_file.read_text())["text"]


@pytest.mark.parametrize(
    ("wished", "language"),
    [(("fr", "de", "en"), "de"), (("fr",), "en"), ((), "en"), (("en", "de"), "en")],
    ids=["second", "default", "none", "first"],
)
async def test_the_first_language_that_there_is_goes(
    resources, paid, mail_server, sql, wished, language
):
    receipt = await paid()
    await sql.execute("UPDATE orders SET languages = $1", list(wished) or None)
    await confirm(resources, receipt.order_id)
    [mail] = mail_server.mails(receipt.order_id)
    assert mail["Content-Language"] == language


@pytest.mark.parametrize(
    "sent", [["email"], ["sms"], ["email", "sms"], []], ids=["email", "sms", "both", "none"]
)
async def test_an_event_goes_by_the_ways_that_the_shop_chose(
    resources, paid, settings, mail_server, sql, sent
):
    chosen = settings.model_copy(update={"notify_order_confirmation": tuple(map(Channel, sent))})
    receipt = await paid(contact={"email": "ada@shop.example", "phone": "+4915112345678"})
    result = await confirm(replace(resources, settings=chosen), receipt.order_id)
    assert result == {"success": True, "sent": sent}
    assert len(mail_server.mails(receipt.order_id)) == sent.count("email")
    assert settings.sms_file.exists() == ("sms" in sent)
    rows = await sql.fetch("SELECT channel FROM notifications ORDER BY channel")
    assert [row["channel"] for row in rows] == sent
    assert await sql.fetchval("SELECT notified_at IS NOT NULL FROM orders")


async def test_a_wrong_template_is_an_attempt_and_its_mending_sends_the_rest(
    resources, paid, mail_server, sql, tmp_path
):
    receipt = await paid(contact={"email": "ada@shop.example", "phone": "+4915112345678"})
    wrong = tmp_path / "en" / "order-confirmation.sms.jinja"
    wrong.parent.mkdir()
    wrong.write_text("Hello\n{{ order.emial }}")
    failing = replace(resources, templates=Templates(tmp_path))
    for _ in range(2):
        with pytest.raises(TemplateFailed) as failed:
            await confirm(failing, receipt.order_id)
        assert f"The template {wrong}, line 2, cannot be filled" in str(failed.value)
        assert "no attribute 'emial'" in str(failed.value)
    assert await sql.fetchval("SELECT notified_at FROM orders") is None

    assert (await confirm(resources, receipt.order_id))["sent"] == ["sms"]
    assert len(mail_server.mails(receipt.order_id)) == 1
    assert await sql.fetchval("SELECT notified_at IS NOT NULL FROM orders")


async def test_a_message_whose_turn_is_later_is_postponed_and_the_other_goes(
    resources, paid, mail_server, settings, sql
):
    mail, sms = resources.senders
    slow = replace(resources, senders=(mail, PacedSender(sms, RequestRate(1, 3_600))))
    contact = {"email": "ada@shop.example", "phone": "+4915112345678"}
    first = await paid(contact=contact)
    assert (await confirm(slow, first.order_id))["sent"] == ["email", "sms"]
    second = await paid(contact=contact)
    with pytest.raises(Postponed) as postponed:
        await confirm(slow, second.order_id)
    assert 3_500 < postponed.value.after_s <= 3_600
    assert len(mail_server.mails(second.order_id)) == 1
    third = await paid()
    assert (await confirm(slow, third.order_id))["sent"] == ["email"]

    assert (await confirm(resources, second.order_id))["sent"] == ["sms"]
    assert len(settings.sms_file.read_text().splitlines()) == 2
    assert await sql.fetchval("SELECT bool_and(notified_at IS NOT NULL) FROM orders")


async def test_a_number_that_twilio_refuses_is_recorded_and_the_order_goes_on(
    resources, paid, settings, sql
):
    receipt = await paid(contact={"email": "ada@shop.example", "phone": "+15005550004"})
    async with open_twilio_server() as twilio:
        given = {
            "sms_file": None,
            "twilio_account_sid": ACCOUNT,
            "twilio_auth_token": SecretStr(TOKEN),
            "twilio_from": SENDER,
            "twilio_url": twilio.url,
        }
        async with open_senders(settings.model_copy(update=given)) as senders:
            result = await confirm(replace(resources, senders=senders), receipt.order_id)
    assert result == {"success": True, "sent": ["email"]}
    reason = await sql.fetchval("SELECT refused_reason FROM notifications WHERE channel = 'sms'")
    assert reason == "Twilio 21610, it is unsubscribed"
    assert await sql.fetchval("SELECT notified_at IS NOT NULL FROM orders")


async def test_an_adopted_order_without_an_address_counts_as_told(resources, sql):
    data = {"paymentId": 1, "orderId": 2, "paymentData": {"method": "card", "amount": "5"}}
    await perform_job("payment", "process-payment", data, resources)
    assert await confirm(resources, 2) == {"success": True, "sent": []}
    assert await sql.fetchval("SELECT notified_at IS NOT NULL FROM orders")


async def test_an_order_that_nobody_knows_is_refused(resources):
    with pytest.raises(UnrecoverableError, match="There is no order 'nope'"):
        await confirm(resources, "nope")
