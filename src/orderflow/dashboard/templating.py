"""The templates, with the words and addresses that they use."""

from __future__ import annotations

from functools import cache

import jinja2

from orderflow import __version__
from orderflow.api.static_files import StaticFiles
from orderflow.dashboard import text, urls
from orderflow.dashboard.unknown import Unknown

STATIC = StaticFiles("orderflow.dashboard", "/admin/static")


@cache
def environment() -> jinja2.Environment:
    """Return the templates, each compiled once."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("orderflow.dashboard"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {
        "ago": text.ago,
        "clock": text.clock,
        "event_mood": text.event_mood,
        "facts": text.facts,
        "grouped": text.grouped,
        "iso": text.iso,
        "mood": text.mood,
        "pretty": text.pretty,
        "short": text.short,
        "size": text.size,
        "span": text.span,
    }
    made.tests["unknown"] = lambda value: isinstance(value, Unknown)
    made.globals |= {
        "job_url": urls.job_url,
        "order_url": urls.order_url,
        "queue_url": urls.queue_url,
        "webhook_url": urls.webhook_url,
        "static": STATIC.url,
        "version": __version__,
    }
    return made
