"""Tests of the modes of consumers: the table in modes.py is the code's, and each row is driven.

May touch: a generation in memory, a clock of their own.
Must never: need a broker.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast, get_args

import pytest

from scraperd.base.clocks import Clocks
from scraperd.broker.ports import Source
from scraperd.broker.rabbitmq import modes
from scraperd.broker.rabbitmq.consumers import (
    COUNT_INTERVAL,
    MAX_SETTLING,
    MAX_SOLO,
    MAX_STARVED,
    Consumers,
    Prefetch,
)
from scraperd.broker.rabbitmq.generation import Consumer
from scraperd.broker.rabbitmq.modes import CONSUMES, NEXT, PAUSED, Event, Mode
from scraperd.broker.rabbitmq.topology import Topology

if TYPE_CHECKING:
    from collections.abc import Callable

    from scraperd.broker.rabbitmq.generation import Generation

TOPOLOGY = Topology("t")
NOW = 1000.0


def rows() -> list[list[str]]:
    """The cells of each row of the table in the docstring of modes.py."""
    found = re.findall(r"^\| ([a-z].*) \|$", modes.__doc__ or "", re.MULTILINE)
    cells = [[cell.strip() for cell in row.split("|")] for row in found]
    return [row for row in cells if row[0] != "mode"]


ROWS = rows()
STEPS = [(mode, event, after) for mode, _, event, after in ROWS if event]


@dataclass
class Broker:
    """A generation as its consumers see it: what they register, and what the broker counts."""

    now: float = NOW
    ready: dict[str, int] = field(default_factory=dict)
    unacked: int = 0
    processes: int = 1
    consumed: dict[Source, int] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    acks_kept: bool = False
    refused: bool = False
    cancelled_before_acks_were_kept: int = 0
    lost: asyncio.Future[str] = field(default_factory=asyncio.Future)

    async def consume(
        self, queue: str, source: Source, prefetch: int, _on_delivery: Callable[..., None]
    ) -> Consumer:
        assert source not in self.consumed, "two consumers of one queue"
        self.consumed[source] = prefetch
        return Consumer(queue, source, prefetch, fed_at=self.now, idle_from=self.now)

    async def cancel(self, consumer: Consumer) -> None:
        del self.consumed[consumer.source]
        self.cancelled_before_acks_were_kept += not self.acks_kept

    async def count(self, queue: str) -> tuple[int, int] | None:
        return self.ready.get(queue, 0), self.processes

    def keep_acks(self) -> None:
        self.acks_kept = True

    def end(self, reason: str) -> None:
        self.lost.set_result(reason)

    def event(self, event: str, **_: Any) -> None:
        self.said.append(event)


@pytest.fixture
async def broker() -> Broker:
    return Broker()


@pytest.fixture
def consumers(broker: Broker) -> Consumers:
    return Consumers(
        cast("Generation", broker),
        TOPOLOGY,
        Prefetch(40, 3),
        lambda _: None,
        broker.event,
        clocks=Clocks(lambda: broker.now, time.time, lambda: 0.5),
    )


async def solo_due(broker: Broker, consumers: Consumers) -> None:
    """A job waits in `solo`, and the time to count has come."""
    broker.ready[TOPOLOGY.solo] = 1
    broker.now += COUNT_INTERVAL
    await consumers.tick(blocked=False)


async def empty(broker: Broker, consumers: Consumers) -> None:
    """The last delivery is acked. Until then nothing changes."""
    before, broker.unacked = consumers.mode, 1
    await consumers.tick(blocked=False)
    assert consumers.mode == before
    broker.unacked = 0
    await consumers.tick(blocked=False)


async def solo_over(broker: Broker, consumers: Consumers) -> None:
    """The queue is empty and its last job is acked. Until then nothing changes."""
    broker.ready[TOPOLOGY.solo] = 1
    await consumers.tick(blocked=False)
    assert consumers.mode == "solo"
    broker.ready.clear()
    await consumers.tick(blocked=False)


async def blocked(_broker: Broker, consumers: Consumers) -> None:
    """The broker blocks publishers."""
    await consumers.tick(blocked=True)


async def unblocked(broker: Broker, consumers: Consumers) -> None:
    """The alarm is over. While it lasts nothing changes, even if nothing is unacked."""
    before, broker.unacked = consumers.mode, 0
    await consumers.tick(blocked=True)
    assert consumers.mode == before
    await consumers.tick(blocked=False)


DOING: dict[str, Any] = {
    "solo due": solo_due,
    "empty": empty,
    "solo over": solo_over,
    "blocked": blocked,
    "unblocked": unblocked,
}
WAYS: dict[Mode, tuple[Event, ...]] = {  # from the start to each mode
    "consuming": (),
    "paused": ("blocked",),
    "emptying": ("solo due",),
    "solo": ("solo due", "empty"),
    "solo paused": ("solo due", "empty", "blocked"),
    "leaving": ("solo due", "empty", "solo over"),
}


def test_the_table_is_the_codes() -> None:
    """The docstring has each transition of the code and no other, and what each mode consumes."""
    assert {(mode, event): after for mode, event, after in STEPS} == NEXT
    written = {mode: tuple(consumes.split(", ")) if consumes else () for mode, consumes, *_ in ROWS}
    assert written == {
        mode: tuple(source.name.lower() for source in sources) for mode, sources in CONSUMES.items()
    }
    assert set(CONSUMES) == set(get_args(Mode))
    assert {event for _, event in NEXT} == set(get_args(Event)) == set(DOING)


def test_each_mode_but_closed_can_be_left() -> None:
    """No mode is a trap; an alarm pauses each of them, and the end of the alarm resumes it."""
    assert {mode for mode, _ in NEXT} == set(CONSUMES) - {"closed"}
    for mode in set(CONSUMES) - {"closed"}:
        change: Event = "unblocked" if mode in PAUSED else "blocked"
        assert (mode, change) in NEXT


@pytest.mark.parametrize(("mode", "event", "after"), STEPS)
async def test_each_row(
    mode: Mode, event: Event, after: Mode, broker: Broker, consumers: Consumers
) -> None:
    """Brought into the mode, the consumers meet the event: they are what the next mode says."""
    await consumers.open()
    for step in WAYS[mode]:
        await DOING[step](broker, consumers)
    assert consumers.mode == mode
    await DOING[event](broker, consumers)
    assert consumers.mode == after
    assert tuple(broker.consumed) == CONSUMES[after]
    assert not broker.lost.done()


@pytest.mark.parametrize("mode", WAYS)
async def test_each_mode_can_be_closed(mode: Mode, broker: Broker, consumers: Consumers) -> None:
    """Closed, nothing is consumed, acks are kept, and no event changes that."""
    await consumers.open()
    for step in WAYS[mode]:
        await DOING[step](broker, consumers)
    before = broker.cancelled_before_acks_were_kept
    await consumers.close()
    assert broker.cancelled_before_acks_were_kept == before
    for is_blocked in (False, True, False):
        await consumers.tick(blocked=is_blocked)
    await consumers.open()
    assert (consumers.mode, broker.consumed, broker.acks_kept) == ("closed", {}, True)


async def test_how_many_of_each_queue(broker: Broker, consumers: Consumers) -> None:
    """The counts are those of the settings; undelivered jobs have their own, solo is one."""
    await consumers.open()
    quarantine, undelivered, jobs = broker.consumed.values()
    assert (jobs, quarantine, undelivered) == (40, 3, MAX_SETTLING)
    await solo_due(broker, consumers)
    await empty(broker, consumers)
    assert broker.consumed == {Source.SOLO: 1}


async def test_other_jobs_get_as_long_as_a_solo_job_took(
    broker: Broker, consumers: Consumers
) -> None:
    """After solo jobs that lasted a minute the next one waits for a minute."""
    await consumers.open()
    await solo_due(broker, consumers)
    await empty(broker, consumers)
    broker.now += MAX_SOLO + 1  # jobs keep coming: it is over all the same
    await consumers.tick(blocked=False)
    assert consumers.mode == "leaving"
    await empty(broker, consumers)
    assert broker.said == ["solo_begun", "solo_ended"]
    for _ in range(int(MAX_SOLO / COUNT_INTERVAL)):
        await solo_due(broker, consumers)
        assert consumers.mode == "consuming"
    await solo_due(broker, consumers)
    assert consumers.mode == "emptying"


@pytest.mark.parametrize(("processes", "jobs", "due"), [(1, 1, True), (4, 1, False), (4, 3, True)])
async def test_of_many_processes_few_empty_themselves(
    processes: int, jobs: int, *, due: bool, broker: Broker, consumers: Consumers
) -> None:
    """With an even roll a process takes its turn if there are solo jobs for half of them."""
    await consumers.open()
    broker.processes = processes
    broker.ready[TOPOLOGY.solo] = jobs
    await consumers.tick(blocked=False)
    assert (consumers.mode == "emptying") == due


async def test_a_starved_consumer_ends_the_generation(broker: Broker, consumers: Consumers) -> None:
    """Jobs are ready, there is room and none comes: after MAX_STARVED the generation ends."""
    await consumers.open()
    broker.ready[TOPOLOGY.jobs] = 7
    for _ in range(int(MAX_STARVED / COUNT_INTERVAL)):
        assert not broker.lost.done()
        await consumers.tick(blocked=False)
        broker.now += COUNT_INTERVAL
    await consumers.tick(blocked=False)
    assert broker.lost.result() == "7 jobs are ready and none came for 10 s"
    assert broker.said == ["consumer_starved"]
    await consumers.tick(blocked=True)
    assert consumers.mode == "consuming"  # a generation that is lost is not changed


@pytest.mark.parametrize("mode", WAYS)
async def test_the_status_line_tells_the_mode(
    mode: Mode, broker: Broker, consumers: Consumers
) -> None:
    """An operator reads whether jobs are consumed, one at a time, or not, and since when."""
    await consumers.open()
    for step in WAYS[mode]:
        await DOING[step](broker, consumers)
    if mode in PAUSED:
        assert re.fullmatch(
            r"blocked by the broker since \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ, not consuming",
            consumers.state,
        )
        broker.refused = True
        assert consumers.state.startswith("refused by the broker since ")
    else:
        alone = mode in {"emptying", "solo", "leaving"}
        wanted = "consuming jobs that came back, one at a time" if alone else "consuming"
        assert consumers.state == wanted
    await consumers.close()
    assert consumers.state == "not consuming"
