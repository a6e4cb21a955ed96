"""The addresses of the page. All of them but the sign-in are for admins alone."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.routing import Route

from orderflow.dashboard.audit import show_audit
from orderflow.dashboard.failures import (
    BULK_ACTIONS,
    GROUP_ACTIONS,
    show_bulk,
    show_failures,
    show_group,
)
from orderflow.dashboard.jobs import JOB_ACTIONS, show_job
from orderflow.dashboard.life import ORDER_ACTIONS
from orderflow.dashboard.live import Streams
from orderflow.dashboard.login import get_login, post_login, post_logout
from orderflow.dashboard.orders import search, show_order
from orderflow.dashboard.overview import Overview
from orderflow.dashboard.pages import View, as_page, for_admins
from orderflow.dashboard.queues import QUEUE_ACTIONS, show_queue
from orderflow.dashboard.templating import STATIC
from orderflow.dashboard.webhooks import (
    DELIVERY_ACTIONS,
    ENDPOINT_ACTIONS,
    add_endpoint,
    show_delivery,
    show_endpoint,
    show_endpoints,
)

#: More people than look at it at once, and few enough to cost a process next to nothing.
_MOST_STREAMS = 50


def dashboard_routes() -> list[Route]:
    """Return the routes of /admin, with what the pages of one process share."""
    streams = Streams(_MOST_STREAMS)

    def show(path: str, view: View, *methods: str) -> Route:
        return Route(f"/admin{path}", for_admins(view, streams), methods=methods or ("GET",))

    def act(path: str, actions: Mapping[str, View]) -> list[Route]:
        return [show(f"{path}/{name}", view, "GET", "POST") for name, view in actions.items()]

    return [
        Route("/admin/login", as_page(get_login), methods=["GET"]),
        Route("/admin/login", as_page(post_login), methods=["POST"]),
        Route("/admin/logout", as_page(post_logout), methods=["POST"]),
        Route("/admin/static/{name}", STATIC.get),
        show("", Overview()),
        show("/search", search, "GET", "POST"),
        *act("/orders/{order_id}", ORDER_ACTIONS),
        show("/orders/{order_id:path}", show_order),
        show("/queues/{queue}", show_queue),
        *act("/queues/{queue}", QUEUE_ACTIONS),
        show("/queues/{queue}/job", show_job),
        *act("/queues/{queue}/job", JOB_ACTIONS),
        show("/failures", show_failures),
        show("/failures/{fingerprint}", show_group),
        *act("/failures/{fingerprint}", GROUP_ACTIONS),
        show("/bulk/{action_id}", show_bulk),
        *act("/bulk/{action_id}", BULK_ACTIONS),
        show("/webhooks", show_endpoints),
        show("/webhooks/add", add_endpoint, "GET", "POST"),
        show("/webhooks/{endpoint_id}", show_endpoint),
        *act("/webhooks/{endpoint_id}", ENDPOINT_ACTIONS),
        show("/webhooks/{endpoint_id}/deliveries/{delivery_id}", show_delivery),
        *act("/webhooks/{endpoint_id}/deliveries/{delivery_id}", DELIVERY_ACTIONS),
        show("/audit", show_audit),
    ]
