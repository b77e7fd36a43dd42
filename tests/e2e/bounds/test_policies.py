"""Policies on our queues, and queues that others made: what is seen of them, and what is said.

May touch: a node of its own with the management API; the daemon and `scraperd check` as children.
Must never: look at the answers of the API for the code under test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from scraperd.broker.rabbitmq.topology import Topology
from tests.rig import ports
from tests.rig.brokers.node import Node
from tests.rig.brokers.users import User
from tests.rig.daemon import Daemon, variables

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    from tests.rig.daemon import Dispatcher

    Command = Callable[..., subprocess.CompletedProcess[str]]

PORT = "management.tcp.port"


@pytest.fixture(scope="module", params=["3", "4"])
def node(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Node]:
    """A node of each release, with the management API on loopback."""
    conf = {"management.tcp.ip": ports.HOST, PORT: str(ports.free_port())}
    node = Node(tmp_path_factory.mktemp("policies"), release=request.param, conf=conf)
    node.plugins = ("rabbitmq_management",)
    node.start()
    yield node
    node.close()


@pytest.fixture
def url(node: Node) -> str:
    """Where its management API is."""
    return f"http://{ports.HOST}:{node.conf[PORT]}"


@pytest.fixture
def told(env: dict[str, str], url: str) -> dict[str, str]:
    """The variables of a command that may ask."""
    return {**env, **variables({"broker__management_api": url})}


@pytest.fixture
def declared(broker_url: str, prefix: str, dispatcher: Dispatcher) -> Dispatcher:
    """A dispatcher whose queues are there, and no daemon."""
    with Daemon(broker_url, prefix).ready() as daemon:
        assert daemon.drain() == 0
    return dispatcher


def surveyed(broker_url: str, prefix: str, **settings: Any) -> Daemon:
    """A daemon that has started, looked, and stopped."""
    with Daemon(broker_url, prefix, **settings).ready() as daemon:
        daemon.wait_for_line(
            lambda line: '"queues_checked"' in line or '"queues_unchecked"' in line
        )
        assert daemon.drain() == 0
    return daemon


@pytest.mark.parametrize(
    ("kind", "key", "value", "harm"),
    [
        ("policy", "expires", 3_600_000, "RabbitMQ deletes a queue that has no"),
        ("operator_policy", "expires", 3_600_000, "RabbitMQ deletes a queue that has no"),
        ("policy", "message-ttl", 60_000, "a job that waits for longer ends as expired"),
        ("policy", "message-ttl", 60_000, "jobs come back before their time"),
        ("operator_policy", "max-length", 1000, "jobs keep their places in the processes"),
        ("policy", "max-length-bytes", 1000, "RabbitMQ drops jobs that it gave up"),
        ("policy", "delivery-limit", 5, "RabbitMQ drops a message that comes back that often"),
    ],
)
@pytest.mark.usefixtures("declared")
def test_a_policy_of_the_whole_vhost_is_warned_of(
    *,
    node: Node,
    broker_url: str,
    prefix: str,
    url: str,
    scraperd: Command,
    told: dict[str, str],
    kind: str,
    key: str,
    value: int,
    harm: str,
) -> None:
    """By `check`, and by the daemon at its start: the policy, the value, the queues, the harm."""
    operator = kind == "operator_policy"
    node.policy("everywhere", ".*", operator=operator, **{key: value})
    try:
        done = scraperd("check", **told)
        daemon = surveyed(broker_url, prefix, broker__management_api=url)
    finally:
        node.clear_policy("everywhere", operator=operator)
    said = [line["error"] for line in daemon.logged("queue_policy")]
    [words] = [line for line in said if harm in line]
    assert words.startswith(f"{kind.replace('_', ' ')} 'everywhere' sets {key} = {value} for ")
    assert f"{prefix}." in words
    assert f"scraperd: {words}\n" in done.stderr
    assert done.returncode == 0


@pytest.mark.usefixtures("declared")
def test_without_a_policy_nothing_is_said(
    broker_url: str, prefix: str, url: str, scraperd: Command, told: dict[str, str]
) -> None:
    """All is as it should be."""
    daemon = surveyed(broker_url, prefix, broker__management_api=url)
    assert not daemon.logged("queue_policy")
    assert not daemon.logged("queue_differs")
    done = scraperd("check", **told)
    assert done.returncode == 0
    assert "unknown" not in done.stdout


@pytest.mark.usefixtures("declared")
def test_what_cannot_be_asked_is_said_once(
    *,
    node: Node,
    broker_url: str,
    prefix: str,
    url: str,
    scraperd: Command,
    env: dict[str, str],
) -> None:
    """Without the setting; without an answer; with a user who may not look. Nothing else changes,
    and no password is in the words.
    """
    user = User.add(node, prefix, "s3cret")
    user.permit()
    theirs = user.url
    nowhere = f"http://{ports.HOST}:{ports.free_port()}"
    for broker, management, words in (
        (broker_url, "", "set broker.management_api"),
        (broker_url, nowhere, "no answer from http://127.0.0.1:"),
        (theirs, url, f"rabbitmqctl set_user_tags {prefix} management"),
    ):
        daemon = surveyed(broker, prefix, broker__management_api=management)
        [line] = daemon.logged("queues_unchecked")
        assert words in line["reason"]
        own = variables({"broker_url": broker, "broker__management_api": management})
        done = scraperd("check", **{**env, **own})
        assert done.returncode == 0
        assert done.stdout.count(words) == 1
        assert "s3cret" not in daemon.stdout + done.stdout + done.stderr
    user.tag("management")
    assert not surveyed(theirs, prefix, broker__management_api=url).logged("queues_unchecked")


def test_a_limit_of_the_jobs_queue_is_told(
    node: Node, prefix: str, declared: Dispatcher, scraperd: Command, told: dict[str, str]
) -> None:
    """A policy for the jobs queue alone is no fault: `check` says how many messages it takes."""
    node.policy(prefix, f"^{declared.prefix}[.]jobs$", max_length=7)
    done = scraperd("check", **told)
    node.clear_policy(prefix)
    assert f"queue {prefix}.jobs: max-length = 7; it refuses what is beyond" in done.stdout
    assert "sets max-length" not in done.stderr


@pytest.fixture
def made_by_others(prefix: str, dispatcher: Dispatcher) -> str:
    """All queues, but some are not what they must be; which one is of the wrong type."""
    channel, topology = dispatcher.channel, Topology(prefix)
    for name, kind in topology.exchanges:
        channel.exchange_declare(name, kind, durable=True)
    for queue in topology.queues:
        arguments = dict(queue.arguments)
        if queue.name == topology.quarantine:
            arguments = {}
        elif queue.name == topology.dead:
            arguments["x-max-length"] = 5
            del arguments["x-overflow"]
        channel.queue_declare(queue.name, durable=True, arguments=arguments)
        if queue.name == topology.results:
            channel.queue_bind(queue.name, topology.results, "#")
    return topology.quarantine


def test_queues_of_others_are_compared_by_the_management_api(
    *,
    broker_url: str,
    prefix: str,
    url: str,
    made_by_others: str,
    scraperd: Command,
    told: dict[str, str],
) -> None:
    """With passive_declare: type, arguments and bindings; by the daemon and by `check`."""
    daemon = surveyed(broker_url, prefix, broker__management_api=url, broker__passive_declare=True)
    said = [line["error"] for line in daemon.logged("queue_differs")]
    for queue, wrong in (
        (made_by_others, "x-queue-type = classic (must be quorum)"),
        (f"{prefix}.dead", "x-overflow = nothing (must be reject-publish)"),
        (f"{prefix}.dead", "x-max-length = 5"),
    ):
        assert any(f"'{queue}' has {wrong}" in line for line in said), said
    assert any(f"'{prefix}.jobs' is not bound to the exchange" in line for line in said)
    assert not any(f"'{prefix}.results'" in line for line in said)
    done = scraperd("check", **{**told, **variables({"broker__passive_declare": True})})
    assert done.stderr.splitlines()[-len(said) :] == [f"scraperd: {line}" for line in said]


def test_a_policy_may_set_what_an_argument_does_not(
    node: Node, broker_url: str, prefix: str, url: str, made_by_others: str
) -> None:
    """An operator who provisions by policies is not told that arguments are missing."""
    assert made_by_others
    node.policy(prefix, f"^{prefix}[.]dead$", overflow="reject-publish")
    daemon = surveyed(broker_url, prefix, broker__management_api=url, broker__passive_declare=True)
    node.clear_policy(prefix)
    said = [line["error"] for line in daemon.logged("queue_differs")]
    assert not any(f"'{prefix}.dead' has x-overflow" in line for line in said)


def test_queues_of_others_are_compared_by_declaring_them_again(
    broker_url: str, prefix: str, made_by_others: str, scraperd: Command, env: dict[str, str]
) -> None:
    """With passive_declare and without the management API: type and arguments, if the user may."""
    daemon = surveyed(broker_url, prefix, broker__passive_declare=True)
    said = [line["error"] for line in daemon.logged("queue_differs")]
    assert any(
        f"'{made_by_others}' has x-queue-type = classic (must be quorum)" in line for line in said
    )
    [words] = [line for line in said if f"'{prefix}.dead'" in line]
    assert "x-max-length = 5 (must be nothing), x-overflow = nothing" in words
    assert not any(f"'{prefix}.jobs'" in line for line in said)
    done = scraperd("check", **{**env, **variables({"broker__passive_declare": True})})
    told = [line for line in done.stderr.splitlines() if line.startswith("scraperd: queue ")]
    assert [f"scraperd: {line}" for line in said] == told


@pytest.mark.usefixtures("declared")
def test_a_user_who_may_not_declare_is_not_in_the_way(node: Node, prefix: str) -> None:
    """With passive_declare the user should not: nothing differs as far as is known, and the log
    says what is not.
    """
    user = User.add(node, prefix)
    user.permit(configure="^$")
    daemon = surveyed(user.url, prefix, broker__passive_declare=True)
    assert not daemon.logged("queue_differs")
    [line] = daemon.logged("queues_unchecked")
    assert "their bindings, are unknown" in line["reason"]
