"""A broker that refuses what is published: no job is blamed, and all goes on once it is allowed.

May touch: users of the private broker, the daemon as a subprocess, a small site.
Must never: take the daemon's word for what became of a job.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.rig.brokers.users import User
from tests.rig.daemon import Daemon, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pika.adapters.blocking_connection import BlockingChannel

    from tests.rig.brokers.node import Node
    from tests.rig.daemon import Dispatcher
    from tests.rig.sites.hostel import Hostel

CONCURRENCY = 5  # the prefetch is twice that
PASSIVE = {"broker__passive_declare": True, "concurrency": CONCURRENCY}


@pytest.fixture
def user(node: Node, broker_url: str, prefix: str, dispatcher: Dispatcher) -> Iterator[User]:
    """The daemon's user, who may do all, on a broker where the daemon has made its queues."""
    with Daemon(broker_url, prefix).ready():
        pass
    one = User.add(node, f"{prefix}-user")
    one.permit()
    yield one
    one.delete()


def all_but_results(prefix: str) -> str:
    """Write on everything but the results exchange, which is named like its queue."""
    return rf"^(?!{prefix}\.results$)"


def refusals(daemon: Daemon) -> list[dict[str, Any]]:
    return daemon.logged("publish_refused")


def assert_unblamed(daemon: Daemon, dispatcher: Dispatcher) -> None:
    """No connection was lost, no job was held to have come back, none is dead."""
    assert not daemon.logged("broker_lost")
    assert not daemon.logged("internal_error")
    lines = daemon.logged("job")
    assert lines
    assert not [line for line in lines if "strikes" in line or line["verdict"] == "dead"]
    assert dispatcher.depth("dead") == 0


def test_without_write_on_the_results_nobody_is_blamed(
    user: User, node: Node, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """The results exchange is forbidden: it is said once with the remedy, nothing more is fetched
    than was taken, and once it is allowed each job has its one result from its one fetch.
    """
    user.permit(write=all_but_results(prefix))
    with Daemon(user.url, prefix, **PASSIVE).ready() as daemon:
        idents = dispatcher.publish_many([hostel.url(f"/page/{n}") for n in range(60)])
        daemon.wait_for_line('"problem":"forbidden"')
        until(lambda: node.counts()[f"{prefix}.jobs"][2] == 0, "it still consumes")
        hostel.wait_for(lambda hits: hits.total() >= 2 * CONCURRENCY)
        assert sum(node.counts()[f"{prefix}.jobs"][:2]) == 60
        said = refusals(daemon)
        user.permit()
        results = dispatcher.results(60)
        until(lambda: len(daemon.logged("job")) == 60, "not all are settled")
        assert_unblamed(daemon, dispatcher)
        [allowed] = daemon.logged("publish_allowed")
    assert sorted(result["id"] for result in results) == sorted(idents)
    assert {result["attempt"] for result in results} == {1}
    assert dispatcher.depth("results") == 0
    assert hostel.hits.total() == 60
    [refused] = said
    assert refused == refusals(daemon)[0]
    assert len(refusals(daemon)) == 1
    assert (refused["exchange"], allowed["exchange"]) == (f"{prefix}.results",) * 2
    grant = rf"rabbitmqctl set_permissions -p / {user.name} '^$' '^{prefix}\.|^amq\.default$' "
    assert grant + rf"'^{prefix}\.'" in refused["error"]
    assert f"'{user.name}' lacks write on the exchange '{prefix}.results'" in refused["error"]


def test_restarts_while_the_results_are_forbidden_kill_no_job(
    user: User, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """Restarted four times meanwhile, one more often than a poisonous job lives, the daemon puts
    its jobs back, and each has its good result once it may publish.
    """
    user.permit(write=all_but_results(prefix))
    idents = dispatcher.publish_many([hostel.url(f"/page/{n}") for n in range(10)])
    for round_ in range(1, 5):
        with Daemon(user.url, prefix, jobs__shutdown_timeout=0.5, **PASSIVE).ready() as daemon:
            daemon.wait_for_line('"problem":"forbidden"')
            # What was not begun goes back into the jobs queue.
            hostel.wait_for(lambda hits, all_of_them=10 * round_: hits.total() >= all_of_them)
            assert daemon.drain() == 0
        assert dispatcher.depth("jobs") == 0  # else the broker counts a return
        for _ in idents:  # they need not wait
            properties, body = dispatcher.take("delay.60")
            dispatcher.channel.basic_publish("", f"{prefix}.jobs", body, properties)
    user.permit()
    with Daemon(user.url, prefix, **PASSIVE).ready() as daemon:
        results = dispatcher.results(10)
        assert {result["status"] for result in results} == {"ok"}
        assert sorted(result["id"] for result in results) == sorted(idents)
        assert_unblamed(daemon, dispatcher)


def test_a_forbidden_topic_holds_only_its_own_results(
    user: User, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """Topic permissions forbid failed results: they are kept, all others flow, and the failed ones
    come once their topic is allowed.
    """
    user.permit_topics(f"{prefix}.results", r"^ok\.")
    with Daemon(user.url, prefix, **PASSIVE).ready() as daemon:
        dispatcher.publish_many([hostel.url("/status/404")] * 3)
        daemon.wait_for_line('"problem":"forbidden"')
        dispatcher.publish_many([hostel.url(f"/page/{n}") for n in range(60)])
        good = dispatcher.results(60)
        assert {result["status"] for result in good} == {"ok"}
        assert dispatcher.depth("results") == 0
        user.permit_topics(f"{prefix}.results", ".*")
        failed = dispatcher.results(3)
        assert {result["error"]["kind"] for result in failed} == {"http_status"}
        until(lambda: len(daemon.logged("job")) == 63, "not all are settled")
        assert_unblamed(daemon, dispatcher)
        said = refusals(daemon)
    assert len(said) == 1
    assert "set_topic_permissions" in said[0]["error"]
    assert hostel.hits.total() == 63


def test_without_write_on_the_default_exchange_retries_wait(
    user: User, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """Queues are written to by the default exchange. Without it a retry waits for the permission,
    and a reply goes to the results queue; that is said, and nothing is lost.
    """
    reply = f"{prefix}.reply.mine"
    dispatcher.channel.queue_declare(reply, exclusive=True)
    user.permit(write=rf"^{prefix}\.")
    with Daemon(user.url, prefix, **PASSIVE).ready() as daemon:
        dispatcher.publish({"url": hostel.url("/page/1"), "id": "r"}, reply_to=reply)
        properties, _ = dispatcher.take("results")
        assert properties.headers["x-scraperd-unroutable-reply-to"] == reply
        dispatcher.publish({"url": hostel.url("/flaky/1/x"), "id": "f"})
        until(lambda: len(refusals(daemon)) == 2, "it is not said")
        user.permit()
        [result] = dispatcher.results(1)
        assert (result["id"], result["status"], result["attempt"]) == ("f", "ok", 2)
        until(lambda: len(daemon.logged("job")) == 3, "not all are settled")
        assert_unblamed(daemon, dispatcher)
        assert {line["problem"] for line in refusals(daemon)} == {"forbidden"}


def test_a_deleted_results_exchange_is_declared_again(
    broker_url: str, amqp: BlockingChannel, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """The results exchange is deleted while pages are under way: it is declared again in the same
    generation, and each job has its one result.
    """
    with Daemon(broker_url, prefix, concurrency=CONCURRENCY).ready() as daemon:
        dispatcher.publish_many([hostel.url(f"/hold/{n}") for n in range(20)])
        hostel.wait_for(lambda hits: hits.total() >= CONCURRENCY)
        amqp.exchange_delete(f"{prefix}.results")
        hostel.release()
        results = dispatcher.results(20)
        assert len({result["id"] for result in results}) == 20
        until(lambda: len(daemon.logged("job")) == 20, "not all are settled")
        assert_unblamed(daemon, dispatcher)
        assert {line["problem"] for line in refusals(daemon)} <= {"no exchange", "unroutable"}
        assert daemon.logged("publish_allowed")
    assert dispatcher.depth("results") == 0


def test_a_deleted_exchange_that_others_declare_is_waited_for(
    user: User, amqp: BlockingChannel, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """With passive_declare the missing exchange is named, and waited for."""
    with Daemon(user.url, prefix, **PASSIVE).ready() as daemon:
        amqp.exchange_delete(f"{prefix}.results")
        dispatcher.publish_many([hostel.url(f"/page/{n}") for n in range(20)])
        daemon.wait_for_line('"problem":"no exchange"')
        amqp.exchange_declare(f"{prefix}.results", "topic", durable=True)
        amqp.queue_bind(f"{prefix}.results", f"{prefix}.results", "#")
        assert len({result["id"] for result in dispatcher.results(20)}) == 20
        until(lambda: len(daemon.logged("job")) == 20, "not all are settled")
        assert_unblamed(daemon, dispatcher)
    assert hostel.hits.total() == 20


def test_without_read_the_start_ends_in_words(user: User, prefix: str) -> None:
    """A daemon that may not read its queues ends with 78, and says which permission to give."""
    user.permit(read="^$")
    with Daemon(user.url, prefix, **PASSIVE) as daemon:
        assert daemon.wait() == 78
    error = daemon.logged("config")[0]["error"]
    assert "lacks read" in error
    assert f"rabbitmqctl set_permissions -p / {user.name}" in error
