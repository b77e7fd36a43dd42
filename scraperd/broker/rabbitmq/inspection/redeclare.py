"""Compares queues that others made with what they must be, by declaring each once more.

May touch: a channel, for queues that were found to exist.
Must never: end over a difference; passive_declare means that an operator answers for the queues.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scraperd.broker.rabbitmq.inspection.findings import unlike
from scraperd.broker.rabbitmq.topology import CLOSE_TIMEOUT, as_it_is, inequivalent
from scraperd.broker.rabbitmq.wire.errors import AccessRefused, PreconditionFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from scraperd.broker.rabbitmq.topology import Queue, Topology
    from scraperd.broker.rabbitmq.wire.channel import Channel


async def compare(topology: Topology, open_channel: Callable[[], Awaitable[Channel]]) -> list[str]:
    """In what the queues differ, in words; all of them exist.

    Empty if this user may not declare queues: RabbitMQ then does not say. It does not say either
    whether a policy sets what an argument does not. Raises OSError.
    """
    lines: list[str] = []
    channel = await open_channel()
    for queue in topology.queues:
        found: dict[str, str] = {}
        refusal: str | None = ""
        while refusal is not None:
            if channel.is_closed:  # by a refusal
                channel = await open_channel()
            try:
                refusal = await _refusal(channel, as_it_is(queue, found))
            except AccessRefused:
                return lines
            if refusal is not None and not _noted(found, refusal):
                lines.append(f"queue {queue.name!r} differs from what scraperd needs: {refusal}")
                break
        lines += unlike(queue, found)
    await channel.close(CLOSE_TIMEOUT)
    return lines


async def _refusal(channel: Channel, queue: Queue) -> str | None:
    """Why the broker refuses to declare a queue as it should be; None if it does not."""
    try:
        await channel.declare_queue(queue.name, queue.arguments, passive=False)
    except PreconditionFailed as error:
        return str(error)
    return None


def _noted(found: dict[str, str], refusal: str) -> bool:
    """Whether a refusal says what another argument is; that is noted."""
    told = inequivalent(refusal)
    if told is None or told[0] in found:
        return False
    found[told[0]] = told[1]
    return True
