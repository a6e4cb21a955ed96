"""What Node refuses to add we refuse by the same rule, and what it takes we take."""

from __future__ import annotations

from typing import Any

import pytest
from tests.interop.bridge import Node, NodeError

from orderflow.bull.queues import JobQueues

#: Whether Node takes each of these is asked of Node, not written here.
OPTIONS: dict[str, dict[str, Any]] = {
    "an integer as text": {"jobId": "7"},
    "a number": {"jobId": 7},
    "zero as text": {"jobId": "0"},
    "zero": {"jobId": 0},
    "a negative integer as text": {"jobId": "-7"},
    "a leading zero": {"jobId": "007"},
    "a fraction as text": {"jobId": "7.5"},
    "zero and more": {"jobId": "0:7"},
    "one colon": {"jobId": "shop:7"},
    "two colons": {"jobId": "shop:of:7"},
    "three colons": {"jobId": "a:b:c:d"},
    "an empty id": {"jobId": ""},
    "a space": {"jobId": "shop 7"},
    "priority 0": {"priority": 0},
    "the lowest priority": {"priority": 2_097_151},
    "a priority too low": {"priority": 2_097_152},
    "a fractional priority": {"priority": 1.5},
    "a negative priority": {"priority": -1},
    "a delay of 0": {"delay": 0},
    "a negative delay": {"delay": -5},
    "a fractional delay": {"delay": 1_000.5},
    "within the size limit": {"sizeLimit": 1_000},
    "over the size limit": {"sizeLimit": 10},
    "deduplication without an id": {"deduplication": {"ttl": 5}},
    "jitter within": {"backoff": {"type": "fixed", "delay": 5, "jitter": 1}},
    "jitter above": {"backoff": {"type": "fixed", "delay": 5, "jitter": 1.5}},
    "jitter below": {"backoff": {"type": "fixed", "delay": 5, "jitter": -0.5}},
    "two rules for the parent": {"failParentOnFailure": True, "ignoreDependencyOnFailure": True},
    "the debounce of old": {"debounce": {"id": "x"}},
}
DATA = {"text": "more than ten bytes"}


def refusal_of_node(node: Node, queue: str, options: dict[str, Any]) -> str | None:
    try:
        node.add(queue, "probe", DATA, options)
    except NodeError as refusal:
        return str(refusal)
    return None


async def refusal_of_ours(queues: JobQueues, queue: str, options: dict[str, Any]) -> str | None:
    try:
        await queues.queue(queue).add("probe", DATA, options)
    except Exception as refusal:  # which error it is, is ours to choose
        return str(refusal)
    return None


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
async def test_we_take_and_refuse_what_node_does(node6, resources, keys, options):
    by_node = refusal_of_node(node6, "of-node", options)
    by_us = await refusal_of_ours(resources.queues, "of-us", options)
    if by_node is None:
        assert by_us is None
        for state in ("wait", "delayed", "prioritized"):
            assert keys("of-us").ids(state) == keys("of-node").ids(state), state
    else:
        assert by_us is not None, f"Node refuses it: {by_node}"
        assert keys("of-us").count("wait") == 0
        # A TypeError of JavaScript is no rule to repeat.
        assert "is not a function" in by_node or by_node in by_us


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
async def test_in_bulk_one_that_node_refuses_adds_none(node6, resources, keys, options):
    jobs = [{"name": "probe", "data": DATA, "opts": opts} for opts in ({}, options)]
    try:
        node6.ask("addBulk", queue="of-node", jobs=jobs)
    except NodeError as refusal:
        rule = str(refusal)
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is Node's, see below
            await resources.queues.queue("of-us").addBulk(jobs)
        assert "is not a function" in rule or rule in str(caught.value)
        assert keys("of-us").count("wait") == 0
    else:
        await resources.queues.queue("of-us").addBulk(jobs)
        for state in ("wait", "delayed", "prioritized"):
            assert keys("of-us").count(state) == keys("of-node").count(state), state


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
async def test_what_is_no_json_is_not_added(resources, keys, bad):
    with pytest.raises(ValueError, match="not JSON compliant"):
        await resources.queues.queue("of-us").add("probe", {"n": bad})
    assert keys("of-us").count("wait") == 0


async def test_attempts_come_from_the_contract(resources, node6):
    job = await resources.queues.queue("of-us").add("probe", {})
    assert node6.job("of-us", job.id)["opts"]["attempts"] == 3
