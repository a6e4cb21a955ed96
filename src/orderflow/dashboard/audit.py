"""The audit log: who did what, when and why."""

from __future__ import annotations

from starlette.responses import Response

from orderflow.dashboard.pages import Visit
from orderflow.operations.audit import list_actions

PAGE = 50


async def show_audit(visit: Visit) -> Response:
    """Answer what was done by hand, the newest first: all of it, or of one user."""
    user = visit.query("user")
    actions = await list_actions(
        db=visit.resources.db,
        limit=PAGE + 1,
        before=visit.number("before") or None,
        user=user or None,
    )
    more = len(actions) > PAGE
    return visit.render("audit.html", actions=actions[:PAGE], more=more, of_user=user)
