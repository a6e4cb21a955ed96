"""An order that nobody could be paid for in time."""

from __future__ import annotations

from tests.conftest import wait_until


def test_it_is_cancelled_and_its_customer_told_once_in_plain_words(
    closed_shop, gateway_server, mail_server
):
    shop = closed_shop
    shop.start("api")
    receipt = shop.checkout()
    # There is no payment worker.
    shop.start("notification", "order", ORDER_TTL_S="1")

    order = shop.wait_for(receipt["orderId"], "cancelled")
    assert order["payment"]["status"] == "failed"
    assert order["payment"]["declineReason"] == "expired"
    wait_until(lambda: mail_server.mails(receipt["orderId"]), "its mail")
    runs = shop.log("order").count("reconciled")
    wait_until(lambda: shop.log("order").count("reconciled") > runs + 1, "two more runs")
    [mail] = mail_server.mails(receipt["orderId"])
    for form in ("plain", "html"):
        text = mail.get_body([form]).get_content()
        assert "could not be paid in time" in text
        assert "declined" not in text
        assert "expired" not in text

    shop.start("payment")
    shop.stop("payment")
    assert gateway_server.charge(receipt["paymentId"]) is None
