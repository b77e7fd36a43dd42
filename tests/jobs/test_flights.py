"""The deliveries in flight: which are counted, cut off and handed back, phase by phase.

May touch: tasks of the test's own loop that wait until they are cancelled.
Must never: need a worker or a broker.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from scraperd.broker.ports import Delivery, Source
from scraperd.jobs.envelope import Envelope
from scraperd.jobs.flights import Flights
from scraperd.jobs.received import Received
from tests.rig.deliveries import Owner, acked

if TYPE_CHECKING:
    from scraperd.jobs.flights import Phase


def received(epoch: Owner) -> Received:
    return Received(Delivery(b"{}", {}, Source.JOBS, epoch, acked), Envelope())


class Air:
    """Flights with one delivery in each phase, whose tasks wait until they are cancelled."""

    def __init__(self) -> None:
        self.flights, self.epoch = Flights(), Owner()
        self.tasks: list[asyncio.Task[None]] = []
        self.waiting, self.scraping, self.settling = (received(self.epoch) for _ in range(3))
        for one in (self.waiting, self.scraping):
            self.start(one)
        self.start(self.settling, "settling")
        self.flights[self.scraping].fetching()

    def start(self, one: Received, *phase: Phase) -> asyncio.Task[None]:
        task = asyncio.create_task(wait())
        self.tasks.append(task)
        self.flights.start(one, task, *phase)
        return task

    async def end(self) -> None:
        """Let all tasks end; then nothing is in flight but what was cut off."""
        for task in self.tasks:
            task.cancel()
        await asyncio.wait(self.tasks)
        assert self.flights.tasks == []


async def wait() -> None:
    await asyncio.Event().wait()


async def test_a_delivery_begins_to_wait_and_nothing_is_settled() -> None:
    """Unless another phase is named; the first fetch moves it on."""
    air = Air()
    phases = [air.flights[one].phase for one in (air.waiting, air.scraping, air.settling)]
    assert phases == ["waiting", "scraping", "settling"]
    flight = air.flights[air.waiting]
    assert flight.settled is False
    assert flight.received is air.waiting
    await air.end()


async def test_what_is_cut_off_is_handed_back_once() -> None:
    """It stays in flight until somebody takes it. Its task is not counted."""
    air = Air()
    assert (len(air.flights), len(air.flights.tasks)) == (3, 3)
    assert air.flights.interrupt("waiting", "scraping") == 2
    assert (len(air.flights), len(air.flights.tasks)) == (3, 1)
    assert air.flights.take_unbegun() == [air.waiting, air.scraping]
    assert air.flights.take_unbegun() == []
    assert len(air.flights) == 1
    await air.end()


async def test_what_is_being_settled_is_not_handed_back() -> None:
    """Its outcome may be out: it is cancelled, and in flight until its task has ended."""
    air = Air()
    task = air.flights[air.settling].task
    assert air.flights.interrupt("settling") == 1
    assert air.flights.take_unbegun() == []
    assert task in air.flights.tasks
    await asyncio.wait([task], timeout=5)
    assert task.cancelled()
    assert len(air.flights) == 2
    await air.end()


async def test_a_task_that_has_ended_is_not_cut_off() -> None:
    """Between its end and the loop's next turn it is not counted, and nothing comes back of it."""
    air, flights = Air(), Flights()
    one = received(air.epoch)
    task = asyncio.create_task(asyncio.sleep(0))
    await task
    flights.start(one, task)
    assert flights.interrupt("waiting") == 0
    assert flights.take_unbegun() == []
    await asyncio.sleep(0)
    assert len(flights) == 0
    await air.end()


async def test_a_delivery_that_is_dropped_is_in_flight_no_more() -> None:
    """Though its task goes on; the end of that task, and a second drop, change nothing."""
    air = Air()
    task = air.flights[air.waiting].task
    air.flights.drop(air.waiting)
    air.flights.drop(air.waiting)
    assert (len(air.flights), task.done()) == (2, False)
    task.cancel()
    await asyncio.wait([task])
    assert len(air.flights) == 2
    await air.end()


async def test_an_old_task_does_not_end_a_new_flight() -> None:
    """A delivery that is given back is in flight again, until the task of that ends."""
    air = Air()
    first = air.flights[air.waiting].task
    air.flights.interrupt("waiting")
    [again] = air.flights.take_unbegun()
    second = air.start(again, "settling")
    await asyncio.wait([first], timeout=5)
    assert first.cancelled()
    assert air.flights[again].task is second
    second.cancel()
    await asyncio.wait([second])
    assert len(air.flights) == 2
    await air.end()


async def test_flights_are_found_by_their_epoch() -> None:
    """Only those of this one; the list holds while flights end beside it."""
    air, other = Air(), Owner()
    one = received(other)
    air.start(one)
    found = air.flights.of(other)
    air.flights.drop(one)
    assert [flight.received for flight in found] == [one]
    assert [flight.received for flight in air.flights.of(air.epoch)] == [
        air.waiting,
        air.scraping,
        air.settling,
    ]
    assert list(air.flights.of(other)) == []
    await air.end()
