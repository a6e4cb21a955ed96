"""A view of Django that orders a cart, in one file.

pip install django
export ORDERS_URL=http://127.0.0.1:8000 ORDERS_TOKEN=$(orderflow token --user ada)
python examples/django_view.py runserver 8080
"""

import json
import os
import sys
from typing import Any

from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from orderflow.client import Problem, SyncOrders, Unanswered

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="for an example only",  # noqa: S106 - it keeps nothing
)

# One for the whole process: its connections are kept open, and threads may share it. Where each
# customer has a token of their own, share an httpx.Client, as fastapi_shop.py does.
orders = SyncOrders(
    os.environ.get("ORDERS_URL", "http://127.0.0.1:8000"),
    os.environ["ORDERS_TOKEN"],
    # A thread waits meanwhile, and so does the customer: less than the client's own 30 s.
    deadline_s=10,
)


@csrf_exempt
@require_POST
def order_cart(request: HttpRequest, cart_id: str) -> JsonResponse:
    """Order a cart. The cart's id makes a second click, or a reload, the same order."""
    cart: dict[str, Any] = json.loads(request.body)
    try:
        receipt = orders.checkout(
            items=cart["items"],
            payment_method="card",
            payment_token=cart["paymentToken"],
            email=cart["email"],
            idempotency_key=f"cart-{cart_id}",
        )
    except Problem as problem:
        if problem.kind == "out-of-stock":
            return JsonResponse({"soldOut": problem.members["sku"]}, status=409)
        if problem.kind == "invalid-body":
            # By the field, as a form shows it: {"/contact/email": ["…"]}.
            shown = {field: [f.detail for f in found] for field, found in problem.errors.items()}
            return JsonResponse({"errors": shown}, status=422)
        raise
    except Unanswered:
        return JsonResponse({"error": "Please try again."}, status=503)
    return JsonResponse({"order": str(receipt.order_id)}, status=202)


urlpatterns = [path("carts/<slug:cart_id>/order", order_cart)]

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
