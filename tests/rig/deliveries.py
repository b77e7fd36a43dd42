"""What tests of the jobs room give a worker besides the job: an epoch, and an ack that arrives.

May touch: the ports of a broker, as values.
Must never: be a broker: tests/broker/transports.py has those.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from scraperd.broker.ports import Delivery


def nobody(_epoch: Owner) -> None:
    """Tell nobody of an epoch's end."""


@dataclass(eq=False)
class Owner:
    """An epoch; two of them are never equal. `on_end` is told of its end, as a broker tells."""

    blames_a_publish: bool = False
    on_end: Callable[[Owner], None] = nobody
    lost: asyncio.Future[str] = field(default_factory=asyncio.Future)

    def end(self, reason: str) -> None:
        self.lost.set_result(reason)
        self.on_end(self)


async def acked(_delivery: Delivery) -> bool:
    """Say that the ack has arrived."""
    return True
