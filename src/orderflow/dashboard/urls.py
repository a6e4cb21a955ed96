"""The addresses of what the pages link to."""

from __future__ import annotations

from urllib.parse import quote


def queue_url(queue: str, state: str = "") -> str:
    """Return the address of a queue, with its jobs in a state."""
    return f"/admin/queues/{quote(queue, safe='')}" + (f"?state={state}" if state else "")


def job_url(queue: str, job_id: str, action: str = "") -> str:
    """Return the address of a job, or of what is done to it. An id may have any character."""
    return f"{queue_url(queue)}/job{action and '/' + action}?id={quote(job_id, safe='')}"


def order_url(order_id: object) -> str:
    """Return the address of an order's story."""
    return f"/admin/orders/{quote(str(order_id), safe='')}"


def webhook_url(endpoint_id: object, delivery_id: int | None = None) -> str:
    """Return the address of a webhook's endpoint, or of one delivery to it."""
    delivery = "" if delivery_id is None else f"/deliveries/{delivery_id}"
    return f"/admin/webhooks/{endpoint_id}{delivery}"


def acted(url: str) -> str:
    """Return the address with the mark that has the page tell what was done last."""
    return f"{url}{'&' if '?' in url else '?'}acted=1"
