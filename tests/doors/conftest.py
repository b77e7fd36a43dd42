"""What the tests of this folder share: a RabbitMQ of each release that speaks every protocol.

May touch: private nodes, their users and bindings.
Must never: hold a test's logic.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pika
import pytest

from scraperd.broker.rabbitmq.topology import Topology
from tests.rig import ports
from tests.rig.brokers.node import Node
from tests.rig.brokers.users import User
from tests.rig.daemon import Daemon, Dispatcher

if TYPE_CHECKING:
    from collections.abc import Iterator

PLUGINS = ("rabbitmq_amqp1_0", "rabbitmq_stomp", "rabbitmq_mqtt", "rabbitmq_management")


@dataclass(frozen=True, slots=True)
class Doors:
    """A node, its ports by protocol, a prefix with its daemon, and a dispatcher by AMQP 0-9-1."""

    node: Node
    ports: dict[str, int]
    prefix: str
    daemon: Daemon
    dispatcher: Dispatcher

    def url(self, protocol: str, user: str = "guest") -> str:
        """Where a user, whose password is the name, reaches the node by a protocol."""
        return f"{protocol}://{user}:{user}@{ports.HOST}:{self.ports[protocol]}"


@pytest.fixture(scope="module", params=["3", "4"])
def node(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Node]:
    """A node with the plugins of all protocols."""
    found = Node(tmp_path_factory.mktemp("node"), release=request.param)
    stomp, mqtt, http = (ports.free_port() for _ in range(3))
    found.conf = {
        "stomp.listeners.tcp.1": f"{ports.HOST}:{stomp}",
        "mqtt.listeners.tcp.1": f"{ports.HOST}:{mqtt}",
        "management.tcp.ip": ports.HOST,
        "management.tcp.port": str(http),
    }
    found.plugins = PLUGINS
    with found:
        yield found


@pytest.fixture(scope="module")
def doors(node: Node) -> Iterator[Doors]:
    """A daemon on the node, with the bindings that docs/publishing.md asks MQTT's users for."""
    prefix = f"t{secrets.token_hex(3)}"
    given = {
        "amqp": node.port,
        "stomp": int(node.conf["stomp.listeners.tcp.1"].rpartition(":")[2]),
        "mqtt": int(node.conf["mqtt.listeners.tcp.1"].rpartition(":")[2]),
        "http": int(node.conf["management.tcp.port"]),
    }
    allowed = ["{prefix}.reply.*", "amq.gen-*", "/topic/{prefix}.reply.*"]
    parameters = pika.URLParameters(node.url)
    parameters.heartbeat = 0
    with (
        Daemon(node.url, prefix, broker__allow_reply_to=allowed).ready() as daemon,
        pika.BlockingConnection(parameters) as connection,
    ):
        channel = connection.channel()
        channel.confirm_delivery()
        topology = Topology(prefix)
        channel.queue_bind(topology.jobs, "amq.topic", topology.jobs)
        channel.exchange_bind("amq.topic", topology.results, "#")
        yield Doors(node, given, prefix, daemon, Dispatcher(channel, prefix))


@pytest.fixture
def user(node: Node) -> Iterator[User]:
    """A user without permissions."""
    found = User.add(node, f"u{secrets.token_hex(3)}")
    yield found
    found.delete()
