"""Orders: found by whatever somebody has in hand of them, and told on one line of time."""

from __future__ import annotations

from starlette.responses import Response

from orderflow.dashboard.life import possible
from orderflow.dashboard.pages import Context, Visit, see_other
from orderflow.dashboard.urls import job_url, order_url
from orderflow.operations.jobs import find_jobs
from orderflow.operations.orders import find_orders
from orderflow.operations.story import tell_story

_MOST_FOUND = 50


async def search(visit: Visit) -> Response:
    """Answer the orders and jobs of this id or address; where there is one, go to it.

    It is asked by POST: an address of a customer does not belong into logs and histories.
    """
    queues = visit.resources.queues
    asked = visit.form.get("q", "").strip()
    orders = await find_orders(asked, db=visit.reads, queues=queues, limit=_MOST_FOUND)
    jobs = await find_jobs(asked, queues=queues)
    if len(orders) == 1 and not jobs:
        return see_other(order_url(orders[0].id))
    if len(jobs) == 1 and not orders:
        return see_other(job_url(jobs[0].queue, jobs[0].id))
    return visit.render(
        "search.html", asked=asked, orders=orders, jobs=jobs, most_found=_MOST_FOUND
    )


async def show_order(visit: Visit) -> Response:
    """Answer an order's whole story."""

    async def look() -> Context:
        story = await tell_story(
            visit.path("order_id"), db=visit.reads, queues=visit.resources.queues
        )
        return {"story": story, "possible": possible(story)}

    return await visit.live("order", look)
