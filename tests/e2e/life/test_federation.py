"""A dispatcher on one broker, the daemon on another, and RabbitMQ's federation between them.

May touch: two private nodes with the federation plugin, under a prefix of the test's own.
Must never: publish to the daemon's broker, or read a result there.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pika
import pytest

from tests.rig.brokers.node import Node
from tests.rig.daemon import Daemon

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.rig.sites.hostel import Hostel

PREFIX = "fed"


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    """The dispatcher's node and the daemon's, each the upstream of the other."""
    theirs, ours = Node(tmp_path / "theirs"), Node(tmp_path / "ours")
    theirs.plugins = ours.plugins = ("rabbitmq_federation",)
    with theirs, ours:
        for node, upstream, exchange in ((ours, theirs, "jobs"), (theirs, ours, "results")):
            node.ctl("set_cluster_name", exchange)  # both have that of their host, by default
            uri = json.dumps({"uri": upstream.url.rstrip("/"), "reconnect-delay": 1})
            node.ctl("set_parameter", "federation-upstream", "other", uri)
            node.policy(
                "f", rf"^{PREFIX}\.{exchange}$", apply_to="exchanges", federation_upstream="other"
            )
        yield theirs, ours


def test_a_job_comes_by_federation_and_its_result_goes_home(
    nodes: tuple[Node, Node], hostel: Hostel
) -> None:
    """The job has `x-received-from` of its broker. Its result has no such header, or that broker
    would not take it: it would count as one that has been there.
    """
    theirs, ours = nodes
    with pika.BlockingConnection(pika.URLParameters(theirs.url)) as connection:
        channel = connection.channel()
        jobs, results = f"{PREFIX}.jobs", f"{PREFIX}.results"
        channel.exchange_declare(jobs, "direct", durable=True)
        channel.exchange_declare(results, "topic", durable=True)
        channel.queue_declare("mine", durable=True)
        channel.queue_bind("mine", results, "#")
        with Daemon(ours.url, PREFIX).ready():
            until_linked(theirs, ours)
            channel.confirm_delivery()
            job = {"url": hostel.url("/page/1"), "id": "far"}
            properties = pika.BasicProperties(delivery_mode=2, headers={"own": 1})
            channel.basic_publish(jobs, jobs, json.dumps(job), properties, mandatory=True)
            _, came, body = next(channel.consume("mine", inactivity_timeout=30))
            assert body, "the result did not come home"
    assert json.loads(body)["status"] == "ok"
    assert json.loads(body)["id"] == "far"
    assert came.headers["own"] == 1
    assert len(came.headers["x-received-from"]) == 1  # of its way home alone


def until_linked(*nodes: Node) -> None:
    """Wait until the exchanges of all are bound to those of the others."""
    deadline = time.monotonic() + 60
    linked = "[proplists:get_value(status, S) || S <- rabbit_federation_status:status()]"
    while not all("running" in node.eval(linked) for node in nodes):
        assert time.monotonic() < deadline
        time.sleep(0.2)
