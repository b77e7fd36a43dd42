"""One connection to the broker: dialled, refusals in words, and whether what was written arrives.

May touch: aiormq, the connection's socket, to ask the kernel about it.
Must never: write, read or declare anything.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import aiormq
from aiormq import exceptions as amqp
from aiormq.connection import TCPTransportFactory, TLSTransportFactory
from yarl import URL

from scraperd.base.text import printable
from scraperd.base.urls import without_credentials
from scraperd.broker.rabbitmq.wire import header_decoding
from scraperd.broker.rabbitmq.wire.gate import GatedReader

if TYPE_CHECKING:
    from aiormq.abc import AbstractConnection as Wire

    from scraperd.broker.rabbitmq.wire.gate import Gate

NOT_ALLOWED: Final = 530  # AMQP 0-9-1 reply code: no such vhost, or no right to it
_ACKED = struct.Struct("=120xQ")  # tcpi_bytes_acked in struct tcp_info (linux/tcp.h, Linux 4.1)


class BrokerRefused(Exception):  # noqa: N818 - a state of the world, not a mistake
    """The broker answers and says no: credentials or vhost. Waiting will not help."""


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection and its transport."""

    wire: Wire
    writer: asyncio.StreamWriter

    def waiting(self) -> int:
        """Bytes that were written and not acknowledged by the other end (tcp(7), SIOCOUTQ)."""
        transport = self.writer.transport
        if transport.is_closing():
            return 0
        unsent = fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, b"\0" * 4)
        return transport.get_write_buffer_size() + int.from_bytes(unsent, "little")

    def arrived(self) -> int:
        """Bytes that the other end has acknowledged so far."""
        if self.writer.transport.is_closing():
            return 0
        info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED.size)
        return int(_ACKED.unpack(info)[0]) if len(info) == _ACKED.size else 0

    @property
    def _socket(self) -> Any:
        return self.writer.get_extra_info("socket")


class _Kept(aiormq.TransportFactory):
    """Opens a connection as the library does, keeps its end, and has it read through the gate."""

    def __init__(self, url: URL, gate: Gate | None) -> None:
        self._gate = gate
        self._factory = TLSTransportFactory() if url.scheme == "amqps" else TCPTransportFactory()
        self.writer: asyncio.StreamWriter | None = None

    async def create(
        self, url: URL, **more: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, self.writer = await self._factory.create(url, **more)
        if self._gate is not None:
            reader = GatedReader.of(reader, self._gate)
        return reader, self.writer


async def dial(
    url: str, name: str, heartbeat: int, within: float, gate: Gate | None = None
) -> Connection:
    """Connect; what is delivered comes through the gate. Raises BrokerRefused, OSError in words."""
    header_decoding.install()
    target = URL(url).update_query(heartbeat=heartbeat)
    kept = _Kept(target, gate)
    try:
        async with asyncio.timeout(within):
            wire = await aiormq.connect(
                target, transport_factory=kept, client_properties={"connection_name": name}
            )
    except (amqp.AMQPError, TimeoutError) as error:
        raise in_words(error) from error
    assert kept.writer is not None
    return Connection(wire, kept.writer)


def endpoint(url: str) -> str:
    """Return where `url` leads, for logs and messages: no credentials, and no query.

    The query of a broker's URL can hold the password of a key file.
    """
    return without_credentials(url).partition("?")[0]


def in_words(error: Exception) -> BrokerRefused | OSError:
    """What the library says of a connection that could not be made, in words of ours."""
    if isinstance(error, (amqp.AuthenticationError, amqp.ProbableAuthenticationError)):
        return BrokerRefused("the broker refused the user name or the password of broker_url")
    if getattr(error, "reply_code", None) == NOT_ALLOWED:
        return BrokerRefused(
            f"the broker refused the vhost of broker_url: {printable(str(error), 500)}"
        )
    if "Connection.OpenOk" in str(error):  # the library loses the broker's own words here
        return OSError(
            "the broker closed the connection when the vhost was opened; does the vhost of "
            "broker_url exist, and may this user enter it?"
        )
    return OSError(printable(str(error), 500) or "no answer")
