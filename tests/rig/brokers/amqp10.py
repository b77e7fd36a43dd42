"""An AMQP 1.0 client that sends one message to a queue of RabbitMQ, as bytes by hand.

May touch: a private node on loopback.
Must never: use a library; what is sent must be what is written here.

The types, performatives and sections are those of OASIS AMQP 1.0, parts 1 to 3.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from io import BufferedRWPair

_SASL, _AMQP = 3, 0  # protocol ids, part 2 section 2.2 and part 5 section 5.3.1
_OPEN, _BEGIN, _ATTACH, _FLOW, _TRANSFER, _DISPOSITION = 0x10, 0x11, 0x12, 0x13, 0x14, 0x15
_CLOSE, _SASL_INIT, _SASL_OUTCOME = 0x18, 0x41, 0x44
_TARGET, _SOURCE, _PROPERTIES, _DATA = 0x29, 0x28, 0x73, 0x75
_ACCEPTED = b"\x00\x53\x24"
NULL: Final = b"\x40"
_TRUE, _FALSE, _EMPTY_LIST = b"\x41", b"\x42", b"\x45"


def ulong(value: int) -> bytes:
    return b"\x80" + struct.pack(">Q", value)


def uint(value: int) -> bytes:
    return b"\x70" + struct.pack(">I", value)


def text(value: str) -> bytes:
    data = value.encode()
    return b"\xb1" + struct.pack(">I", len(data)) + data


def symbol(value: str) -> bytes:
    data = value.encode()
    return b"\xb3" + struct.pack(">I", len(data)) + data


def binary(value: bytes) -> bytes:
    return b"\xb0" + struct.pack(">I", len(value)) + value


def uuid(value: bytes) -> bytes:
    """A UUID of 16 bytes."""
    return b"\x98" + value


def described(code: int, *fields: bytes) -> bytes:
    """A described list: a performative, or a section of a message."""
    content = b"".join(fields)
    count = struct.pack(">II", len(content) + 4, len(fields))
    return b"\x00\x53" + bytes([code]) + b"\xd0" + count + content


def data(content: bytes) -> bytes:
    """A section of data."""
    return b"\x00\x53" + bytes([_DATA]) + binary(content)


def application_properties(name: str, value: bytes) -> bytes:
    """A section with one application property."""
    content = text(name) + value
    return b"\x00\x53\x74\xd1" + struct.pack(">II", len(content) + 4, 2) + content


def publish(
    port: int,
    queue: str,
    body: bytes,
    *,
    message_id: bytes = NULL,
    correlation_id: bytes = NULL,
    application_properties: bytes = b"",
    framed: bool = False,
    user: str = "guest",
) -> None:
    """Send one durable message to a queue of RabbitMQ and wait until the broker has accepted it.

    A body that is `framed` is made of sections; else it becomes one section of data.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        wire = connection.makefile("rwb")
        _greet(wire, _SASL)
        plain = f"\0{user}\0{user}".encode()
        _send(wire, described(_SASL_INIT, symbol("PLAIN"), binary(plain)), kind=1)
        _until(wire, _SASL_OUTCOME)
        _greet(wire, _AMQP)
        _send(wire, described(_OPEN, text("tests"), text("localhost")))
        _send(wire, described(_BEGIN, NULL, uint(0), uint(100), uint(100)))
        target = described(_TARGET, text(f"/amq/queue/{queue}"), uint(2))
        fields = [text("link"), uint(0), _FALSE, b"\x50\x00", b"\x50\x00"]
        fields += [described(_SOURCE, text("tests")), target, NULL, NULL, uint(0)]
        _send(wire, described(_ATTACH, *fields))
        _until(wire, _FLOW)
        properties = described(
            _PROPERTIES, message_id, *[NULL] * 4, correlation_id, symbol("application/json")
        )
        header = described(0x70, _TRUE)
        sections = body if framed else data(body)
        transfer = described(_TRANSFER, uint(0), uint(0), binary(b"1"), uint(0), _FALSE, _FALSE)
        _send(wire, transfer + header + properties + application_properties + sections)
        assert _ACCEPTED in _until(wire, _DISPOSITION)
        _send(wire, described(_CLOSE))


def _greet(wire: BufferedRWPair, protocol: int) -> None:
    """Exchange the protocol headers."""
    head = b"AMQP" + bytes([protocol, 1, 0, 0])
    wire.write(head)
    wire.flush()
    assert wire.read(8) == head


def _send(wire: BufferedRWPair, content: bytes, kind: int = 0) -> None:
    wire.write(struct.pack(">IBBH", len(content) + 8, 2, kind, 0) + content)
    wire.flush()


def _until(wire: BufferedRWPair, code: int) -> bytes:
    """Read frames up to one with this performative."""
    while True:
        head = wire.read(8)
        assert len(head) == 8, "the broker cut the connection"
        content = wire.read(int.from_bytes(head[:4], "big") - 8)
        if content[2:3] == bytes([code]):
            return content
        assert content[2:3] != bytes([_CLOSE]), content
