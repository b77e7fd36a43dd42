"""The settings that hold: of this gateway, and of each daemon when somebody wants to see them.

May touch: a connection of its own to the broker, for one question; the clocks it is handed.
Must never: ask unless a person has opened the table, or show a password.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from scraperd.base.text import printable
from scraperd.broker.rabbitmq.inquiry.asking import asking
from scraperd.broker.rabbitmq.topology import Topology, TopologyError
from scraperd.dashboard.shape import settings_shown
from scraperd.ops.fleet.asked import ask_all
from scraperd.server.access.turns import Turns
from scraperd.server.problems import unavailable

if TYPE_CHECKING:
    from scraperd.base.clocks import Clocks

KEEP: Final = 5.0  # seconds for which an answer is given again
MAX_WAITING: Final = 20  # requests
MAX_WORDS: Final = 500  # characters of a fault
AGAIN: Final = 5  # seconds after which a viewer may ask again
BUSY: Final = "too many requests ask for the settings of the daemons"


class Configuration:
    """Settings for the page. `own` are those of the gateway, as `masked` has them."""

    def __init__(
        self,
        own: list[dict[str, str]],
        urls: tuple[str, ...],
        prefix: str,
        within: float,
        clocks: Clocks,
    ) -> None:
        self.own = msgspec.json.encode({"settings": own})
        self._urls = urls
        self._topology = Topology(prefix)
        self._within = within
        self._clocks = clocks
        self._turns = Turns(MAX_WAITING, BUSY, AGAIN)
        self._told = b""
        self._fresh_until = 0.0

    async def of_daemons(self) -> bytes:
        """Return what the daemons say, as JSON. Raises Problem if they cannot be asked."""
        try:
            async with self._turns.turn():
                if self._clocks.monotonic() >= self._fresh_until:
                    self._told = await self._asked()
                    self._fresh_until = self._clocks.monotonic() + KEEP
                return self._told
        except (OSError, TopologyError) as error:
            raise unavailable(printable(str(error), MAX_WORDS), AGAIN) from error

    async def _asked(self) -> bytes:
        async with asking(self._urls, self._topology.prefix, self._within) as asker:
            fleet = await ask_all(asker, self._topology, "settings", queues=False)
        return msgspec.json.encode(settings_shown(fleet))
