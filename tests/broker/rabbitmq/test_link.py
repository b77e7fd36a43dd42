"""When a lost connection is replaced: at once or after a pause, by how it had been.

May touch: the shared private node, through a proxy that resets connections.
Must never: wait for the age of a connection: its clock is the test's own.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from scraperd.base.clocks import Clocks
from scraperd.broker.ports import Limits
from scraperd.broker.rabbitmq.consumers import Prefetch
from scraperd.broker.rabbitmq.link import HEALTHY, Link
from scraperd.broker.rabbitmq.topology import Topology
from scraperd.broker.rabbitmq.wire.gate import Gate
from tests.broker.transports import settings_of, until
from tests.rig.brokers.wire import Wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.rig.brokers.node import Node

ROLL = 0.5
pytestmark = pytest.mark.usefixtures("dispatcher")  # which deletes the prefix's queues


class Linked:
    """A link that consumes through `wire`, the seconds added to its clock, and its events."""

    def __init__(self, wire: Wire, prefix: str, reconnect_min: float) -> None:
        self.added = 0.0
        self.at: list[tuple[str, float]] = []  # events, by the real clock
        self.wire = wire
        self.link = Link(
            replace(settings_of(wire.url, prefix), reconnect_min=reconnect_min, reconnect_max=3600),
            Topology(prefix),
            Limits(2**27, 1800),
            lambda: Gate(2**30),
            prefetch=Prefetch(5, 1),
            on_delivery=lambda _: None,
            on_lost=lambda _: None,
            events=self._note,
            clocks=Clocks(lambda: time.monotonic() + self.added, time.time, lambda: ROLL),
        )

    def _note(self, event: str, **_fields: Any) -> None:
        self.at.append((event, time.monotonic()))

    async def cut(self) -> None:
        """Reset the connection, and wait until the link has seen it."""
        lost = len(self.times("broker_lost"))
        await asyncio.to_thread(self.wire.cut)
        await until(lambda: len(self.times("broker_lost")) > lost)

    def times(self, event: str) -> list[float]:
        """When an event came."""
        return [at for name, at in self.at if name == event]


@asynccontextmanager
async def linked(node: Node, prefix: str, reconnect_min: float) -> AsyncIterator[Linked]:
    """A link to the node that consumes."""
    with Wire(node.port) as wire:
        found = Linked(wire, prefix, reconnect_min)
        running = asyncio.create_task(found.link.run())
        try:
            await found.link.consuming.wait()
            yield found
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def test_a_healthy_connection_is_replaced_at_once(node: Node, prefix: str) -> None:
    """It was there for HEALTHY seconds: the first dial does not wait for reconnect_min, an hour."""
    async with linked(node, prefix, reconnect_min=3600) as found:
        for count in (2, 3):  # as often as it was healthy
            found.added += HEALTHY
            await found.cut()
            await until(lambda count=count: len(found.times("ready")) == count)


async def test_a_connection_that_ends_early_is_not(node: Node, prefix: str) -> None:
    """It lived for less than that, or the one before it did: the pause comes first."""
    async with linked(node, prefix, reconnect_min=0.6) as found:
        await found.cut()
        await until(lambda: len(found.times("ready")) == 2)
        found.added += HEALTHY
        await found.cut()
        await until(lambda: len(found.times("ready")) == 3)
        await found.cut()
        await until(lambda: len(found.times("ready")) == 4)
        lost, (_, *ready) = found.times("broker_lost"), found.times("ready")
        first, _, after_healthy = (back - gone for gone, back in zip(lost, ready, strict=True))
        assert first >= 0.6 * ROLL
        assert after_healthy >= 0.6 * ROLL
