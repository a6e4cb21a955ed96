"""The Starlette app: its routes, its middleware, and what it opens and closes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route

from orderflow.api.admin.routes import ADMIN_ROUTES
from orderflow.api.auth import check_authentication, open_tokens
from orderflow.api.background import open_background
from orderflow.api.checkout import PostCheckout
from orderflow.api.docs import get_docs, get_docs_style
from orderflow.api.gateway_events import post_gateway_event
from orderflow.api.headers import SafeHeaders
from orderflow.api.health import livez, readyz
from orderflow.api.leaving import LEAVING, leave_in_time
from orderflow.api.limits import Backlog, BodyLimit, InFlight
from orderflow.api.measured import MeasuredRequests
from orderflow.api.openapi import get_openapi
from orderflow.api.order_events import GetOrderEvents
from orderflow.api.orders import cancel_order, get_order, list_orders
from orderflow.api.problems import ProblemAnswers, answer_error
from orderflow.api.protocol import LIMITS, ConnectionLimits
from orderflow.api.rates import Rates, network_of
from orderflow.api.state import State
from orderflow.api.streams import OrderStreams
from orderflow.bull.changes import ChangesListener
from orderflow.collector import collect_rarely
from orderflow.dashboard.routes import dashboard_routes
from orderflow.demo.routes import demo_routes
from orderflow.logs import configure_logs
from orderflow.metrics.serving import serve_process
from orderflow.resources import open_reads, open_resources
from orderflow.settings import Settings, load_settings
from orderflow.tracing import open_tracing


def create_app(settings: Settings | None = None) -> Starlette:
    """Return the app. Without `settings` it reads them and sets up the process, which is its own.

    Raises InvalidSettings.
    """
    if settings is None:
        settings = load_settings()
        configure_logs(settings.log_format, settings.log_level)
        collect_rarely()
    check_authentication(settings)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[Mapping[str, Any]]:
        checkouts = InFlight(settings.checkouts_in_flight)
        with (
            serve_process(settings.metrics_address),
            checkouts.shown(),
            open_tracing(settings, "api"),
        ):
            async with (
                open_resources(settings) as resources,
                open_reads(settings, resources.db) as reads,
                open_tokens(settings) as tokens,
                leave_in_time(settings.shutdown_grace_ms) as leaving,
                open_background() as background,
            ):
                streams = OrderStreams(
                    reads,
                    ChangesListener(settings.redis_servers, settings.queue_names),
                    leaving,
                    background,
                    settings.streams_at_most,
                )
                app.state.shared = State(
                    resources,
                    reads,
                    tokens,
                    checkouts,
                    Backlog(resources.db, settings.shed_after_s),
                    Rates(settings.checkout_rate_per_user),
                    Rates(settings.checkout_rate_per_address, network_of),
                    leaving,
                    background,
                    streams,
                )
                with streams.shown():
                    yield {
                        LIMITS: ConnectionLimits(
                            settings.max_connections, settings.request_timeout_s
                        ),
                        LEAVING: leaving,
                    }

    app = Starlette(
        routes=[
            Route("/checkout", PostCheckout(), methods=["POST"]),
            Route("/orders", list_orders),
            Route("/orders/{order_id}", get_order),
            Route("/orders/{order_id}/cancel", cancel_order, methods=["POST"]),
            Route("/orders/{order_id}/events", GetOrderEvents(), methods=["GET"]),
            Route("/webhooks/{gateway}", post_gateway_event, methods=["POST"]),
            Route("/livez", livez),
            Route("/readyz", readyz),
            Route("/openapi.json", get_openapi),
            Route("/docs", get_docs),
            Route("/docs/style.css", get_docs_style),
            *ADMIN_ROUTES,
            *dashboard_routes(),
            *demo_routes(settings),
        ],
        middleware=[
            *_traced(settings),
            Middleware(MeasuredRequests),
            Middleware(SafeHeaders),
            Middleware(ProblemAnswers),
            Middleware(BodyLimit, max_bytes=settings.max_body_bytes),
        ],
        # What the router raises never reaches the middleware: Starlette answers it before.
        exception_handlers={HTTPException: answer_error},
        lifespan=lifespan,
    )
    # A redirect would be an answer that the reference does not know.
    app.router.redirect_slashes = False
    return app


def _traced(settings: Settings) -> list[Middleware]:
    if not settings.is_traced:
        return []
    from orderflow.tracing.requests import TracedRequests

    return [Middleware(TracedRequests)]
