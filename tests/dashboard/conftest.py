"""One browser, one daemon and one gateway with a token for each role, for the tests of a file.

May touch: the shared node, pytest's temporary folders.
Must never: hold a test's logic.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import pika
import pytest

from scraperd.broker.rabbitmq.topology import Topology
from tests.rig.clients.chromium import chromium
from tests.rig.clients.receiver import SECRET, Receiver
from tests.rig.daemon import Daemon, Dispatcher, until
from tests.server.running import Gateway

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from playwright.sync_api import Browser

    from tests.rig.brokers.node import Node

    Started = Callable[..., AbstractContextManager[Gateway]]

TOKENS = {role: f"{role}-0123456789abcdef" for role in ("read", "submit", "admin")}
READ, SUBMIT, ADMIN = TOKENS.values()
PREFIX = "scraperd"  # as the pictures show it
NAME = "worker-1"


class House(NamedTuple):
    """What the tests of a file share."""

    daemon: Daemon
    gateway: Gateway
    desk: Dispatcher
    receiver: Receiver


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    with chromium() as found:
        yield found


def tokens_in(folder: Path) -> str:
    """A file with a token for each role, whose name is the role; its path."""
    file = folder / "tokens"
    file.write_text("".join(f"{role} {role} {token}\n" for role, token in TOKENS.items()))
    return str(file)


@contextmanager
def gateway_of(url: str, prefix: str, folder: Path, **settings: Any) -> Iterator[Gateway]:
    """A gateway with these tokens, none of which is in its log."""
    with Gateway(url, prefix, http__tokens_file=tokens_in(folder), **settings) as gateway:
        yield gateway.listening()
        log = gateway.stdout + gateway.stderr
        assert not any(token in log for token in TOKENS.values())


@pytest.fixture(scope="module")
def house(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A daemon and a gateway for all tests of a file, with batches and an endpoint for callbacks.

    At most two fetches of a host run at once.
    """
    if not node.running:
        node.start()
    parameters = pika.URLParameters(node.url)
    parameters.heartbeat = 0
    connection = pika.BlockingConnection(parameters)
    channel = connection.channel()
    channel.confirm_delivery()
    folder = tmp_path_factory.mktemp("house")
    (folder / "secrets").write_text(f"{SECRET}\n")
    own = {
        "politeness__per_host_concurrency": 2,
        "politeness__snooze_after": 60,
        "jobs__worker_name": NAME,
    }
    with Receiver() as receiver:
        shared = {
            "batches__enabled": True,
            "callbacks__secrets_file": str(folder / "secrets"),
            "callback_endpoints": {"billing": {"url": f"{receiver.url}/secret-path"}},
        }
        with (
            Daemon(node.url, PREFIX, **shared, **own).ready() as daemon,
            gateway_of(node.url, PREFIX, folder, **shared) as gateway,
        ):
            yield House(daemon, gateway, Dispatcher(channel, PREFIX), receiver)
    topology = Topology(PREFIX, calls_back=True, tallies=True)
    for queue in topology.queues:
        channel.queue_delete(queue.name)
    for name, _ in topology.exchanges:
        channel.exchange_delete(name)
    connection.close()


@pytest.fixture
def desk(node: Node, house: House) -> Dispatcher:
    """The dispatcher's view of the house's queues, which are empty: earlier jobs have ended.

    The queue of batches is the daemon's to empty.
    """
    ends = ("dead", "results", "callbacks.dead")
    passed_over = {f"{PREFIX}.{end}" for end in (*ends, "batches")}

    def idle() -> bool:
        counts = [
            it
            for name, it in node.counts().items()
            if name.startswith(f"{PREFIX}.") and name not in passed_over
        ]
        return not any(ready + unacked for ready, unacked, _ in counts)

    until(idle, "earlier jobs have ended", pause=0.2)
    for queue in ends:
        house.desk.channel.queue_purge(f"{PREFIX}.{queue}")
    house.receiver.status = 204
    return house.desk


@pytest.fixture
def started(broker_url: str, prefix: str, tmp_path: Path) -> Started:
    """Start a gateway of its own."""
    return partial(gateway_of, broker_url, prefix, tmp_path)
