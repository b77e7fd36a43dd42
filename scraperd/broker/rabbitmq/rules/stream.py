"""The stream's name and arguments, and how what it holds is read to its end.

May touch: a channel that is handed in.
Must never: publish, or take a broker that is not up yet for one without a stream.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from scraperd.broker.rabbitmq.wire.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from scraperd.broker.rabbitmq.wire.channel import Channel
    from scraperd.broker.rabbitmq.wire.machine import Delivered

# Each record holds all rules, so the newest is enough: the broker drops old segments by itself.
ARGUMENTS: Final[dict[str, Any]] = {
    "x-queue-type": "stream",
    "x-max-length-bytes": 2 * 1024 * 1024,
    "x-stream-max-segment-size-bytes": 512 * 1024,
}
MAX_RECORD_BYTES: Final = 300 * 1024  # a larger one is not ours
PREFETCH: Final = 100
EMPTY_FOR: Final = 1.0  # seconds without a record, after which a stream has none
OFFSET: Final = "x-stream-offset"
# RabbitMQ says 404 also of a stream whose node has not started it yet, with other words. Measured
# with 3.10.8 and 4.0.5: for half a second after a restart.
_MISSING: Final = "no queue"


def stream_of(prefix: str) -> str:
    """Return the name of the stream."""
    return f"{prefix}.rules"


def lock_of(prefix: str) -> str:
    """Return the name of the queue that is there while someone changes the rules."""
    return f"{prefix}.rules.lock"


def is_missing(error: NotFound) -> bool:
    """Whether the stream does not exist; False if it is not up."""
    return _MISSING in str(error)


async def exists(channel: Channel, queue: str) -> bool:
    """Return whether the stream exists. Raises Closed, also if it is not up.

    The channel can't be used any more if not.
    """
    try:
        await channel.declare_queue(queue, passive=True)
    except NotFound as error:
        if is_missing(error):
            return False
        raise
    return True


async def follow(
    channel: Channel, queue: str, offset: str, on_record: Callable[[Delivered], None]
) -> str:
    """Consume from `first` or `last` on; return the consumer's tag. Raises Closed."""

    def take(message: Delivered) -> None:
        channel.ack(message.tag)
        on_record(message)

    await channel.qos(PREFETCH)
    return await channel.consume(queue, take, arguments={OFFSET: offset})


def offset_of(message: Delivered) -> int:
    """Return where a record is in its stream."""
    found = headers_of(message).get(OFFSET)
    return found if isinstance(found, int) else 0


def headers_of(message: Delivered) -> Mapping[str, Any]:
    """Return the headers of a record."""
    return message.properties.headers or {}


async def last_offset(channel: Channel, queue: str) -> int | None:
    """Return where the last record is; None if there is none. Raises Closed.

    AMQP does not tell it: a second consumer looks, and is ended.
    """
    seen = asyncio.Event()
    offsets: list[int] = []

    def take(message: Delivered) -> None:
        offsets.append(offset_of(message))
        seen.set()

    tag = await follow(channel, queue, "last", take)
    waits: asyncio.Future[Any] = asyncio.ensure_future(seen.wait())
    await asyncio.wait(
        (waits, channel.closed), timeout=EMPTY_FOR, return_when=asyncio.FIRST_COMPLETED
    )
    waits.cancel()
    if channel.is_closed:
        raise channel.closed.result()
    await channel.cancel(tag)  # its answer comes behind all of the last chunk
    return max(offsets, default=None)
