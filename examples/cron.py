"""Once a night: which orders were cancelled yesterday, and which have stood still for an hour.

    ORDERS_URL=… ORDERS_TOKEN=… python examples/cron.py [DAY, as 2026-01-31]

The token is an admin's, who sees everybody's orders. The exit status is 1 where an order stands
still, so that cron mails about it.
"""

import os
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

from orderflow.client import Order, OrderStatus, SyncOrders

#: A gateway may be away for a while, and nobody needs to get up for that.
STUCK_AFTER = timedelta(hours=1)
#: Who was not charged for so long was cancelled before.
LOOK_BACK = timedelta(days=14)


def recent(orders: SyncOrders, status: OrderStatus) -> Iterator[Order]:
    """Give the orders of a status, the newest first, as far back as anybody looks."""
    oldest = datetime.now(UTC) - LOOK_BACK
    for order in orders.orders(status=status):
        # Pages are fetched as they are needed: to stop here leaves years of orders unread.
        if order.created_at < oldest:
            return
        yield order


def main() -> int:
    """Print what there is to know of a day; return the exit status."""
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    day = date.fromisoformat(sys.argv[1]) if sys.argv[1:] else yesterday
    with SyncOrders(os.environ["ORDERS_URL"], os.environ["ORDERS_TOKEN"]) as orders:
        cancelled = [
            order
            for order in recent(orders, OrderStatus.CANCELLED)
            if order.updated_at.date() == day
        ]
        stuck = [
            order
            for status in (OrderStatus.PENDING, OrderStatus.PROCESSING)
            for order in recent(orders, status)
            if order.created_at < datetime.now(UTC) - STUCK_AFTER
        ]
    print(f"{day}: {len(cancelled)} cancelled, {len(stuck)} stuck")
    for order in cancelled:
        reason = order.payment.decline_reason or "no reason given"
        print(f"cancelled {order.order_id} {order.total} {order.currency}: {reason}")
    for order in stuck:
        print(f"stuck     {order.order_id} {order.status} since {order.created_at:%F %R}")
    return 1 if stuck else 0


if __name__ == "__main__":
    sys.exit(main())
