"""Frames of AMQP 0-9-1, as bytes: those of the job's path are made without a detour. Pure.

May touch: bytes and values.
Must never: copy a body.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

from scraperd.broker.rabbitmq.wire.codec import methods
from scraperd.broker.rabbitmq.wire.codec.tables import short
from scraperd.broker.rabbitmq.wire.errors import UnsendableError

if TYPE_CHECKING:
    from collections.abc import Iterator

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
END: Final = b"\xce"
HEAD: Final = struct.Struct(">BHI")  # kind, channel, bytes of the payload
OVERHEAD_BYTES: Final = HEAD.size + len(END)
GREETING: Final = b"AMQP\0\0\x09\x01"  # AMQP 0-9-1 section 4.2.2
BEAT: Final = HEAD.pack(HEARTBEAT, 0, 0) + END
_CONTENT: Final = struct.Struct(">BHIHHQ")  # a head, then class, weight, and bytes of the body
_CONTENT_BYTES: Final = _CONTENT.size - HEAD.size
_BASIC: Final = 60  # the class of all messages
_SETTLE: Final = struct.Struct(">BHIIQBB")  # an ack or a nack, whole
_SETTLE_BYTES: Final = _SETTLE.size - OVERHEAD_BYTES
_ACK, _NACK = 0x3C0050, 0x3C0078
_MULTIPLE, _REQUEUE = 1, 2


def method(channel: int, name: str, **fields: Any) -> bytes:
    """Return a method frame. Raises UnsendableError."""
    payload = methods.encode(name, **fields)
    return HEAD.pack(METHOD, channel, len(payload)) + payload + END


def ack(channel: int, tag: int, *, multiple: bool = False) -> bytes:
    """Return a frame basic.ack."""
    return _SETTLE.pack(METHOD, channel, _SETTLE_BYTES, _ACK, tag, multiple, END[0])


def nack(channel: int, tag: int, *, multiple: bool = False) -> bytes:
    """Return a frame basic.nack that puts deliveries back."""
    bits = _REQUEUE | multiple
    return _SETTLE.pack(METHOD, channel, _SETTLE_BYTES, _NACK, tag, bits, END[0])


def publish(channel: int, exchange: str, key: str) -> bytes:
    """Return a frame basic.publish, mandatory. Raises UnsendableError."""
    payload = b"\0\x3c\0\x28\0\0" + short(exchange) + short(key) + b"\x01"
    return HEAD.pack(METHOD, channel, len(payload)) + payload + END


def room(frame_max: int) -> int:
    """Return how many bytes the properties of a message may have, headers included."""
    return frame_max - OVERHEAD_BYTES - _CONTENT_BYTES


def content(channel: int, size: int, properties: bytes, frame_max: int) -> bytes:
    """Return a content header frame. Raises UnsendableError if it is larger than a frame."""
    payload = _CONTENT_BYTES + len(properties)
    if payload + OVERHEAD_BYTES > frame_max:
        raise UnsendableError(
            f"the headers of a message share one frame: they have {len(properties)} bytes, "
            f"and the broker's frame_max is {frame_max}"
        )
    return _CONTENT.pack(HEADER, channel, payload, _BASIC, 0, size) + properties + END


def body(channel: int, data: bytes | memoryview, frame_max: int) -> Iterator[bytes | memoryview]:
    """Yield the pieces of body frames; the data itself is not copied."""
    longest = frame_max - OVERHEAD_BYTES
    if len(data) <= longest:
        if data:
            yield HEAD.pack(BODY, channel, len(data))
            yield data
            yield END
        return
    view = memoryview(data)
    for start in range(0, len(view), longest):
        piece = view[start : start + longest]
        yield HEAD.pack(BODY, channel, len(piece))
        yield piece
        yield END
