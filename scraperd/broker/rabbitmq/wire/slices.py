"""Publishes large messages in slices: none of them holds the loop, or is in memory several times.

May touch: a channel of the client library, as its own basic_publish does.
Must never: leave a message half sent on a channel that goes on.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from aiormq.abc import ChannelFrame
from pamqp import commands as spec
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

if TYPE_CHECKING:
    from aiormq.channel import Channel

SLICE: Final = 512 * 1024  # bytes; copied four times on their way, in about a millisecond


async def publish(
    channel: Channel, exchange: str, key: str, body: bytes, properties: spec.Basic.Properties
) -> None:
    """Publish, mandatory, and wait for the confirm: basic_publish for a body of any size.

    The library copies a body whole three times before the first byte of it is sent: 40 ms and
    120 MB for one of 40 MB. Raises what it raises.
    """
    if len(body) <= SLICE:
        await channel.basic_publish(
            body,
            exchange=exchange,
            routing_key=key,
            properties=properties,
            mandatory=True,
            wait=False,
        )
        return
    method = spec.Basic.Publish(exchange=exchange, routing_key=key, mandatory=True)
    header = ContentHeader(properties=properties, body_size=len(body))
    # A message that was started is sent whole: a frame of another one would end the connection.
    await asyncio.shield(channel.create_task(_send(channel, [method, header], body)))


async def _send(channel: Channel, frames: list[Any], body: bytes) -> None:
    async with channel.lock:
        channel.delivery_tag += 1
        tag, ident = channel.delivery_tag, frames[1].properties.message_id
        confirmation = channel.create_future()
        channel.confirmations[tag] = confirmation
        channel.message_id_delivery_tag[ident] = tag
        await _write(channel, frames)
        rest = memoryview(body)
        while rest:
            await _write(channel, _frames(rest[:SLICE], channel.max_content_size))
            rest = rest[SLICE:]
    try:
        await confirmation
    finally:
        channel.message_id_delivery_tag.pop(ident, None)


async def _write(channel: Channel, frames: list[Any]) -> None:
    """Write them, and wait until the connection can take more."""
    taken = channel.create_future()
    await channel.write_queue.put(
        ChannelFrame.marshall(frames=frames, channel_number=channel.number, drain_future=taken)
    )
    await taken


def _frames(piece: memoryview, longest: int) -> list[Any]:
    starts = range(0, len(piece), longest)
    return [ContentBody(bytes(piece[start : start + longest])) for start in starts]
