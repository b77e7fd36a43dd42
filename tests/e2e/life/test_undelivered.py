"""Jobs that RabbitMQ itself gives up: each has its result, and is in the dead queue in the end.

May touch: the shared node, by a prefix of its own; the real daemon as a child.
Must never: let a job end in silence.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from scraperd.broker.rabbitmq.topology import MAX_REDELIVERIES, Topology
from tests.rig.daemon import Daemon, until

if TYPE_CHECKING:
    from tests.rig.brokers.node import Node
    from tests.rig.daemon import Dispatcher

TARGET = "http://127.0.0.1:9/"


@pytest.fixture
def declared(broker_url: str, prefix: str, dispatcher: Dispatcher) -> Dispatcher:
    """A dispatcher whose queues are there, and no daemon."""
    with Daemon(broker_url, prefix).ready() as daemon:
        assert daemon.drain() == 0
    return dispatcher


def letters(dispatcher: Dispatcher, count: int) -> dict[str, dict[str, Any]]:
    """So many dead letters are taken away: each one's headers, by the job's id."""
    until(lambda: dispatcher.depth("dead") >= count)
    found = {}
    for _ in range(count):
        name = f"{dispatcher.prefix}.dead"
        _, properties, body = dispatcher.channel.basic_get(name, auto_ack=True)
        found[json.loads(body)["id"]] = properties.headers
    return found


def test_a_job_whose_expiration_ran_out_is_heard_of(
    broker_url: str, prefix: str, declared: Dispatcher
) -> None:
    """Its publisher set the message property `expiration`, and no worker took it in time: its
    result says `expired`, and the job is a dead letter.
    """
    declared.publish({"url": TARGET, "id": "old", "meta": {"n": 7}}, expiration="1")
    until(lambda: declared.depth("undelivered") == 1)
    with Daemon(broker_url, prefix).ready() as daemon:
        [result] = declared.results(1)
        headers = letters(declared, 1)["old"]
        assert daemon.drain() == 0
    assert (result["id"], result["meta"], result["url"]) == ("old", {"n": 7}, TARGET)
    assert (result["status"], result["error"]["kind"]) == ("failed", "expired")
    assert headers["x-scraperd-undelivered"] == "expired"
    assert headers["x-scraperd-dead-kind"] == "expired"
    assert not [name for name in headers if name.startswith("x-death")]


def test_a_job_that_was_given_out_too_often_is_heard_of(
    broker_url: str, prefix: str, declared: Dispatcher
) -> None:
    """The broker's own limit of returns is passed: a failed result, and a dead letter; not run."""
    declared.publish({"url": TARGET, "id": "worn"})
    for _ in range(MAX_REDELIVERIES + 1):
        method, _, _ = declared.channel.basic_get(f"{prefix}.jobs")
        declared.channel.basic_nack(method.delivery_tag, requeue=True)
    until(lambda: declared.depth("undelivered") == 1)
    with Daemon(broker_url, prefix).ready() as daemon:
        [result] = declared.results(1)
        headers = letters(declared, 1)["worn"]
        assert daemon.drain() == 0
    assert (result["id"], result["error"]["kind"]) == ("worn", "internal")
    assert f"given out {MAX_REDELIVERIES} times" in result["error"]["message"]
    assert headers["x-scraperd-undelivered"] == "delivery_limit"


def test_what_the_broker_gave_up_survives_a_full_dead_queue(
    node: Node, broker_url: str, prefix: str, declared: Dispatcher
) -> None:
    """The dead queue refuses: each job has its one result, waits, and is a dead letter at last."""
    node.policy(prefix, rf"^{prefix}\.dead$", max_length=1)
    try:
        for n in range(30):
            declared.publish({"url": TARGET, "id": f"job {n}"}, expiration="1")
        until(lambda: declared.depth("undelivered") == 30)
        with Daemon(broker_url, prefix).ready() as daemon:
            daemon.wait_for_line('"problem":"rejected"')
            taken = letters(declared, 1)
            while len(taken) < 30:
                taken |= letters(declared, 1)
            results = declared.results(30)
            assert daemon.drain() == 0
    finally:
        node.clear_policy(prefix)
    assert {result["id"] for result in results} == taken.keys()
    assert {result["error"]["kind"] for result in results} == {"expired"}
    assert declared.depth("results") == declared.depth("undelivered") == 0


def test_queues_of_an_earlier_version_are_used_and_said(
    broker_url: str, prefix: str, dispatcher: Dispatcher
) -> None:
    """Dead-lettering at-least-once into the dead queue, as it was: a line for each such queue, and
    what they dead-letter goes where it went before.
    """
    queues = {queue.name: queue for queue in Topology(prefix).queues}
    older = {f"{prefix}.{name}" for name in ("jobs", "quarantine", "quarantine.solo")}
    for name in older:
        arguments = queues[name].arguments | queues[name].earlier
        dispatcher.channel.queue_declare(name, durable=True, arguments=arguments)
    with Daemon(broker_url, prefix).ready() as daemon:
        assert daemon.drain() == 0
    said = [line["error"] for line in daemon.logged("queue_differs")]
    assert {line.split("'")[1] for line in said} == older
    for line in said:
        assert f"x-dead-letter-routing-key = {prefix}.dead" in line
        assert "x-dead-letter-strategy = at-least-once" in line
        assert "delete it" in line
    dispatcher.publish({"url": TARGET, "id": "old"}, expiration="1")
    until(lambda: dispatcher.depth("dead") == 1)


def test_a_queue_that_loses_its_dead_letters_is_refused(
    broker_url: str, prefix: str, dispatcher: Dispatcher
) -> None:
    """A delay queue that is not dead-lettered at-least-once would lose retries: exit 78."""
    name = f"{prefix}.delay.1"
    arguments = {queue.name: queue.arguments for queue in Topology(prefix).queues}[name]
    weak = {key: value for key, value in arguments.items() if "strategy" not in key}
    dispatcher.channel.queue_declare(name, durable=True, arguments=weak)
    with Daemon(broker_url, prefix) as daemon:
        assert daemon.wait() == 78
    [line] = daemon.logged("config")
    assert name in line["error"]
    assert "x-dead-letter-strategy = nothing" in line["error"]


def test_the_start_warns_of_a_broker_that_is_known_to_be_hit(
    node: Node, broker_url: str, prefix: str, dispatcher: Dispatcher
) -> None:
    """Once, with the version; on RabbitMQ 4 not at all. And what runs is told of no other way."""
    assert dispatcher.prefix == prefix
    with Daemon(broker_url, prefix).ready() as daemon:
        assert daemon.drain() == 0
    said = daemon.logged("broker_vulnerable")
    assert len(said) == (node.version < (4, 0))
    for line in said:
        assert line["level"] == "warning"
        assert f"RabbitMQ {'.'.join(map(str, node.version))}" in line["error"]
