"""How a page is answered: who may see it, its headers, and what goes wrong, as pages too."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from orderflow.api.auth import Session
from orderflow.api.faults import Fault
from orderflow.api.problems import Kind, Problem, logged_problem_of
from orderflow.api.state import state_of
from orderflow.dashboard.forms import ForeignForm, csrf_token, keep_csrf_token, read_form
from orderflow.dashboard.live import Streams, wants_stream
from orderflow.dashboard.session import NotAdmin, SignedOut, admin_session
from orderflow.dashboard.templating import environment
from orderflow.db import Reads
from orderflow.operations.audit import list_actions
from orderflow.resources import Resources, Stores

Context = Mapping[str, Any]


#: So long a number fits wherever it goes.
_DIGITS = 15

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; "
    "img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Vary": "Accept, Cookie",
}


@dataclass(frozen=True, slots=True)
class Visit:
    """One request of an admin: who it is, what they sent, and what the process has open."""

    request: Request
    session: Session
    streams: Streams
    form: Mapping[str, str] = field(default_factory=dict)

    @property
    def resources(self) -> Resources:
        """The open connections of this process."""
        return state_of(self.request).resources

    @property
    def stores(self) -> Stores:
        """PostgreSQL and Redis."""
        return self.resources.stores

    @property
    def reads(self) -> Reads:
        """PostgreSQL, or a replica of it, for what is only looked at."""
        return state_of(self.request).reads

    @property
    def user_id(self) -> str:
        """Whose doing it is."""
        return self.session.user.id

    def path(self, name: str) -> str:
        """Return a part of the path."""
        part: str = self.request.path_params[name]
        return part

    def query(self, name: str, default: str = "") -> str:
        """Return a parameter of the query."""
        return self.request.query_params.get(name, default)

    def number(self, name: str) -> int:
        """Return a parameter of the query that is a whole number, 0 if it is left out."""
        said = self.query(name, "0")
        if not said.isdecimal() or len(said) > _DIGITS:
            rule = Fault(name, "integer", "must be a whole number, 0 or more")
            raise Problem(Kind.INVALID_QUERY, f"{name} {rule.detail}.", faults=[rule])
        return int(said)

    def render(self, template: str, status: int = 200, **context: Any) -> Response:
        """Answer a page for whoever is signed in."""
        return render(self.request, template, status, **context)

    async def live(self, name: str, look: Callable[[], Awaitable[Context]]) -> Response:
        """Answer the page NAME.html, or the stream of its part live/NAME.html.

        After an action of this admin's the page tells how it ended.
        """
        if wants_stream(self.request):
            part = environment().get_template(f"live/{name}.html")

            async def again() -> str:
                return part.render(await look())

            return self.streams.answer(self.request, again, self.session.expires_at)
        acted = None
        if self.query("acted"):
            acted = await list_actions(db=self.resources.db, limit=1, user=self.user_id)
        return self.render(f"{name}.html", **await look(), acted=acted)


View = Callable[[Visit], Awaitable[Response]]
Endpoint = Callable[[Request], Awaitable[Response]]


def for_admins(view: View, streams: Streams) -> Endpoint:
    """Return the endpoint that shows `view` to admins, and takes no form but those of its pages."""

    async def visit(request: Request) -> Response:
        session = await admin_session(request)
        # For an error's page, too: who is in stays in, and finds the way on.
        request.state.user_id = session.user.id
        form = await read_form(request) if request.method == "POST" else {}
        return await view(Visit(request, session, streams, form))

    return as_page(visit)


def as_page(endpoint: Endpoint) -> Endpoint:
    """Return `endpoint` with whatever it raises answered as a page."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except ClientDisconnect:
            raise
        except Exception as error:
            return _told(request, error)

    return answer


def _told(request: Request, error: Exception) -> Response:
    match error:
        case SignedOut():
            return _to_sign_in(request, error.reason)
        case NotAdmin():
            return render(request, "forbidden.html", 403, user=error.user_id)
        case ForeignForm():
            return render(request, "stale.html", 403)
    problem = logged_problem_of(request, error)
    return render(request, "problem.html", problem.kind.status, problem=problem)


def _to_sign_in(request: Request, reason: str) -> Response:
    if wants_stream(request) or request.method != "GET":
        return render(request, "login.html", 401, reason=reason, onward="/admin")
    if request.headers.get("sec-fetch-site") == "cross-site" and not reason:
        # Followed from another site, a link comes without the cookie; from this page it has it.
        return render(request, "arrive.html")
    query = request.scope["query_string"].decode("latin-1")
    here = request.scope["path"] + (f"?{query}" if query else "")
    return see_other("/admin/login?" + urlencode({"onward": here}))


def see_other(url: str) -> Response:
    """Send the browser on, with a GET."""
    return RedirectResponse(url, 303, _HEADERS)


def render(request: Request, template: str, status: int = 200, **context: Any) -> Response:
    """Answer a page. Its forms are good for the browser that gets it."""
    every = {
        "user": getattr(request.state, "user_id", None),
        "acted": None,
        "csrf": csrf_token(request),
        "here": request.scope["path"],
    }
    html = environment().get_template(template).render(every | context)
    response = HTMLResponse(html, status, _HEADERS)
    keep_csrf_token(request, response)
    return response
