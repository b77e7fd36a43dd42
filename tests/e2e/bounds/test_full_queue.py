"""A bounded jobs queue: publishers are told that it is full, and no job of the daemon's is lost.

May touch: the shared node, by a prefix of its own; the real daemon and commands as children.
Must never: count on how fast the broker notices that a queue is full.
"""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import pytest
from pika.exceptions import NackError

from scraperd.broker.rabbitmq.topology import Topology
from tests.rig.daemon import Daemon, until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    from tests.rig.brokers.node import Node
    from tests.rig.daemon import Dispatcher
    from tests.rig.sites.hostel import Hostel

    Command = Callable[..., subprocess.CompletedProcess[str]]

REFUSED = "http://127.0.0.1:9/"
LIMIT = 3
BOUND = {"broker__jobs_max_length": LIMIT}
SOON = 1000  # milliseconds until RabbitMQ tries a dead letter again that its target rejected
LATER = 180_000  # its default


def declared(broker_url: str, prefix: str, **settings: int) -> list[str]:
    """The queues are there, and no daemon; what it said of queues that differ."""
    with Daemon(broker_url, prefix, **settings).ready() as daemon:
        assert daemon.drain() == 0
    return [line["error"] for line in daemon.logged("queue_differs")]


def fill(dispatcher: Dispatcher, url: str) -> set[str]:
    """Publish until the queue refuses; the ids of the jobs that it took."""
    taken: set[str] = set()
    for number in range(1000):
        try:
            dispatcher.publish({"url": url, "id": f"filler {number}"})
        except NackError:
            return taken
        taken.add(f"filler {number}")
    raise AssertionError("the queue never refused")


@pytest.fixture
def eager(node: Node, broker_url: str) -> Iterator[None]:
    """The node tries dead letters again after a second. Queues that are declared now heed it."""
    assert broker_url

    def within(milliseconds: int) -> None:
        name = "dead_letter_worker_publisher_confirm_timeout"
        node.eval(f"application:set_env(rabbit, {name}, {milliseconds})")

    within(SOON)
    yield
    within(LATER)


def test_a_dispatcher_is_told_that_the_queue_is_full(
    *,
    broker_url: str,
    prefix: str,
    dispatcher: Dispatcher,
    hostel: Hostel,
    scraperd: Command,
    env: dict[str, str],
) -> None:
    """By a nack of its confirm; `scraperd publish` says it in words and exits with 1. What was
    confirmed is worked off.
    """
    assert not declared(broker_url, prefix, **BOUND)
    taken = fill(dispatcher, hostel.url("/page/1"))
    assert LIMIT <= len(taken) < 100
    done = scraperd("publish", hostel.url("/page/2"), **env)
    assert done.returncode == 1
    assert f"queue '{prefix}.jobs' refuses jobs: it is full." in done.stderr
    assert "broker.jobs_max_length" in done.stderr
    assert "published 0 of 1 jobs" in done.stderr
    with Daemon(broker_url, prefix, **BOUND).ready() as daemon:
        results = dispatcher.results(len(taken))
        assert daemon.drain() == 0
    assert {result["id"] for result in results} == taken


def test_bytes_are_a_bound_too(broker_url: str, prefix: str, dispatcher: Dispatcher) -> None:
    """Of the bodies in the queue together."""
    assert not declared(broker_url, prefix, broker__jobs_max_length_bytes=2000)
    taken = fill(dispatcher, f"{REFUSED}{'x' * 500}")
    assert 3 <= len(taken) < 100


@pytest.mark.usefixtures("eager")
def test_a_retry_comes_home_although_the_queue_was_full(
    node: Node, broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """Its delay ends, the full queue rejects it, and RabbitMQ keeps it and tries again: it has its
    second attempt once there is room.
    """
    with Daemon(broker_url, prefix, **BOUND, jobs__max_retries=1).ready() as daemon:
        dispatcher.publish({"url": REFUSED, "id": "retried"})
        until(lambda: bool(daemon.logged("job")))
        assert daemon.drain() == 0
    [moved] = daemon.logged("job")
    assert moved["verdict"] == "retry"
    taken = fill(dispatcher, hostel.url("/page/1"))
    until(lambda: node.dead_letters()[f"{prefix}.delay.1"] == 1 or "retried" in queued(dispatcher))
    with Daemon(broker_url, prefix, **BOUND, jobs__max_retries=1).ready() as daemon:
        results = {result["id"]: result for result in dispatcher.results(len(taken) + 1)}
        assert daemon.drain() == 0
    assert results.keys() == taken | {"retried"}
    assert results["retried"]["attempt"] == 2


def queued(dispatcher: Dispatcher) -> set[str]:
    """The ids of the jobs that are ready; they stay where they are, and are counted as returned."""
    found, last = set(), 0
    while True:
        method, _, body = dispatcher.channel.basic_get(f"{dispatcher.prefix}.jobs")
        if method is None:
            break
        last = method.delivery_tag
        found.add(json.loads(body)["id"])
    if last:
        dispatcher.channel.basic_nack(last, multiple=True, requeue=True)
    return found


@pytest.mark.usefixtures("eager")
def test_a_drain_loses_nothing_although_the_queue_is_full(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """What is not finished cannot go back into the queue: it waits a second in a delay queue, and
    nothing is held against it.
    """
    settings = {**BOUND, "jobs__shutdown_timeout": 0.5}
    with Daemon(broker_url, prefix, **settings, concurrency=4).ready() as daemon:
        held = set(dispatcher.publish_many([hostel.url("/hold")] * 3))
        hostel.wait_for(lambda hits: hits["/hold"] == 3)
        # The process takes up to eight: those behind the three are filled in until it refuses.
        taken = fill(dispatcher, hostel.url("/hold"))
        assert daemon.drain() == 0
    hostel.release()
    with Daemon(broker_url, prefix, **settings).ready() as daemon:
        results = dispatcher.results(len(held | taken))
        assert daemon.drain() == 0
    assert {result["id"] for result in results} == held | taken
    assert not any(line.get("strikes") for line in daemon.logged("job"))


def test_a_queue_that_exists_keeps_its_limit_and_a_policy_sets_one(
    node: Node, broker_url: str, prefix: str, dispatcher: Dispatcher
) -> None:
    """The setting comes too late for a queue that exists: it is used, and the log has the command
    that bounds it. Switched off again, the setting leaves a limit where it is, and says so.
    """
    assert not declared(broker_url, prefix)
    [words] = declared(broker_url, prefix, **BOUND)
    assert f"'{prefix}.jobs' exists with x-max-length = nothing" in words
    command = shlex.split(words[words.index("rabbitmqctl") : words.index(" (with -p VHOST")])
    node.ctl(*command[1:])
    try:
        assert len(fill(dispatcher, REFUSED)) < 100
    finally:
        node.clear_policy(f"{prefix}.jobs-limit")
    dispatcher.channel.queue_delete(f"{prefix}.jobs")
    assert not declared(broker_url, prefix, **BOUND)
    [words] = declared(broker_url, prefix)
    assert f"x-max-length = {LIMIT}, where scraperd would ask for nothing" in words
    assert "replace the queue" in words


def test_a_requeued_dead_letter_stays_if_the_queue_is_full(
    broker_url: str, prefix: str, dispatcher: Dispatcher, scraperd: Command, env: dict[str, str]
) -> None:
    """`scraperd dead requeue` says that the queue is full, and removes nothing."""
    assert not declared(broker_url, prefix, **BOUND)
    dispatcher.publish(b"not a job", queue="dead")
    fill(dispatcher, REFUSED)
    done = scraperd("dead", "requeue", "--all", **env)
    assert done.returncode == 1, done.stderr
    assert "it is full" in done.stderr
    assert dispatcher.depth("dead") == 1


def test_only_the_jobs_queue_is_bounded() -> None:
    """All other queues hold what cannot be refused."""
    bound = Topology("t", 5, 6)
    [limited] = [queue for queue in bound.queues if "x-max-length" in queue.arguments]
    assert limited.name == "t.jobs"
    assert (limited.arguments["x-max-length"], limited.arguments["x-max-length-bytes"]) == (5, 6)
    assert limited.arguments["x-overflow"] == "reject-publish"
    assert not any("x-max-length" in queue.arguments for queue in Topology("t").queues)
