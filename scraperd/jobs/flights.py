"""The deliveries in flight: each with its task, and how far it is.

May touch: tasks of the running loop.
Must never: know what a task does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

    from scraperd.broker.ports import Epoch
    from scraperd.jobs.received import Received

Phase: TypeAlias = Literal["waiting", "scraping", "settling"]


@dataclass(eq=False, slots=True)
class Flight:
    """One delivery being worked on."""

    received: Received
    task: asyncio.Task[None]
    phase: Phase = "waiting"  # until its first fetch
    settled: bool = False  # acked, or too late for that: nothing more may be published of it

    def fetching(self) -> None:
        """The first fetch of its page begins."""
        self.phase = "scraping"


class Flights:
    """All of them, and those that were cut off before their end: `unbegun`, to be given back."""

    def __init__(self) -> None:
        self._live: dict[Received, Flight] = {}
        self.unbegun: list[Received] = []

    def __len__(self) -> int:
        """How many deliveries were taken over and are not settled yet."""
        return len(self._live) + len(self.unbegun)

    def count(self, phase: Phase) -> int:
        """How many are in this phase."""
        return sum(flight.phase == phase for flight in self._live.values())

    def __getitem__(self, received: Received) -> Flight:
        return self._live[received]

    def start(self, received: Received, task: asyncio.Task[None], phase: Phase = "waiting") -> None:
        """`task` works on a delivery from now on, until it ends."""
        flight = self._live[received] = Flight(received, task, phase)
        task.add_done_callback(lambda _: self._land(flight))

    def _land(self, flight: Flight) -> None:
        if self._live.get(flight.received) is flight:
            del self._live[flight.received]

    def drop(self, received: Received) -> None:
        """The delivery is in flight no more, though its task has not ended."""
        self._live.pop(received, None)

    def of(self, epoch: Epoch) -> Iterator[Flight]:
        """Those whose deliveries are of this epoch."""
        live = list(self._live.values())
        return (flight for flight in live if flight.received.delivery.epoch is epoch)

    def unsettled(self) -> list[Flight]:
        """Those whose outcome is not being published yet."""
        return [flight for flight in self._live.values() if flight.phase != "settling"]

    def take_unbegun(self) -> list[Received]:
        """Hand over those that were cut off, once."""
        unbegun, self.unbegun = self.unbegun, []
        return unbegun

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """The tasks that work on them."""
        return [flight.task for flight in self._live.values()]

    def interrupt(self, *phases: Phase) -> int:
        """Cancel those in these phases; returns how many they were."""
        live = list(self._live.values())
        chosen = [one for one in live if one.phase in phases and not one.task.done()]
        for flight in chosen:
            flight.task.cancel()
            if flight.phase != "settling":  # its task is not waited for any more
                self.unbegun.append(flight.received)
                self.drop(flight.received)
        return len(chosen)
