"""The settling table, read off the wire: publish, confirm, ack, in that order, for each verdict.

May touch: a private broker through a proxy that reads frames; the daemon as a subprocess.
Must never: trust what the daemon says of itself.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from pika.exceptions import NackError

from tests.rig.brokers.wire import Seen, Wire, settling
from tests.rig.daemon import Daemon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pika.adapters.blocking_connection import BlockingChannel

    from tests.rig.brokers.node import Node
    from tests.rig.daemon import Dispatcher
    from tests.rig.sites.hostel import Hostel


@pytest.fixture
def wire(node: Node, broker_url: str) -> Iterator[Wire]:
    """A proxy in front of the shared node."""
    with Wire(node.port) as wire:
        yield wire


def settled(count: int = 1) -> Callable[[list[Seen]], bool]:
    """Whether `count` deliveries have been acked."""
    return lambda seen: settling(seen).count("ack") >= count


def test_done_is_publish_confirm_ack(
    wire: Wire, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """A good result is published and confirmed before its job is acked."""
    with Daemon(wire.url, prefix).ready():
        dispatcher.publish({"url": hostel.url("/page/1"), "id": "a"})
        seen = wire.wait_for(settled())
    key = "ok.200.127-0-0-1"
    assert settling(seen) == [f"publish {key}", "confirm", "ack"]
    acks = [s for s in seen if s.sent and s.name == "Basic.Ack"]
    publishes = [s for s in seen if s.name == "Basic.Publish"]
    assert publishes[0].frame.mandatory
    assert acks[0].connection != publishes[0].connection


def test_a_failed_page_is_done_too(
    wire: Wire, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """A 404 is an outcome: one failed result, no retry, no dead letter."""
    with Daemon(wire.url, prefix).ready():
        dispatcher.publish({"url": hostel.url("/status/404"), "id": "a"})
        seen = wire.wait_for(settled())
    assert settling(seen) == ["publish failed.http_status.127-0-0-1", "confirm", "ack"]
    assert dispatcher.depth("dead") == 0


def test_retry_moves_the_job_to_a_delay_tier_before_the_ack(
    wire: Wire, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """A 503 publishes the job, attempt 2, to a tier; the ack follows the confirm; then done."""
    with Daemon(wire.url, prefix).ready():
        dispatcher.publish({"url": hostel.url("/flaky/1/x"), "id": "a"}, correlation_id="c")
        seen = wire.wait_for(settled(2))
        [result] = dispatcher.results(1)
    delay = f"publish {prefix}.delay.1"
    assert settling(seen) == [delay, "confirm", "ack", "publish ok.200.127-0-0-1", "confirm", "ack"]
    assert (result["attempt"], result["id"], result["status"]) == (2, "a", "ok")


def test_dead_publishes_result_and_job_before_the_ack(
    wire: Wire, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """An exhausted job: the failed result, then the job to the dead queue, then the ack."""
    job = {"url": hostel.url("/status/503"), "id": "a", "max_retries": 0}
    with Daemon(wire.url, prefix).ready():
        dispatcher.publish(job, correlation_id="c", headers={"traceparent": "00-1-2-01"})
        seen = wire.wait_for(settled())
    assert settling(seen) == [
        "publish failed.http_status.127-0-0-1",
        "confirm",
        f"publish {prefix}.dead",
        "confirm",
        "ack",
    ]
    properties, body = dispatcher.take("dead")
    assert json.loads(body) == job
    assert properties.correlation_id == "c"
    assert properties.headers["traceparent"] == "00-1-2-01"
    assert properties.headers["x-scraperd-dead-kind"] == "http_status"
    assert properties.headers["x-scraperd-attempt"] == 1


def test_snooze_moves_the_job_to_a_delay_tier_before_the_ack(
    wire: Wire, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """A job whose turn is far off is published untouched, in the same attempt, to the tier below
    its wait; the ack follows the confirm. Nobody is told anything yet.
    """
    job = {"url": hostel.url("/page/2"), "id": "b"}
    with Daemon(
        wire.url, prefix, politeness__per_host_delay=60, politeness__snooze_after=0.1
    ).ready():
        dispatcher.publish({"url": hostel.url("/page/1"), "id": "a"})
        done = len(wire.wait_for(settled()))
        dispatcher.publish(
            job, correlation_id="c", reply_to="r", priority=3, headers={"traceparent": "t"}
        )
        seen = wire.wait_for(settled(2))[done:]
        [tier] = {word.rpartition(".")[2] for word in settling(seen) if "delay" in word}
        assert settling(seen) == [f"publish {prefix}.delay.{tier}", "confirm", "ack"]
        properties, body = dispatcher.take(f"delay.{tier}")
    [publish] = [s.frame for s in seen if s.name == "Basic.Publish"]
    assert (publish.exchange, publish.mandatory) == ("", True)
    assert (json.loads(body), properties.delivery_mode) == (job, 2)
    assert (properties.correlation_id, properties.reply_to) == ("c", "r")
    assert (properties.priority, properties.headers["traceparent"]) == (3, "t")
    assert properties.headers["x-scraperd-attempt"] == properties.headers["x-scraperd-snoozes"] == 1
    at, host, left = properties.headers["x-scraperd-turn"].split(" ")
    assert host == "127.0.0.1"
    assert int(tier) <= float(at) - time.time() + 20 <= 111  # at most 1.5 delays
    assert abs(float(at) - time.time() - int(tier) - float(left)) < 20
    assert dispatcher.depth("results") == 1


def test_a_full_delay_queue_holds_the_jobs_and_loses_none(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel, node: Node
) -> None:
    """Snoozed jobs are rejected (reject-publish): they stay unacked until those before them have
    left the queue. There are many, as a quorum queue tells a channel a moment late that it is full.
    """
    with Daemon(
        broker_url, prefix, politeness__per_host_delay=0.05, politeness__snooze_after=0.3
    ).ready() as daemon:
        policy = f"{prefix}-full"
        node.policy(policy, rf"^{prefix}\.delay", max_length=20)
        idents = dispatcher.publish_many([hostel.url(f"/page/{n}") for n in range(60)])
        daemon.wait_for_line('"problem":"rejected"')
        results = dispatcher.results(60)
    node.clear_policy(policy)
    assert sorted(result["id"] for result in results) == sorted(idents)
    assert {(result["status"], result["attempt"]) for result in results} == {("ok", 1)}


def test_a_moved_job_is_not_known_by_a_name_of_ours(
    broker_url: str, prefix: str, dispatcher: Dispatcher
) -> None:
    """A body without an id that came back is moved to the quarantine, and travels there with a
    message id of ours: still nobody could be told of a result, so there is none.
    """
    with Daemon(broker_url, prefix).ready() as daemon:
        assert daemon.drain() == 0
    dispatcher.publish(b"no job")
    dispatcher.publish(b"no job either", message_id="mine")
    with dispatcher.channel.connection.channel() as held:
        for _ in range(2):
            assert held.basic_get(f"{prefix}.jobs")[0]
    with Daemon(broker_url, prefix).ready() as daemon:
        letters = [dispatcher.take("dead")[0].headers for _ in range(2)]
        assert daemon.drain() == 0
    assert sorted(letter["x-scraperd-job-id"] for letter in letters)[1] == "mine"
    [moved, _] = [line for line in daemon.logged("job") if line["verdict"] == "requeue"]
    assert (moved["attempt"], moved["strikes"]) == (1, 1)
    assert [result["id"] for result in dispatcher.results(1)] == ["mine"]
    assert dispatcher.depth("results") == 0


def test_a_connection_that_breaks_while_a_job_is_snoozed_loses_nothing(
    wire: Wire, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """Cut between publish and confirm: the job was not acked, so it comes again beside the one
    that is snoozed; two results at most, under one id.
    """
    with Daemon(
        wire.url, prefix, politeness__per_host_delay=1.5, politeness__snooze_after=0.1
    ).ready() as daemon:
        dispatcher.publish({"url": hostel.url("/page/1"), "id": "a"})
        assert dispatcher.results(1)[0]["id"] == "a"
        wire.wait_for(settled())
        wire.hold_confirms()
        dispatcher.publish({"url": hostel.url("/page/2"), "id": "b"})
        seen = wire.wait_for(lambda seen: any("delay" in word for word in settling(seen)))
        [tier] = {word.rpartition(".")[2] for word in settling(seen) if "delay" in word}
        while not dispatcher.depth(f"delay.{tier}"):  # the broker has all of it
            assert settling(wire.seen).count("ack") == 1
        wire.cut()
        wire.release()
        daemon.wait_for_line("broker_lost")
        results = dispatcher.results(2)
    assert {(result["id"], result["attempt"]) for result in results} == {("b", 1)}
    assert dispatcher.depth("jobs") == 0


def test_no_ack_without_its_confirm(
    wire: Wire, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """While the broker's confirms are held back, no job is acked; when they come, all are."""
    with Daemon(wire.url, prefix).ready():
        wire.hold_confirms()
        dispatcher.publish_many([hostel.url(f"/page/{n}") for n in range(20)])
        published = "publish ok.200.127-0-0-1"
        seen = wire.wait_for(lambda seen: settling(seen).count(published) == 20)
        assert "ack" not in settling(seen)
        wire.release()
        seen = wire.wait_for(settled(20))
    words = settling(seen)
    for index, word in enumerate(words):
        if word == "ack":
            assert words[:index].count("ack") < words[:index].count(published)


def test_a_connection_that_breaks_before_the_confirm_leaves_the_job_unacked(
    wire: Wire, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """Cut between publish and confirm: the job comes again, and its result twice, under one id."""
    with Daemon(wire.url, prefix).ready() as daemon:
        wire.hold_confirms()
        dispatcher.publish({"url": hostel.url("/page/1"), "id": "a"})
        wire.wait_for(lambda seen: "publish ok.200.127-0-0-1" in settling(seen))
        wire.cut()
        wire.release()
        daemon.wait_for_line("broker_lost")
        results = dispatcher.results(2)
        wire.wait_for(settled())
    assert [result["id"] for result in results] == ["a", "a"]
    assert {result["attempt"] for result in results} == {1}
    assert dispatcher.depth("jobs") == 0


def test_an_unroutable_result_is_kept_until_it_can_be_routed(
    wire: Wire, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """The results queue is deleted: the publish is returned, nothing is acked, the queue is made
    again, and the result arrives.
    """
    with Daemon(wire.url, prefix).ready() as daemon:
        dispatcher.channel.queue_delete(f"{prefix}.results")
        dispatcher.publish({"url": hostel.url("/page/1"), "id": "a"})
        seen = wire.wait_for(settled())
        daemon.wait_for_line("unroutable")
    words = settling(seen)
    assert words[:2] == ["publish ok.200.127-0-0-1", "return"]
    assert words.index("ack") == len(words) - 1
    assert words[-3:] == ["publish ok.200.127-0-0-1", "confirm", "ack"]
    assert dispatcher.results(1)[0]["id"] == "a"


def test_a_full_results_queue_slows_the_daemon_and_loses_nothing(
    wire: Wire, prefix: str, dispatcher: Dispatcher, hostel: Hostel, node: Node
) -> None:
    """Results are rejected (reject-publish): jobs stay unacked until there is room again."""
    with Daemon(wire.url, prefix).ready() as daemon:
        policy = f"{prefix}-full"
        node.policy(policy, f"^{prefix}.results$", max_length=5)
        there = fill(dispatcher.channel, f"{prefix}.results")
        idents = dispatcher.publish_many([hostel.url(f"/page/{n}") for n in range(10)])
        daemon.wait_for_line('"problem":"rejected"')
        assert "ack" not in settling(wire.seen)
        results = dispatcher.results(10 + there)  # reading makes room
        wire.wait_for(settled(10))
    node.clear_policy(policy)
    assert sorted(result["id"] for result in results) == sorted([*idents, *["there"] * there])


def fill(channel: BlockingChannel, name: str) -> int:
    """Publish to an exchange until its queue rejects; how many messages it took.

    A policy is in force some time after the command that sets it has ended.
    """
    count = 0
    with suppress(NackError):
        while True:
            channel.basic_publish(name, "there", b'{"id": "there"}')
            count += 1
    return count


# Stops the process of a queue: what one without a majority looks like to a publisher.
QUEUE = """
begin {{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{queue}">>)),
{{Name, _}} = amqqueue:get_pid(Q), sys:{what}(whereis(Name)) end"""


def test_a_reply_to_a_silent_queue_holds_nobody_up(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel, node: Node
) -> None:
    """Other results do not wait for it, the connection stays, and after `confirm_timeout` the
    result goes to the results queue.
    """
    silent = f"{prefix}.reply.silent"
    arguments = {"x-queue-type": "quorum"}
    dispatcher.channel.queue_declare(silent, durable=True, arguments=arguments)
    with Daemon(broker_url, prefix, broker__confirm_timeout=1).ready() as daemon:
        node.eval(QUEUE.format(queue=silent, what="suspend"))
        dispatcher.publish({"url": hostel.url("/page/0"), "id": "stuck"}, reply_to=silent)
        hostel.wait_for(lambda hits: hits["/page/0"] == 1)
        idents = dispatcher.publish_many([hostel.url("/page/1")] * 20)
        assert {result["id"] for result in dispatcher.results(20)} == {*idents}
        properties, body = dispatcher.take("results")
        node.eval(QUEUE.format(queue=silent, what="resume"))
        assert not daemon.logged("broker_lost")
    dispatcher.channel.queue_delete(silent)
    assert json.loads(body)["id"] == "stuck"
    assert properties.headers["x-scraperd-unroutable-reply-to"] == silent


def test_reply_to_is_used_and_an_unroutable_one_is_said(
    wire: Wire, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """A result goes to the job's own queue; if that is gone, to the results queue, and says so."""
    own = dispatcher.channel.queue_declare("", exclusive=True).method.queue
    with Daemon(wire.url, prefix).ready():
        url = hostel.url("/page/1")
        dispatcher.publish({"url": url, "id": "a"}, reply_to=own, correlation_id="c1")
        properties, body = dispatcher.take(own)
        assert (json.loads(body)["id"], properties.correlation_id) == ("a", "c1")
        dispatcher.publish(
            {"url": url, "id": "b"}, reply_to=f"{prefix}.reply.gone", correlation_id="c2"
        )
        properties, body = dispatcher.take("results")
        assert (json.loads(body)["id"], properties.correlation_id) == ("b", "c2")
        assert properties.headers["x-scraperd-unroutable-reply-to"] == f"{prefix}.reply.gone"
        dispatcher.publish({"url": url, "id": "c"}, reply_to=f"{prefix}.jobs")
        properties, body = dispatcher.take("results")
        assert json.loads(body)["id"] == "c"
    assert properties.headers["x-scraperd-unroutable-reply-to"] == f"{prefix}.jobs"
