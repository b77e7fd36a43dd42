"""Which rules are in force in a process, and what they say of a job.

May touch: the room, with a clock of the test's; a loop for its timers.
Must never: need a broker.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from scraperd.base.clocks import Clocks
from scraperd.contract import Job, decode_job
from scraperd.control.desk import rule_of
from scraperd.control.force import UNKNOWN_FOR, RulesInForce
from scraperd.control.rules import RuleSet, matched
from scraperd.control.stored import written
from scraperd.jobs.signing import Keys
from scraperd.politeness.admission import NotYet
from scraperd.scrape.result import Failed

NOW = 1_800_000_000.0
HOST = "www.example.com"


@dataclass
class Fleet:
    """Rules in force, a clock that the test moves, and what was told."""

    now: float = NOW
    events: list[str] = field(default_factory=list)
    changes: int = 0
    quiet: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        clocks = Clocks(lambda: self.now, lambda: self.now, lambda: 0.5)
        self.keys = Keys([b"k" * 32], "p", lambda: self.now)
        self.force = RulesInForce(self.keys, lambda event, **_: self.events.append(event), clocks)
        self.force.on_change = self.changed

    def changed(self) -> None:
        self.changes += 1
        if self.force.quiet:
            self.quiet.set()

    def take(self, version: int, *rules: tuple[Any, str, float]) -> None:
        """A set comes: what each rule does, to what, for how many seconds."""
        made = (rule_of(do, matched(what), "", NOW, NOW + span) for do, what, span in rules)
        message = written(RuleSet(version, tuple(made)), self.keys)
        self.force.take(message.body, message.headers)


def job(**fields: Any) -> Job:
    found = decode_job(json.dumps({"url": f"http://{HOST}/", **fields}).encode(), 10_000)
    assert isinstance(found, Job)
    return found


async def test_the_highest_version_is_in_force_when_all_is_read() -> None:
    """In any order; a lower one and a forged one change nothing."""
    fleet = Fleet()
    fleet.take(3, ("cancel", "id=new", 9))
    fleet.take(2, ("cancel", "id=old", 9))
    assert (fleet.force.version, fleet.changes) == (0, 0)
    fleet.force.settle()
    assert (fleet.force.version, fleet.changes) == (3, 1)
    fleet.take(1)
    fleet.force.take(b"{}", {})
    fleet.force.settle()
    assert (fleet.force.version, fleet.force.refused, fleet.changes) == (3, 1, 1)
    assert fleet.events == ["rules_changed", "rules_refused"]
    assert isinstance(fleet.force.look(job(), "new", HOST), Failed)
    assert fleet.force.look(job(), "old", HOST) is None
    fleet.force.nothing()
    assert fleet.force.quiet


async def test_the_first_jobs_wait_until_the_rules_are_known() -> None:
    """Not longer than the rules take to be read."""
    fleet = Fleet()
    asks = asyncio.create_task(fleet.force.held(job(), "a", HOST))
    await asyncio.sleep(0)
    assert not asks.done()
    assert not fleet.force.quiet
    fleet.take(1, ("cancel", "id=a", 9))
    fleet.force.settle()
    assert isinstance(await asks, Failed)


async def test_jobs_do_not_wait_for_ever_for_rules_that_cannot_be_read() -> None:
    """Once the time is over, no further job waits."""
    fleet = Fleet()
    loop = asyncio.get_running_loop()
    assert await fleet.force.held(job(), "a", HOST) is None
    began = loop.time()
    for _ in range(100):
        assert await fleet.force.held(job(), "a", HOST) is None
    assert loop.time() - began < UNKNOWN_FOR


async def test_a_paused_job_comes_back_at_the_end_or_after_as_long_again() -> None:
    """A pause that ends soon, one that lasts, and one whose end has passed; a cancel goes first."""
    fleet = Fleet()
    fleet.take(1, ("pause", "host=*.example.com", 7000), ("cancel", "batch=b", 9))
    fleet.force.settle()

    def put_off() -> NotYet | Failed | None:
        return fleet.force.look(job(), "a", HOST)

    for after, wait in ((0, 15), (100, 100), (3599, 3401), (6990, 10), (7000, None)):
        fleet.now = NOW + after
        assert put_off() == (None if wait is None else NotYet(HOST, wait))
    fleet.now = NOW
    assert fleet.force.look(job(), "a", HOST, begun=True) is None
    assert fleet.force.paused(HOST) == NotYet(HOST, 15)
    assert fleet.force.paused("example.com") is None
    both = job(id="a", batch={"id": "b", "size": 1})
    assert isinstance(fleet.force.look(both, "a", HOST, begun=True), Failed)
    assert sorted(fleet.force.touched.values()) == [1, 4]


async def test_a_rule_ends_by_itself() -> None:
    """The process is told, and is quiet when the last one has ended."""
    fleet = Fleet()
    fleet.take(1, ("pause", "host=*", 0.02))
    fleet.force.settle()
    assert fleet.force.pauses_hosts
    fleet.now = NOW + 1
    await fleet.quiet.wait()
    assert not fleet.force.pauses_hosts
    assert fleet.changes == 2
