"""What queues and keys are called."""

from __future__ import annotations

import pytest

from orderflow.queue_names import QueueNames


@pytest.mark.parametrize(
    ("prefix", "key", "channel"),
    [
        ("bull", "bull:notifications:wait", "bull:orders-changed"),
        ("{bull}", "{bull}:notifications:wait", "{bull}:orders-changed"),
        (
            "{bull-*}",
            "{bull-notifications}:notifications:wait",
            "{bull-shared}:orders-changed",
        ),
        ("*", "notifications:notifications:wait", "shared:orders-changed"),
    ],
)
def test_a_star_stands_for_the_queue(prefix: str, key: str, channel: str):
    names = QueueNames(prefix)
    assert names.key("notifications", "wait") == key
    assert names.orders_changed == channel
    assert names.outage("gateway").startswith(names.shared_prefix + ":")
