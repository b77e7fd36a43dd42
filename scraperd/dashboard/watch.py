"""One look at the fleet a second for all viewers together, and only while there is a viewer.

May touch: the broker, by questions to the fleet and copies of results; the clocks it is handed.
Must never: keep more than its bounds, or wait for a viewer.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec

from scraperd.base.text import printable
from scraperd.batches.progress import question, read_answer
from scraperd.broker.ports import Lost
from scraperd.broker.rabbitmq.inquiry.asking import asking
from scraperd.broker.rabbitmq.topology import TopologyError
from scraperd.dashboard.shape import Rates, batches_shown, fleet_shown, point, result_shown
from scraperd.ops.fleet.asked import ask_all

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from scraperd.base.clocks import Clocks
    from scraperd.broker.rabbitmq.inquiry.asking import Asker
    from scraperd.broker.rabbitmq.inquiry.copies import Copies
    from scraperd.broker.rabbitmq.topology import Topology

INTERVAL: Final = 1.0  # seconds from the begin of one look to the next
COUNT_EACH: Final = 3  # looks: how often the queues are counted, of which there are dozens
BATCHES_EACH: Final = 3  # looks: how often batches are asked for
BATCHES_WAIT: Final = 0.5  # seconds for the daemon that tallies
SIGN_INTERVAL: Final = 5.0  # seconds after which a viewer hears that the gateway lives
REFUSED_INTERVAL: Final = 10.0  # seconds after which the broker is asked again for what it refused
MAX_POINTS: Final = 900  # of the charts: 15 minutes
MAX_KEPT: Final = 50  # results, failures and actions, each
MAX_DIGITS: Final = 15  # of the number of a look
MAX_WORDS: Final = 500  # characters of a fault
PATTERNS: Final = {"results": "ok.#", "failures": "failed.#"}  # routing keys of results


class Watch:
    """What all viewers see. `run` looks; each viewer follows by `events`.

    Each thing that is kept has the number of the look that brought it, so a viewer that comes back
    gets what it has not seen. The queues of `topology` are counted; batches are asked for if it
    has their queue.
    """

    def __init__(
        self, urls: tuple[str, ...], topology: Topology, within: float, most: int, clocks: Clocks
    ) -> None:
        self._urls = urls
        self._topology = topology
        self._within = within
        self._most = most
        self._clocks = clocks
        self._epoch = secrets.token_hex(4)
        self._number = 0
        self._viewers = 0
        self._wanted = asyncio.Event()
        self._news = asyncio.Event()
        self._over = False
        self._rates = Rates()
        self._queues: dict[str, tuple[int, int] | None] = {}
        self._fleet = b"null"
        self._faults: dict[str, str] = {}
        self._told = (0, 0, b"")  # the last event: its number, since when it tells, itself
        self._kept: dict[str, deque[tuple[int, Any]]] = {
            "points": deque(maxlen=MAX_POINTS),
            "results": deque(maxlen=MAX_KEPT),
            "failures": deque(maxlen=MAX_KEPT),
            "actions": deque(maxlen=MAX_KEPT),
            "batches": deque(maxlen=1),
        }

    @property
    def full(self) -> bool:
        """Whether there are as many viewers as may be."""
        return self._viewers >= self._most

    async def run(self) -> None:
        """Look while there is a viewer, until cancelled. A broker that is away is tried again.

        Raises WrongUrl for a URL that can't be right.
        """
        while True:
            await self._wanted.wait()
            pause = INTERVAL
            try:
                async with asking(self._urls, self._topology.prefix, self._within) as asker:
                    await self._look(asker)
            except (Lost, TopologyError) as error:
                self._fleet = b"null"
                self._faults = {"fleet": printable(str(error), MAX_WORDS)}
                self._turn()
                pause = REFUSED_INTERVAL if isinstance(error, TopologyError) else INTERVAL
            await asyncio.sleep(pause)

    async def _look(self, asker: Asker) -> None:
        """Look once a second, until no viewer is left. Raises Lost, TopologyError, Closed."""
        taps: dict[str, Copies] = {}
        looks, tap_at = 0, 0.0
        while self._viewers:
            began = self._clocks.monotonic()
            if not taps and began >= tap_at:
                await self._tap(asker, taps)
                tap_at = began + REFUSED_INTERVAL
            await self._ask(asker, looks)
            if self._topology.tallies and not looks % BATCHES_EACH:
                await self._ask_batches(asker)
            for kind, copies in taps.items():
                for body in copies.take():
                    if (shown := result_shown(body)) is not None:
                        self.keep(kind, {"at": round(self._clocks.wall(), 1), **shown})
            self._turn()
            looks += 1
            await asyncio.sleep(max(0.0, began + INTERVAL - self._clocks.monotonic()))

    async def _ask(self, asker: Asker, looks: int) -> None:
        """Ask how all daemons are, and now and then how many messages each queue has."""
        counted = not looks % COUNT_EACH
        fleet = await ask_all(asker, self._topology, "status", queues=counted)
        self._queues = fleet.queues = {**({} if counted else self._queues), **fleet.queues}
        self._rates.note(fleet.statuses, self._clocks.monotonic())
        self._fleet = msgspec.json.encode(fleet_shown(fleet, self._rates))
        self.keep("points", point(fleet, self._rates, self._clocks.wall()))

    async def _ask_batches(self, asker: Asker) -> None:
        """Ask how far batches are; None is kept if no daemon tallies them now."""
        asked = await asker.ask(question(""))
        found = await asked.first(read_answer, BATCHES_WAIT)
        shown = None if found is None else batches_shown(found, self._clocks.wall())
        self.keep("batches", shown)

    async def _tap(self, asker: Asker, taps: dict[str, Copies]) -> None:
        """Have results copied. Without the permission, the rest is shown all the same."""
        try:
            taps.update({kind: await asker.copies(key) for kind, key in PATTERNS.items()})
            self._faults = {}
        except TopologyError as error:
            self._faults = {"results": printable(str(error), MAX_WORDS)}

    def keep(self, kind: str, what: Any) -> None:
        """Keep a point, a result, a failure or an action; the oldest goes."""
        self._kept[kind].append((self._number + 1, what))

    def _turn(self) -> None:
        """Have each viewer told."""
        self._number += 1
        self._news.set()
        self._news = asyncio.Event()

    def stop(self) -> None:
        """End the answers to all viewers."""
        self._over = True
        self._news.set()

    async def events(self, last: str) -> AsyncGenerator[bytes]:
        """Yield server-sent events (WHATWG HTML, section 9.2) from what the id `last` came with.

        A viewer that reads slowly misses looks, and nothing that is kept.
        """
        if self.full:
            return
        self._viewers += 1
        self._wanted.set()
        try:
            seen = self._seen(last)
            yield b"retry: 1000\n\n"
            while not self._over:
                news = self._news
                if self._number > seen:
                    yield self._since(seen)
                    seen = self._number
                with suppress(TimeoutError):
                    async with asyncio.timeout(SIGN_INTERVAL):
                        await news.wait()
                if self._number == seen:
                    yield b": the gateway lives\n\n"
        finally:
            self._viewers -= 1
            if not self._viewers:
                self._wanted.clear()
                self._forget()

    def _forget(self) -> None:
        """Forget how all is now: who looks next shall not take it for news."""
        self._fleet, self._faults = b"null", {}
        self._kept["batches"].clear()
        self._told = (0, 0, b"")

    def _seen(self, last: str) -> int:
        """Return the number in an id of ours; 0 for any other."""
        epoch, _, number = last.partition("-")
        known = epoch == self._epoch and number.isdecimal() and len(number) <= MAX_DIGITS
        return min(int(number), self._number) if known else 0

    def _since(self, seen: int) -> bytes:
        """Return the event that tells what is kept since the look `seen`, and how all is now.

        Viewers that have seen as much get the same bytes, which are made once.
        """
        if self._told[:2] != (self._number, seen):
            self._told = (self._number, seen, self._written(seen))
        return self._told[2]

    def _written(self, seen: int) -> bytes:
        kept = {
            kind: [what for number, what in found if number > seen]
            for kind, found in self._kept.items()
        }
        told = {
            **kept,
            "fleet": msgspec.Raw(self._fleet),
            "faults": self._faults,
            "at": round(self._clocks.wall(), 1),
        }
        data = msgspec.json.encode(told)
        return b"id: %s-%d\ndata: %s\n\n" % (self._epoch.encode(), self._number, data)
