"""The paths of the admin API."""

from __future__ import annotations

from starlette.routing import Route

from orderflow.api.admin import failures, jobs, life, orders, queues, users, webhooks

_QUEUE = "/admin/api/queues/{queue}"
_JOB = f"{_QUEUE}/jobs/{{job_id}}"
_GROUP = "/admin/api/failures/{fingerprint}"
_ORDER = "/admin/api/orders/{order_id}"
_WEBHOOK = "/admin/api/webhooks/{endpoint_id}"
_DELIVERY = f"{_WEBHOOK}/deliveries/{{delivery_id}}"
_BULK = "/admin/api/bulk/{action_id}"

ADMIN_ROUTES = [
    Route("/admin/api/queues", queues.list_queues),
    Route(_QUEUE, queues.get_queue),
    Route(f"{_QUEUE}/pause", queues.pause_queue, methods=["POST"]),
    Route(f"{_QUEUE}/resume", queues.resume_queue, methods=["POST"]),
    Route(f"{_QUEUE}/drain", queues.drain_queue, methods=["POST"]),
    Route(f"{_QUEUE}/clean", queues.clean_queue, methods=["POST"]),
    Route(f"{_QUEUE}/rate-limit", queues.set_rate_limit, methods=["POST"]),
    Route(f"{_QUEUE}/concurrency", queues.set_concurrency, methods=["POST"]),
    Route(f"{_QUEUE}/jobs", jobs.list_jobs),
    Route(_JOB, jobs.get_job),
    Route(f"{_JOB}/retry", jobs.retry_job, methods=["POST"]),
    Route(f"{_JOB}/promote", jobs.promote_job, methods=["POST"]),
    Route(f"{_JOB}/remove", jobs.remove_job, methods=["POST"]),
    Route(f"{_JOB}/move-to-waiting", jobs.move_to_waiting, methods=["POST"]),
    Route("/admin/api/failures", failures.list_groups),
    Route(_GROUP, failures.get_group),
    Route(f"{_GROUP}/dry-run", failures.try_bulk),
    Route(f"{_GROUP}/retry", failures.retry_group, methods=["POST"]),
    Route(f"{_GROUP}/discard", failures.discard_group, methods=["POST"]),
    Route("/admin/api/bulk", failures.list_bulk),
    Route(_BULK, failures.get_bulk),
    Route(f"{_BULK}/stop", failures.stop_bulk, methods=["POST"]),
    Route("/admin/api/orders/search", orders.search_orders, methods=["POST"]),
    Route(f"{_ORDER}/story", orders.get_story),
    Route(f"{_ORDER}/cancel", life.cancel_order, methods=["POST"]),
    Route(f"{_ORDER}/refund", life.refund_order, methods=["POST"]),
    Route(f"{_ORDER}/ship", life.ship_order, methods=["POST"]),
    Route(f"{_ORDER}/deliver", life.deliver_order, methods=["POST"]),
    Route("/admin/api/users/{user_id}/forget", users.forget_user, methods=["POST"]),
    Route("/admin/api/webhooks", webhooks.list_endpoints),
    Route("/admin/api/webhooks", webhooks.add_endpoint, methods=["POST"]),
    Route(_WEBHOOK, webhooks.get_endpoint),
    Route(f"{_WEBHOOK}/rotate", webhooks.rotate_secret, methods=["POST"]),
    Route(f"{_WEBHOOK}/enable", webhooks.enable_endpoint, methods=["POST"]),
    Route(f"{_WEBHOOK}/disable", webhooks.disable_endpoint, methods=["POST"]),
    Route(f"{_WEBHOOK}/remove", webhooks.remove_endpoint, methods=["POST"]),
    Route(f"{_WEBHOOK}/resend", webhooks.resend_given_up, methods=["POST"]),
    Route(f"{_WEBHOOK}/deliveries", webhooks.list_deliveries),
    Route(_DELIVERY, webhooks.get_delivery),
    Route(f"{_DELIVERY}/resend", webhooks.resend_delivery, methods=["POST"]),
    Route("/admin/api/workers", queues.list_workers),
    Route("/admin/api/audit", orders.list_audit),
]
