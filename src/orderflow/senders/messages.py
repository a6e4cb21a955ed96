"""The words of each message: Jinja templates, one folder a kind.

`templates/<kind>/` has `subject.txt`, `email.txt`, `email.html` and `sms.txt`. HTML is escaped;
the text forms are not, since they are not markup.
"""

from __future__ import annotations

from decimal import Decimal

import jinja2

from orderflow.contract import JobName
from orderflow.orders import Order
from orderflow.senders import Channel, Message


class Templates:
    """Renders messages; every undefined name in a template is an error."""

    def __init__(self) -> None:
        self._environment = jinja2.Environment(
            loader=jinja2.PackageLoader("orderflow", "templates"),
            autoescape=jinja2.select_autoescape(["html"]),
            undefined=jinja2.StrictUndefined,
            # They come with the package; to look at the files for each message costs more than
            # to fill them.
            auto_reload=False,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters["money"] = _money
        self._templates: dict[str, jinja2.Template] = {}

    def render(self, kind: JobName, channel: Channel, order: Order, recipient: str) -> Message:
        """Return what to say to `recipient` about `order`."""
        reference = f"{kind.value}.{order.id}"
        if channel is Channel.SMS:
            return Message(
                recipient=recipient,
                subject="",
                text=self._fill(kind, "sms.txt", order),
                reference=reference,
            )
        return Message(
            recipient=recipient,
            # A header is one line, whatever a product or a name holds.
            subject=" ".join(self._fill(kind, "subject.txt", order).split()),
            text=self._fill(kind, "email.txt", order),
            html=self._fill(kind, "email.html", order),
            reference=reference,
        )

    def _fill(self, kind: JobName, part: str, order: Order) -> str:
        name = f"{kind.value}/{part}"
        template = self._templates.get(name)
        if template is None:
            template = self._templates[name] = self._environment.get_template(name)
            # Copied for every message, which a chain of dictionaries makes slow.
            template.globals = dict(template.globals)
        return template.render(order=order)


def _money(amount: Decimal, currency: str) -> str:
    return f"{amount:.2f} {currency}"
