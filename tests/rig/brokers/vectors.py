"""Records what a RabbitMQ sends in one session, as test vectors: run it as a module.

May touch: a private node, a socket; tests/data/amqp/, to write.
Must never: use the code that the vectors test; it speaks by pamqp.
"""

from __future__ import annotations

import argparse
import lzma
import socket
import tempfile
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from pamqp import commands as spec
from pamqp import frame
from pamqp.body import ContentBody
from pamqp.header import ContentHeader, ProtocolHeader

from tests.rig.brokers.node import Node

FOLDER: Final = Path(__file__).resolve().parents[2] / "data/amqp"
CHANNELS: Final = 4
HEADERS: Final[dict[str, Any]] = {
    "text": "aé",
    "numbers": [-1, 127, 255, -32768, 65535, -(2**31), 2**32 - 1, -(2**63), 1.5],
    "decimal": Decimal("-1.25"),
    "table": {"a": {"b": [True, False, None]}},
    "bytes": bytearray(b"\xff\0"),
    "time": datetime(2026, 11, 27, tzinfo=UTC),
}


class Session:
    """A client that keeps each byte that it is sent."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.received = b""
        self._read = 0

    def greet(self) -> None:
        """Send the protocol header."""
        self._socket.sendall(ProtocolHeader().marshal())

    def send(self, channel: int, *parts: Any) -> None:
        """Send frames."""
        self._socket.sendall(b"".join(frame.marshal(part, channel) for part in parts))

    def publish(self, channel: int, key: str, body: bytes, properties: Any = None) -> None:
        """Publish to a queue, mandatory."""
        longest = 131072 - 8
        pieces = [body[at : at + longest] for at in range(0, len(body), longest)]
        self.send(
            channel,
            spec.Basic.Publish(routing_key=key, mandatory=True),
            ContentHeader(
                body_size=len(body), properties=properties or spec.Basic.Properties(message_id=key)
            ),
            *map(ContentBody, pieces),
        )

    def wait(self, name: str, times: int = 1) -> None:
        """Read until a frame of this name has come so often."""
        while times:
            part = self.received[self._read :]
            used = 0
            with suppress(Exception):  # the frame is not whole
                used, _, found = frame.unmarshal(part)
                times -= getattr(found, "name", "") == name
            self._read += used
            if not used:
                self.received += self._socket.recv(65536)


def record(node: Node) -> bytes:
    """Return the bytes of a session with all that a daemon can meet."""
    session, other = _open(node), _open(node)
    for channel in range(1, CHANNELS + 1):
        session.send(channel, spec.Channel.Open())
        session.wait("Channel.OpenOk")
    _declare(session)
    _deliver(session)
    _refuse(session, node)
    other.send(1, spec.Channel.Open(), spec.Queue.Delete(queue="v.queue"))
    session.wait("Basic.Cancel")
    session.send(4, spec.Queue.Declare(queue="v.nowhere", passive=True))
    session.wait("Channel.Close")
    session.send(4, spec.Channel.CloseOk())
    session.send(3, spec.Channel.Close(200, "", 0, 0))
    session.wait("Channel.CloseOk")
    session.send(0, spec.Connection.Close(200, "", 0, 0))
    session.wait("Connection.CloseOk")
    return session.received


def _open(node: Node) -> Session:
    session = Session(node.port)
    session.greet()
    session.wait("Connection.Start")
    capabilities = {"consumer_cancel_notify": True, "connection.blocked": True}
    session.send(
        0,
        spec.Connection.StartOk(
            client_properties={"capabilities": {**capabilities, "publisher_confirms": True}},
            response="\0guest\0guest",
        ),
    )
    session.wait("Connection.Tune")
    session.send(0, spec.Connection.TuneOk(2047, 131072, 0), spec.Connection.Open())
    session.wait("Connection.OpenOk")
    return session


def _declare(session: Session) -> None:
    quorum: dict[str, Any] = {"x-queue-type": "quorum"}
    full: dict[str, Any] = {"x-max-length": 1, "x-overflow": "reject-publish"}
    session.send(1, spec.Queue.Declare(queue="v.queue", durable=True, arguments=quorum))
    session.send(1, spec.Queue.Declare(queue="v.full", durable=True, arguments=full))
    session.wait("Queue.DeclareOk", 2)
    session.send(1, spec.Exchange.Declare(exchange="v.exchange", exchange_type="topic"))
    session.send(1, spec.Queue.Bind(queue="v.queue", exchange="v.exchange", routing_key="#"))
    session.send(1, spec.Basic.Qos(prefetch_count=100))
    session.send(2, spec.Confirm.Select())
    session.wait("Confirm.SelectOk")


def _deliver(session: Session) -> None:
    session.send(1, spec.Basic.Consume(queue="v.queue"))
    session.wait("Basic.ConsumeOk")
    everything = spec.Basic.Properties(
        content_type="application/json",
        content_encoding="identity",
        headers=HEADERS,
        delivery_mode=2,
        priority=3,
        correlation_id="c",
        reply_to="r",
        expiration="60000",
        message_id="m",
        timestamp=datetime(2026, 11, 27, tzinfo=UTC),
        message_type="t",
        user_id="guest",
        app_id="a",
    )
    bodies = (b"", b"small", bytes(range(256)) * 1200)
    for body in bodies:
        session.publish(2, "v.queue", body, everything)
    session.wait("ContentBody", 4)
    for _ in range(20):
        session.publish(2, "v.queue", b"x" * 20, spec.Basic.Properties())
    session.wait("ContentBody", 20)
    session.send(1, spec.Basic.Nack(10, multiple=True, requeue=True))
    session.wait("Basic.Deliver", 10)
    session.send(1, spec.Basic.Ack(0, multiple=True))


def _refuse(session: Session, node: Node) -> None:
    session.publish(2, "v.nowhere", b"returned")
    session.wait("Basic.Return")
    session.publish(2, "v.nowhere", b"")
    session.wait("Basic.Ack")
    for _ in range(3):
        session.publish(2, "v.full", b"rejected")
    session.wait("Basic.Nack")
    node.alarm_memory()
    session.publish(2, "v.queue", b"late")
    session.wait("Connection.Blocked")
    node.clear_alarms()
    session.wait("Connection.Unblocked")


def main() -> None:
    """Record one release: `--release 4`, or this machine's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--release", default="")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        Node(Path(folder), release=options.release) as node,
    ):
        version = ".".join(map(str, node.version))
        FOLDER.mkdir(exist_ok=True)
        (FOLDER / f"rabbitmq-{version}.xz").write_bytes(lzma.compress(record(node)))


if __name__ == "__main__":
    main()
