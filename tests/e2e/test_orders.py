"""Orders from the socket to the mail, through every process."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

from redis import Redis
from tests.conftest import wait_until
from tests.e2e.conftest import body


def job_of(settings, queue: str, job_id: str) -> dict[str, str]:
    with Redis.from_url(settings.redis_dsn, decode_responses=True) as redis:
        return redis.hgetall(f"{settings.queue_prefix}:{queue}:{job_id}")


def test_an_order_is_paid_confirmed_and_mailed(shop, gateway_server, mail_server, settings):
    receipt = shop.checkout(items=[{"sku": "tea-assam", "quantity": 2}])
    assert (receipt["status"], receipt["total"], receipt["currency"]) == ("pending", "17.80", "EUR")

    order = shop.wait_for(receipt["orderId"], "confirmed")
    assert order["payment"]["status"] == "completed"
    charge = gateway_server.charge(receipt["paymentId"])
    assert (charge["status"], charge["amount"]) == ("succeeded", "17.80")
    wait_until(lambda: len(mail_server.mails(receipt["orderId"])) == 1, "the mail")
    [mail] = mail_server.mails(receipt["orderId"])
    assert mail["Subject"] == f"Your order {receipt['orderId']} is confirmed"

    payment_job = f"payment-{receipt['paymentId']}"
    wait_until(
        lambda: "returnvalue" in job_of(settings, "payment-processing", payment_job),
        "the job's result",
    )
    job = job_of(settings, "payment-processing", payment_job)
    assert json.loads(job["returnvalue"]) == {"success": True, "transactionId": charge["id"]}
    assert (job["name"], job["priority"], job["atm"]) == ("process-payment", "1", "1")


def test_a_decline_cancels_and_is_told_once(shop, gateway_server, mail_server):
    with shop.client() as client:
        client.get("/orders").raise_for_status()
    receipt = shop.checkout(paymentToken="tok_decline_insufficient_funds")
    order = shop.wait_for(receipt["orderId"], "cancelled")
    assert order["payment"]["status"] == "failed"
    assert order["payment"]["declineReason"] == "insufficient_funds"
    assert gateway_server.charge(receipt["paymentId"])["status"] == "declined"
    wait_until(lambda: len(mail_server.mails(receipt["orderId"])) == 1, "the mail")
    [mail] = mail_server.mails(receipt["orderId"])
    assert mail["Subject"] == f"Your order {receipt['orderId']} could not be paid"


def test_a_gateway_that_is_down_twice_is_retried_with_backoff(shop, settings, gateway_server):
    receipt = shop.checkout(paymentToken="tok_503_twice")
    shop.wait_for(receipt["orderId"], "confirmed")
    job_id = f"payment-{receipt['paymentId']}"
    wait_until(lambda: "finishedOn" in job_of(settings, "payment-processing", job_id), "the end")
    job = job_of(settings, "payment-processing", job_id)
    assert (job["atm"], job["ats"]) == ("3", "3")
    assert len(json.loads(job["stacktrace"])) == 2
    assert "HTTP 503" in json.loads(job["stacktrace"])[0]
    # Exponential from 2000 ms: 2 s before the second attempt, 4 s before the third.
    assert int(job["processedOn"]) - int(job["timestamp"]) >= 6_000
    assert gateway_server.charge(receipt["paymentId"])["status"] == "succeeded"


def test_a_lost_answer_is_charged_once(shop, gateway_server):
    receipt = shop.checkout(paymentToken="tok_lost_answer")
    order = shop.wait_for(receipt["orderId"], "confirmed")
    assert order["payment"]["status"] == "completed"
    assert gateway_server.charge(receipt["paymentId"])["status"] == "succeeded"
    assert "RemoteProtocolError" in shop.log("payment")


def test_a_worker_that_is_killed_in_mid_charge(shop, gateway_server, mail_server):
    receipt = shop.checkout(paymentToken="tok_slow")
    wait_until(lambda: gateway_server.charge(receipt["paymentId"]) is not None, "the charge")
    shop.kill("payment")
    assert shop.order(receipt["orderId"])["payment"]["status"] == "processing"

    shop.start("payment")
    shop.wait_for(receipt["orderId"], "confirmed")
    wait_until(lambda: len(mail_server.mails(receipt["orderId"])) == 1, "the mail")


def test_a_hundred_posts_with_one_key_make_one_order(shop):
    def post(_number: int):
        with shop.client() as client:
            return client.post("/checkout", json=body(), headers={"Idempotency-Key": '"one"'})

    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(post, range(100)))
    made = [answer for answer in answers if answer.status_code == 202]
    assert {answer.status_code for answer in answers} <= {202, 409}
    assert len({answer.json()["orderId"] for answer in made}) == 1
    assert sum("Idempotent-Replayed" not in answer.headers for answer in made) == 1
    with shop.client() as client:
        assert len(client.get("/orders").json()["orders"]) == 1


async def test_a_hundred_buyers_of_the_last_ten_pieces(shop, sql):
    await sql.execute("UPDATE products SET stock = 10 WHERE sku = 'cup-stone'")

    def buy(number: int) -> int:
        with shop.client(f"user-{number}") as client:
            cup = body(items=[{"sku": "cup-stone", "quantity": 1}])
            return client.post("/checkout", json=cup).status_code

    with ThreadPoolExecutor(50) as threads:
        statuses = list(threads.map(buy, range(100)))
    assert sorted(statuses) == [202] * 10 + [409] * 90
    assert await sql.fetchval("SELECT stock FROM products WHERE sku = 'cup-stone'") == 0
    assert await sql.fetchval("SELECT count(*) FROM orders") == 10


def test_the_api_shares_its_port_among_processes(closed_shop):
    closed_shop.start("api", WEB_CONCURRENCY="2")
    for _ in range(20):
        closed_shop.checkout()
    with closed_shop.client() as client:
        assert len(client.get("/orders", params={"limit": 100}).json()["orders"]) == 20
    closed_shop.stop("api")
