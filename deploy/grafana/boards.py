"""Write the dashboards: `python deploy/grafana/boards.py`, after each change here.

A panel is a line or two here and fifty in the JSON that Grafana reads, so this is where it is
changed. `dashboards/*.json` are what it makes, and a test holds them to that.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DASHBOARDS = Path(__file__).with_name("dashboards")
_SOURCE = {"type": "prometheus", "uid": "orderflow"}
_WIDTH, _HEIGHT = 24, 8
_SMALL = 4


@dataclass(frozen=True)
class Query:
    """What is asked, and how each series of it is called."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """Lines over time; or the newest numbers, where it is `small`."""

    title: str
    unit: str
    queries: Sequence[Query]
    meaning: str = ""
    small: bool = False
    #: From here on a number is alarming.
    red_from: float | None = None


@dataclass(frozen=True)
class Board:
    """A dashboard: what one looks at together."""

    name: str
    title: str
    panels: Sequence[Panel]
    by_queue: bool = False


def rate(metric: str, by: str, **labels: str) -> str:
    """Return how many a second there were of a counter, by some of its labels."""
    return f"sum by ({by}) (rate({metric}{_matchers(labels)}[$__rate_interval]))"


def quantiles(histogram: str, by: str = "", **labels: str) -> list[Query]:
    """Return the median and what 95 and 99 of 100 do not exceed."""
    grouped = ", ".join(filter(None, ["le", by]))
    series = rate(f"{histogram}_bucket", grouped, **labels)
    name = "".join(f" {{{{{label}}}}}" for label in filter(None, by.split(", ")))
    return [
        Query(f"histogram_quantile({share}, {series})", f"p{round(100 * share)}{name}")
        for share in (0.5, 0.95, 0.99)
    ]


def _matchers(labels: dict[str, str]) -> str:
    pairs = [f'{label}=~"{value}"' for label, value in labels.items()]
    return "{" + ", ".join(pairs) + "}" if pairs else ""


QUEUE = {"queue": "$queue"}

SHOP = Board(
    "shop",
    "Orders",
    [
        Panel(
            "Orders a minute",
            "none",
            [Query("60 * sum(rate(orderflow_orders_total{outcome='placed'}[5m]))", "placed")],
            small=True,
        ),
        Panel(
            "Checkouts that fail",
            "percentunit",
            [Query("orderflow:checkouts_failed:ratio5m", "5xx")],
            small=True,
            red_from=0.05,
        ),
        Panel(
            "Oldest open order",
            "s",
            [Query("orderflow_orders_oldest_unsettled_seconds", "age")],
            small=True,
            red_from=900,
        ),
        Panel(
            "Violated invariants",
            "none",
            [Query("sum(orderflow_invariant_violations)", "violations")],
            small=True,
            red_from=1,
        ),
        Panel(
            "Orders by what became of them",
            "ops",
            [Query(rate("orderflow_orders_total", "outcome"), "{{outcome}}")],
        ),
        Panel(
            "From the checkout until the customer is told",
            "s",
            quantiles("orderflow_order_seconds"),
        ),
        Panel(
            "Payments by outcome",
            "ops",
            [Query(rate("orderflow_payments_total", "outcome, method"), "{{outcome}} {{method}}")],
        ),
        Panel(
            "Money in an hour",
            "none",
            [
                Query(
                    "sum by (kind, currency) (increase(orderflow_money_total[1h]))",
                    "{{kind}} {{currency}}",
                )
            ],
            "In units of each currency. What is ordered and never charged was declined or expired.",
        ),
        Panel(
            "What must hold of all orders",
            "none",
            [Query("orderflow_invariant_violations", "{{invariant}}")],
            "How often it does not. See docs/runbooks/invariant-violated.md.",
        ),
        Panel(
            "Differences from the gateway's books",
            "none",
            [Query("orderflow_book_differences", "{{entry}} {{kind}}")],
            "As the last comparison found them. See docs/runbooks/books-differ.md.",
        ),
        Panel(
            "Oldest order that is not settled",
            "s",
            [Query("orderflow_orders_oldest_unsettled_seconds", "age")],
        ),
    ],
)

QUEUES = Board(
    "queues",
    "Queues and workers",
    [
        Panel(
            "Jobs that wait",
            "none",
            [Query('orderflow:jobs_waiting{queue=~"$queue"}', "{{queue}}")],
            small=True,
        ),
        Panel(
            "Time late, 30 days",
            "percentunit",
            [Query('avg_over_time(orderflow:queue_late{queue=~"$queue"}[30d])', "{{queue}}")],
            "The share of the time in which the next job waited longer than 30 s.",
            small=True,
            red_from=0.005,
        ),
        Panel(
            "Workers connected",
            "none",
            [Query('orderflow_workers_connected{queue=~"$queue"}', "{{queue}}")],
            small=True,
        ),
        Panel(
            "Paused",
            "none",
            [Query('orderflow_queue_paused{queue=~"$queue"}', "{{queue}}")],
            small=True,
            red_from=1,
        ),
        Panel(
            "Jobs by state",
            "none",
            [Query('bullmq_job_count{queue=~"$queue"}', "{{queue}} {{state}}")],
        ),
        Panel(
            "Age of the next job in line",
            "s",
            [
                Query(
                    'orderflow_queue_oldest_waiting_seconds{queue=~"$queue"}',
                    "{{queue}} {{priority}}",
                )
            ],
        ),
        Panel(
            "Jobs that end",
            "ops",
            [
                Query(rate("bullmq_job_completed_total", "queue", **QUEUE), "{{queue}} completed"),
                Query(rate("bullmq_job_failed_total", "queue", **QUEUE), "{{queue}} failed"),
            ],
            "BullMQ's own counters, so those of workers in Node are among them.",
        ),
        Panel(
            "Share that fails for good",
            "percentunit",
            [Query('orderflow:jobs_failed:ratio15m{queue=~"$queue"}', "{{queue}}")],
        ),
        Panel(
            "From added to begun", "s", quantiles("orderflow_job_wait_seconds", "queue", **QUEUE)
        ),
        Panel("Run of a handler", "s", quantiles("orderflow_job_run_seconds", "queue", **QUEUE)),
        Panel(
            "Slots",
            "none",
            [
                Query('sum by (queue) (orderflow_worker_slots{queue=~"$queue"})', "{{queue}}"),
                Query(
                    'sum by (queue) (orderflow_worker_slots_busy{queue=~"$queue"})',
                    "{{queue}} busy",
                ),
            ],
            "Busy slots at their number for long: more processes, or a higher concurrency.",
        ),
        Panel(
            "Attempts by how they ended",
            "ops",
            [
                Query(
                    rate("orderflow_job_attempts_total", "queue, outcome", **QUEUE),
                    "{{queue}} {{outcome}}",
                )
            ],
        ),
        Panel(
            "Attempts that are tried again, by error",
            "ops",
            [
                Query(
                    rate("orderflow_job_retries_total", "queue, reason", **QUEUE),
                    "{{queue}} {{reason}}",
                )
            ],
        ),
        Panel(
            "Jobs that failed for good, by error",
            "ops",
            [
                Query(
                    rate("orderflow_job_failures_total", "queue, reason", **QUEUE),
                    "{{queue}} {{reason}}",
                )
            ],
        ),
        Panel(
            "Jobs left by their workers",
            "ops",
            [
                Query(rate("orderflow_job_stalls_total", "queue", **QUEUE), "{{queue}} stalled"),
                Query(
                    rate("orderflow_job_locks_lost_total", "queue", **QUEUE), "{{queue}} lock lost"
                ),
            ],
        ),
        Panel(
            "Delayed jobs that are overdue",
            "s",
            [Query('orderflow_queue_delayed_overdue_seconds{queue=~"$queue"}', "{{queue}}")],
        ),
    ],
    by_queue=True,
)

OUTSIDE = Board(
    "outside",
    "Gateway and senders",
    [
        Panel(
            "Gateway calls",
            "ops",
            [
                Query(
                    rate("orderflow_gateway_seconds_count", "call, outcome"), "{{call}} {{outcome}}"
                )
            ],
        ),
        Panel(
            "Time of a gateway call",
            "s",
            quantiles("orderflow_gateway_seconds", "call"),
        ),
        Panel(
            "Left alone",
            "none",
            [Query("max by (breaker) (orderflow_breaker_open)", "{{breaker}}")],
            "1 while a process leaves it alone.",
        ),
        Panel(
            "Changes of the breakers",
            "ops",
            [Query(rate("orderflow_breaker_changes_total", "breaker"), "{{breaker}}")],
        ),
        Panel(
            "Messages",
            "ops",
            [
                Query(
                    rate("orderflow_sender_seconds_count", "channel, outcome"),
                    "{{channel}} {{outcome}}",
                )
            ],
        ),
        Panel(
            "Time of a message",
            "s",
            quantiles("orderflow_sender_seconds", "channel"),
        ),
    ],
)

API = Board(
    "api",
    "API",
    [
        Panel(
            "Requests",
            "reqps",
            [
                Query(
                    rate("orderflow_http_request_seconds_count", "route, status"),
                    "{{route}} {{status}}",
                )
            ],
        ),
        Panel(
            "Time of a checkout",
            "s",
            quantiles("orderflow_http_request_seconds", route="/checkout"),
        ),
        Panel(
            "Checkouts that fail",
            "percentunit",
            [Query("orderflow:checkouts_failed:ratio5m", "5xx")],
        ),
        Panel(
            "Checkouts under way",
            "none",
            [
                Query("sum(orderflow_checkouts_in_flight)", "under way"),
                Query("sum(orderflow_checkouts_in_flight_max)", "at most"),
            ],
        ),
        Panel(
            "Jobs offered to the queues",
            "ops",
            [Query(rate("orderflow_job_offers_total", "queue, outcome"), "{{queue}} {{outcome}}")],
            "What is not added is left to the reconciler.",
        ),
        Panel(
            "Connections refused",
            "ops",
            [Query(rate("orderflow_http_connections_refused_total", "reason"), "{{reason}}")],
        ),
    ],
)

SERVERS = Board(
    "servers",
    "Servers and processes",
    [
        Panel("Redis", "none", [Query("orderflow_redis_up", "up")], small=True),
        Panel("PostgreSQL", "none", [Query("orderflow_postgres_up", "up")], small=True),
        Panel(
            "Redis may evict, cannot write",
            "none",
            [
                Query("orderflow_redis_eviction_policy_wrong", "may evict {{server}}"),
                Query("orderflow_redis_aof_write_failed", "cannot write {{server}}"),
            ],
            small=True,
            red_from=1,
        ),
        Panel(
            "Versions",
            "none",
            [Query("count by (version) (orderflow_build_info)", "{{version}}")],
            "Programs that run each.",
            small=True,
        ),
        Panel(
            "Memory of Redis",
            "bytes",
            [
                Query("orderflow_redis_memory_used_bytes", "used {{server}}"),
                Query("orderflow_redis_memory_max_bytes", "maxmemory {{server}}"),
            ],
        ),
        Panel(
            "Connections to PostgreSQL",
            "none",
            [
                Query("sum by (job) (orderflow_postgres_pool_size)", "{{job}} open"),
                Query("sum by (job) (orderflow_postgres_pool_idle)", "{{job}} idle"),
                Query("sum by (job) (orderflow_postgres_pool_max)", "{{job}} at most"),
                Query("sum by (job) (orderflow_postgres_pool_waiting)", "{{job}} waited for"),
            ],
        ),
        Panel(
            "Calls that share a statement",
            "none",
            [
                Query(
                    rate("orderflow_batch_size_sum", "statement")
                    + " / "
                    + rate("orderflow_batch_size_count", "statement"),
                    "{{statement}}",
                )
            ],
        ),
        Panel(
            "Commands to Redis that are sent together",
            "none",
            [
                Query(
                    rate("orderflow_redis_pipeline_commands_sum", "job")
                    + " / "
                    + rate("orderflow_redis_pipeline_commands_count", "job"),
                    "{{job}}",
                ),
                Query("sum by (job) (orderflow_redis_pipeline_depth)", "{{job}} under way"),
            ],
        ),
        Panel(
            "Runs of the reconciler",
            "ops",
            [Query(rate("orderflow_reconciler_runs_total", "outcome"), "{{outcome}}")],
        ),
        Panel(
            "What the reconciler did",
            "ops",
            [Query(rate("orderflow_reconciler_actions_total", "action"), "{{action}}")],
        ),
        Panel(
            "Since the last run of the reconciler, and its time",
            "s",
            [
                Query(
                    "time() - max(orderflow_reconciler_last_run_timestamp_seconds)",
                    "since the last",
                ),
                *quantiles("orderflow_reconciler_run_seconds"),
            ],
        ),
        Panel(
            "Orders that the reconciler looks at",
            "none",
            [Query("max(orderflow_reconciler_unsettled_orders)", "unsettled")],
        ),
        Panel(
            "CPU",
            "percentunit",
            [Query(rate("process_cpu_seconds_total", "job", job="orderflow-.+"), "{{job}}")],
        ),
        Panel(
            "Memory",
            "bytes",
            [Query('sum by (job) (process_resident_memory_bytes{job=~"orderflow-.+"})', "{{job}}")],
        ),
        Panel(
            "Open files and connections",
            "none",
            [
                Query('max by (job) (process_open_fds{job=~"orderflow-.+"})', "{{job}}"),
                Query('min by (job) (process_max_fds{job=~"orderflow-.+"})', "{{job}} at most"),
            ],
        ),
        Panel("Processes", "none", [Query("sum by (job) (orderflow_processes)", "{{job}}")]),
    ],
)

BOARDS = (SHOP, QUEUES, OUTSIDE, API, SERVERS)


def to_json(board: Board) -> dict[str, Any]:
    """Return the dashboard as Grafana reads it."""
    return {
        "uid": f"orderflow-{board.name}",
        "title": f"orderflow: {board.title}",
        "tags": ["orderflow"],
        "schemaVersion": 39,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "15s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "links": [
            {"type": "dashboards", "tags": ["orderflow"], "title": "orderflow", "keepTime": True}
        ],
        "templating": {"list": [_QUEUE_VARIABLE] if board.by_queue else []},
        "panels": _panels(board.panels),
    }


_QUEUE_VARIABLE = {
    "name": "queue",
    "type": "query",
    "datasource": _SOURCE,
    "query": {"query": "label_values(bullmq_job_count, queue)", "refId": "queue"},
    "includeAll": True,
    "multi": True,
    "allValue": ".+",
    "current": {"text": "All", "value": "$__all"},
    "refresh": 2,
}


def _panels(panels: Sequence[Panel]) -> list[dict[str, Any]]:
    """Lay the panels out: small ones four in a row, the others two."""
    placed, x, y, row = [], 0, 0, 0
    for number, panel in enumerate(panels, start=1):
        width = _WIDTH // 4 if panel.small else _WIDTH // 2
        height = _SMALL if panel.small else _HEIGHT
        if x + width > _WIDTH or (x and height != row):
            x, y = 0, y + row
        grid = {"x": x, "y": y, "w": width, "h": height}
        x, row = x + width, height
        placed.append(_panel(number, panel, grid))
    return placed


def _panel(number: int, panel: Panel, grid: dict[str, int]) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.red_from is not None:
        steps.append({"color": "red", "value": panel.red_from})
    defaults = {
        "unit": panel.unit,
        "min": 0,
        "thresholds": {"mode": "absolute", "steps": steps},
        **({} if panel.small else {"custom": {"fillOpacity": 8, "showPoints": "never"}}),
    }
    return {
        "id": number,
        "type": "stat" if panel.small else "timeseries",
        "title": panel.title,
        "description": panel.meaning,
        "datasource": _SOURCE,
        "gridPos": grid,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {} if panel.small else {"legend": {"displayMode": "table", "calcs": ["last"]}},
        "targets": [
            {
                "refId": chr(ord("A") + at),
                "datasource": _SOURCE,
                "expr": query.expr,
                "legendFormat": query.legend,
                "exemplar": "_bucket" in query.expr,
            }
            for at, query in enumerate(panel.queries)
        ],
    }


def text_of(board: Board) -> str:
    """Return the dashboard's file."""
    return json.dumps(to_json(board), indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """Write all of them."""
    for board in BOARDS:
        (DASHBOARDS / f"{board.name}.json").write_text(text_of(board), "utf-8")


if __name__ == "__main__":
    main()
