"""What the tests share: one private RabbitMQ node, a site of real pages, a queue prefix each.

May touch: the rig, pytest's temporary folders.
Must never: skip a test because a server is missing (that is a failure), or hold a test's logic.
"""

from __future__ import annotations

import gc
import secrets
import signal
import subprocess
import sys
from contextlib import ExitStack
from functools import cache
from typing import TYPE_CHECKING, Any

import pika
import pytest
from hypothesis import HealthCheck, settings

from scraperd.broker.rabbitmq.topology import Topology
from tests.rig.brokers.node import Node
from tests.rig.daemon import LOOPBACK, Dispatcher, environment, variables
from tests.rig.sites.hostel import Hostel
from tests.rig.sites.nginx import Nginx
from tests.rig.sites.pages import python_docs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pika.adapters.blocking_connection import BlockingChannel

    Command = Callable[..., subprocess.CompletedProcess[str]]


def pytest_configure() -> None:
    """Let what the tests start take Ctrl-C, also if a shell started them in the background.

    Such a shell has its children ignore SIGINT, and they theirs.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # On a busy machine an example takes as long as it takes; that is no fault of what is tested.
    slow = [HealthCheck.too_slow]
    settings.register_profile("busy", deadline=None, suppress_health_check=slow)
    settings.load_profile("busy")


@pytest.fixture(scope="module", autouse=True)
def small_heap() -> None:
    """Keep what is there already out of the garbage collector's way.

    To look through thousands of tests and their data takes up to half a second, in whichever test
    it happens: also in one that measures how long the loop is held.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """One private RabbitMQ node for the whole session. A test that stops it starts it again."""
    broker = Node(tmp_path_factory.mktemp("rabbitmq")).start()
    yield broker
    broker.close()  # its data is thrown away, so nothing is gained by waiting


@pytest.fixture(scope="session")
def node_by_release(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Node]]:
    """The private nodes of one session by their release, each started when it is first needed."""
    with ExitStack() as stack:

        @cache
        def started(release: str) -> Node:
            node = Node(tmp_path_factory.mktemp("node"), release=release).start()
            stack.callback(node.close)  # its data is thrown away, so nothing is gained by waiting
            return node

        yield started


@pytest.fixture(scope="module", params=["3", "4"])
def node_of_each_release(
    request: pytest.FixtureRequest, node_by_release: Callable[[str], Node]
) -> Node:
    """The node of each release of RabbitMQ, for folders whose `node` it is."""
    return node_by_release(request.param)


@pytest.fixture
def broker_url(node: Node) -> str:
    """The shared node's URL; the node runs, even if the test before this one left it dead."""
    if node.running:
        node.resume()
    else:
        node.start()
    return node.url


@pytest.fixture
def prefix() -> str:
    """A prefix for this test's queues, so that tests can share the node."""
    return f"t{secrets.token_hex(3)}"


@pytest.fixture
def amqp(broker_url: str) -> Iterator[BlockingChannel]:
    """A dispatcher's view of the broker: a channel of another client, with confirms on."""
    parameters = pika.URLParameters(broker_url)
    parameters.heartbeat = 0  # nobody services this connection between a test's own calls
    connection = pika.BlockingConnection(parameters)
    channel = connection.channel()
    channel.confirm_delivery()
    yield channel
    if connection.is_open:
        connection.close()


@pytest.fixture
def dispatcher(amqp: BlockingChannel, prefix: str) -> Iterator[Dispatcher]:
    """A dispatcher on this test's queues, which are deleted at the end: a node's queues add up."""
    yield Dispatcher(amqp, prefix)
    topology = Topology(prefix, tallies=True)
    channel = amqp.connection.channel()
    for queue in topology.queues:
        channel.queue_delete(queue.name)
    channel.queue_delete(f"{prefix}.rules")  # there is none, or it is a stream
    for name, _ in topology.exchanges:
        channel.exchange_delete(name)


@pytest.fixture
def callback_queues(dispatcher: Dispatcher) -> Iterator[None]:
    """Have the queues of callbacks deleted at the end, which few tests have."""
    yield
    for queue in Topology(dispatcher.prefix, calls_back=True).queues:
        dispatcher.channel.queue_delete(queue.name)


@pytest.fixture
def env(broker_url: str, prefix: str) -> dict[str, str]:
    """The variables that lead a command to this test's queues."""
    return variables({"broker_url": broker_url, "broker__prefix": prefix})


@pytest.fixture
def scraperd(tmp_path: Path) -> Command:
    """Run a command to its end, in an empty folder, with only the given variables of ours.

    `stdin` is a text, or an open file's descriptor.
    """

    def run(*args: str, stdin: str | int = "", **env: str) -> subprocess.CompletedProcess[str]:
        given: dict[str, Any] = {"input": stdin} if isinstance(stdin, str) else {"stdin": stdin}
        done = subprocess.run(
            [sys.executable, "-m", "scraperd", *args],
            env={**environment(LOOPBACK), **env},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            **given,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


@pytest.fixture
def hostel() -> Iterator[Hostel]:
    """A small site whose pages can be held."""
    with Hostel() as site:
        yield site


@pytest.fixture(scope="session")
def docs_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """Python's manual, about 500 real pages, served by a real web server."""
    with Nginx(python_docs(), tmp_path_factory.mktemp("nginx")) as site:
        yield site
