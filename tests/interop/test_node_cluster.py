"""Node BullMQ by ioredis' Cluster, and our workers, on one Redis Cluster."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.conftest import wait_until
from tests.interop.bridge import Bridge, Node
from tests.interop.conftest import NODE_OPTIONS, VERSIONS, foreign_data
from tests.redis_sites import ClusterSite, on_cluster, start_cluster

from orderflow.contract import payment_job
from orderflow.settings import Settings

PAYMENTS = "payment-processing"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterSite]:
    site = start_cluster(tmp_path_factory.mktemp("cluster"))
    yield site
    site.stop()


@pytest.fixture
def settings(settings: Settings, site: ClusterSite) -> Settings:
    return on_cluster(settings, site)


@pytest.fixture(params=VERSIONS)
def node(
    request: pytest.FixtureRequest, node_program: str, site: ClusterSite, settings: Settings
) -> Iterator[Node]:
    """Node BullMQ, with the prefix of the queue of payments written out as Node wants it."""
    bridge = Bridge(node_program, request.param, site.url)
    yield Node(bridge, settings.queue_names.prefix_of(PAYMENTS))
    bridge.stop()


def test_a_payment_that_node_adds_is_done_by_our_worker(node, start_worker, gateway_server):
    start_worker("payment")
    data = foreign_data()
    job_id = node.add(PAYMENTS, "process-payment", data, NODE_OPTIONS | {"priority": 1})
    wait_until(lambda: node.job(PAYMENTS, job_id)["state"] == "completed", "the job")
    entry = gateway_server.charge(data["paymentId"])
    assert node.job(PAYMENTS, job_id)["returnvalue"] == {
        "success": True,
        "transactionId": entry["id"],
    }


async def test_a_payment_of_ours_is_done_by_a_node_worker(node, place):
    node.ask("startWorker", queue=PAYMENTS)
    receipt = await place()
    job = payment_job(str(receipt.payment_id), str(receipt.order_id), "card", receipt.total)
    wait_until(lambda: node.job(PAYMENTS, job.job_id)["state"] == "completed", "the job")
