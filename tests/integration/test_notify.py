"""Notifying through the real worker path, over real SMTP."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from bullmq import UnrecoverableError

from orderflow.db import open_database
from orderflow.errors import DatabaseUnavailable, NotificationBeingSent, SenderUnavailable
from orderflow.resources import Resources
from orderflow.sandbox.servers import free_port
from orderflow.sandbox.tcp_proxy import Mode, TcpProxy
from orderflow.senders import Channel, Message
from orderflow.senders.smtp import SmtpSender
from orderflow.testing import perform_job


async def confirm(resources: Resources, order_id: object, **data: object) -> dict[str, object]:
    return await perform_job(
        "notification",
        "order-confirmation",
        {"orderId": str(order_id), "userId": "user-1", **data},
        resources,
    )


@pytest.fixture
async def paid(resources, place):
    """An order that is paid, with an address that mail reaches."""

    async def paid(**changes):
        receipt = await place(**changes)
        await perform_job(
            "payment",
            "process-payment",
            {
                "paymentId": str(receipt.payment_id),
                "orderId": str(receipt.order_id),
                "paymentData": {"method": "card", "amount": str(receipt.total)},
            },
            resources,
        )
        return receipt

    return paid


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
        async with open_database(url, 2, 500) as db:
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


async def test_an_adopted_order_without_an_address_counts_as_told(resources, sql):
    data = {"paymentId": 1, "orderId": 2, "paymentData": {"method": "card", "amount": "5"}}
    await perform_job("payment", "process-payment", data, resources)
    assert await confirm(resources, 2) == {"success": True, "sent": []}
    assert await sql.fetchval("SELECT notified_at IS NOT NULL FROM orders")


async def test_an_order_that_nobody_knows_is_refused(resources):
    with pytest.raises(UnrecoverableError, match="There is no order 'nope'"):
        await confirm(resources, "nope")
