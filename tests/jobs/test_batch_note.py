"""The note on a job of a batch: when it is published, after what, and what it says.

May touch: the settler, with a publisher that remembers.
Must never: need a broker; tests/e2e/test_batches.py has one.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from scraperd.base.clocks import Clocks
from scraperd.broker.ports import Batches, Delivery, Limits, Source
from scraperd.contract import Batch, Failure, Result
from scraperd.jobs.batch.note import Note, is_sealed
from scraperd.jobs.outcome import Outcome
from scraperd.jobs.quarantine import Discounts
from scraperd.jobs.received import Received
from scraperd.jobs.settle import Settler
from scraperd.jobs.signing import Keys
from scraperd.jobs.verdict import Dead, Done, Retry, Snooze, Verdict
from tests.rig.deliveries import Owner, acked

if TYPE_CHECKING:
    from scraperd.broker.ports import Destination, Epoch, Message

KEYS = Keys([b"k"], "team", time.time)
DEAD = Failure("timeout", "")
LIMITS = Limits(2**20, 1800)


@dataclass
class Published:
    """A publisher that remembers."""

    to: list[tuple[Destination, Message]] = field(default_factory=list)

    async def publish(self, _epoch: Epoch, to: Destination, message: Message, _: float) -> None:
        self.to.append((to, message))

    def wait_within(self, seconds: float) -> float:
        return seconds

    def wait_at_least(self, seconds: float) -> float:
        return seconds

    def let_go(self) -> None:
        """Nothing waits here."""


async def settled(
    verdict: Verdict, *, failure: Failure | None = None, run: int = 1, named: str = "a"
) -> list[tuple[Destination, Message]]:
    """What is published for a job of a batch that ends so."""
    delivery = Delivery(b'{"id": "a"}', {}, Source.JOBS, Owner(), acked)
    received = Received.of(delivery, KEYS, Discounts(), 10, now=1000.0)
    received.named(named or None, msgspec.UNSET, None)
    received.batch = Batch("monday", 3)
    error = failure or msgspec.UNSET
    status: Any = "failed" if failure else "ok"
    result = Result(id=received.name, run=run, status=status, error=error, attempt=1)
    published = Published()
    settler = Settler(published, LIMITS, KEYS, Clocks(time.monotonic, lambda: 1000.9, lambda: 0.5))
    assert await settler.settle(received, Outcome.of(result, 2**20), verdict)
    return published.to


def note_in(message: Message) -> Note:
    """The note of a message, which has the fleet's seal."""
    assert is_sealed(message.headers, message.body, KEYS)
    return msgspec.json.decode(message.body, type=Note)


@pytest.mark.parametrize(
    ("verdict", "failure", "published"),
    [
        (Done(), None, ["Results", "Batches"]),
        (Done(), DEAD, ["Results", "Batches"]),
        (Dead("timeout"), DEAD, ["Results", "Batches", "Into"]),
        (Dead("timeout", tell=False), DEAD, ["Batches", "Into"]),
        (Retry(1.0), DEAD, ["Delay"]),
        (Snooze("x", 1.0), None, ["Delay"]),
    ],
)
async def test_an_outcome_is_noted_after_its_result(
    verdict: Verdict, failure: Failure | None, published: list[str]
) -> None:
    """And before the dead letter; what is not an outcome is not noted."""
    out = await settled(verdict, failure=failure)
    assert [type(to).__name__ for to, _ in out] == published
    for to, message in out:
        if isinstance(to, Batches):
            note = note_in(message)
            kind = failure.kind if failure else "ok"
            assert (note.batch, note.size, note.kind, note.at) == ("monday", 3, kind, 1000)
            assert not note.again


async def test_a_job_has_one_hash_by_its_id_or_by_its_bytes() -> None:
    """So that its redelivery counts once, also where its id could not be read."""
    notes = [note_in((await settled(Done(), named=name))[-1][1]) for name in ("a", "b", "", "")]
    first, second, *nameless = (note.job for note in notes)
    assert first != second
    assert nameless[0] == nameless[1] != first
    assert all(0 <= note.job < 2**63 for note in notes)


async def test_the_job_of_a_dead_letter_says_so() -> None:
    """It is run again, perhaps long after its batch has ended."""
    assert note_in((await settled(Done(), run=2))[-1][1]).again
