"""The keeper is killed at each of its steps: no message is lost, and a copy is like the first.

May touch: the keeper, with a queue in memory that redelivers as RabbitMQ's does.
Must never: need a broker; tests/e2e/test_batches.py has the real one.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from msgspec.structs import replace

from scraperd.base.clocks import Clocks
from scraperd.batches.keeper import Keeper
from scraperd.config.tables import BatchSettings
from scraperd.contract import Batch, BatchEnd
from scraperd.jobs.batch.note import SEAL, Note, sealed
from scraperd.jobs.callback.note import Note as CallbackNote
from scraperd.jobs.signing import Keys

if TYPE_CHECKING:
    from collections.abc import Callable

    from scraperd.broker.ports import Message

KEYS = Keys([b"secret"], "scraperd", time.time)
SETTINGS = BatchSettings(enabled=True)
SIZE = 5
PROGRESS = {
    "id": "monday",
    "state": "open",
    "size": SIZE,
    "counted": SIZE - 1,
    "kinds": {"ok": SIZE - 1},
    "started_at": "1970-01-01T00:16:30Z",
    "last_at": "1970-01-01T00:16:30Z",
}


class KilledError(OSError):
    """The process is gone: nothing more of it is done."""


@dataclass
class Queue:
    """The queue of batches, with a single consumer, and the readers of results.

    The consumer is killed before the step `kill_at`; a step is a publish or an ack.
    """

    ready: deque[Message] = field(default_factory=deque)
    unacked: deque[Message] = field(default_factory=deque)
    told: list[tuple[str, str, bytes]] = field(default_factory=list)
    posted: list[Message] = field(default_factory=list)
    kill_at: int = 10**9
    refuse: int = 0  # so many messages about batches
    patient: bool = False  # it is served until there is a message
    steps: int = 0
    sent: int = 0
    acked: int = 0

    def step(self) -> None:
        self.steps += 1
        if self.steps >= self.kill_at:
            raise KilledError

    async def keep(self, message: Message) -> None:
        """Take a message; see Shelf."""
        self.step()
        self.ready.append(message)
        await asyncio.sleep(0)
        self.step()

    async def tell(self, key: str, message: Message, ident: str) -> bool:
        """Take the message about a batch; see Shelf."""
        self.step()
        if self.refuse:
            self.refuse -= 1
            return False
        self.told.append((key, ident, message.body))
        await asyncio.sleep(0)
        self.step()
        return True

    async def post(self, message: Message) -> bool:
        """Take a callback; see Shelf."""
        self.step()
        self.posted.append(message)
        await asyncio.sleep(0)
        self.step()
        return True

    def ack(self, tag: int) -> None:
        """Ack; see Shelf."""
        self.step()
        for _ in range(tag - self.acked):
            self.unacked.popleft()
        self.acked = tag

    async def serve(self, keeper: Keeper, look: Callable[[], None] = lambda: None) -> bool:
        """Let a keeper have the queue until nothing happens any more; False if it was killed.

        `look` is called before it ends.
        """
        self.ready = self.unacked + self.ready  # what was unacked comes first
        self.unacked, self.sent, self.acked, self.steps = deque(), 0, 0, 0
        keeper.begin()
        held = asyncio.ensure_future(keeper.hold(self))
        try:
            idle = 0
            while (idle < 20 or (self.patient and not self.told)) and not held.done():
                idle = 0 if self.ready else idle + 1
                if self.ready:
                    message = self.ready.popleft()
                    self.unacked.append(message)
                    self.sent += 1
                    keeper.take(self.sent, message.body, message.headers)
                await asyncio.sleep(0)
            look()
            return not held.done()
        finally:
            held.cancel()
            await asyncio.gather(held, return_exceptions=True)


def new_keeper(
    wall: float = 1000.0,
    said: list[Any] | None = None,
    unwritten: int = 2000,
    monotonic: Callable[[], float] = time.monotonic,
    settings: BatchSettings = SETTINGS,
) -> Keeper:
    """A keeper at a time of day."""
    log = [] if said is None else said
    clocks = Clocks(monotonic, lambda: wall, lambda: 0.5)

    def event(name: str, **fields: Any) -> None:
        log.append((name, fields))

    return Keeper(settings, KEYS, event, clocks, unwritten=unwritten)


async def until_told(queue: Queue, keeper: Keeper) -> bool:
    """Let a keeper have the queue, and look again and again, until it has published a message."""
    queue.patient = True
    serving = asyncio.ensure_future(queue.serve(keeper))
    while not queue.told:
        keeper._news.set()  # as the next look a second later would
        await asyncio.sleep(0)
    return await serving


def notes(count: int = SIZE, batch: str = "monday") -> list[Message]:
    """The notes of the jobs of a batch."""
    told = (Note.of(Batch(batch, SIZE), b"%d" % n, "ok", 990.0, again=False) for n in range(count))
    return [sealed(note, KEYS) for note in told]


@pytest.fixture(params=[3, 2000])
def unwritten(request: pytest.FixtureRequest) -> int:
    """After how many messages all is written down: now and then, or not at all."""
    return int(request.param)


async def test_whenever_it_is_killed_the_message_comes_and_copies_are_alike(unwritten: int) -> None:
    """A kill before each step: never none, and never two that differ in id or in a byte."""
    copies, at = [], 1
    while True:
        queue = Queue(deque([*notes(), *notes(2)]), kill_at=at)
        alive = await queue.serve(new_keeper(1000, unwritten=unwritten))
        queue.kill_at = 10**9
        assert await queue.serve(new_keeper(2000, unwritten=unwritten))
        assert await queue.serve(new_keeper(3000))
        assert len(set(queue.told)) == 1
        copies.append(len(queue.told))
        if alive:
            break
        at += 1
    assert at > 10
    # After the message was taken: before its confirm, before the last record, and before that is
    # taken.
    assert sum(count - 1 for count in copies) <= 3
    assert max(copies) == 2
    [(key, ident, body)] = set(queue.told)
    assert (key, len(ident)) == ("batch.done", 38)
    end = msgspec.json.decode(body, type=BatchEnd)
    assert (end.batch, end.counted, end.kinds) == (Batch("monday", SIZE), SIZE, {"ok": SIZE})


async def test_killed_again_and_again_it_gets_on(unwritten: int) -> None:
    """Ten batches, and a kill after each few steps: each has its message, and nothing piles up."""
    queue = Queue(deque(message for n in range(10) for message in notes(batch=f"b{n}")))
    for kill_at in range(3, 40):
        queue.kill_at = kill_at
        await queue.serve(new_keeper(unwritten=unwritten))
    queue.kill_at = 10**9
    assert await queue.serve(new_keeper(unwritten=unwritten))
    assert len({ident for _, ident, _ in queue.told}) == 10
    assert len(set(queue.told)) == 10
    if unwritten == 3:
        assert len(queue.unacked) <= 3


async def test_a_new_holder_ends_nothing_before_it_has_read_all() -> None:
    """The record that the message is out lies behind the notes, and is read before they count."""
    queue = Queue(deque(notes()))
    assert await queue.serve(new_keeper())
    assert len(queue.told) == 1
    queue.unacked.reverse()  # the worst order
    assert await queue.serve(new_keeper())
    assert len(queue.told) == 1


async def test_a_message_that_is_refused_is_published_later() -> None:
    """A full results queue holds up no note, and loses no message."""
    ticks = itertools.count(step=0.5)  # a clock on which each look is half a second later
    said: list[Any] = []
    queue = Queue(deque([*notes(), *notes(3, "other")]), refuse=2)
    keeper = new_keeper(said=said, monotonic=lambda: next(ticks))
    assert await until_told(queue, keeper)
    assert [event for event, _ in said] == ["tally_taken", "batch_message_refused", "batch_done"]
    assert keeper.counts.notes == {"counted": 8}


async def test_the_callback_of_a_batch_is_out_before_its_message() -> None:
    """With the same body and the same id after each kill, and once if the message is refused."""
    told = (
        Note.of(Batch("monday", SIZE), b"%d" % n, "ok", 990.0, "billing", again=False)
        for n in range(SIZE)
    )
    given = [sealed(note, KEYS) for note in told]
    for kill_at in range(1, 30):
        queue = Queue(deque(given), kill_at=kill_at)
        await queue.serve(new_keeper())
        assert bool(queue.posted) >= bool(queue.told)
        queue.kill_at = 10**9
        assert await queue.serve(new_keeper(2000))
        assert len({(one.body, str(one.headers)) for one in queue.posted}) == 1
    note = CallbackNote.of(queue.posted[0].headers, queue.posted[0].body, KEYS)
    assert note is not None
    assert (note.to, note.job, note.ident[:4]) == ("billing", "monday", "msg_")
    event = json.loads(queue.posted[0].body)
    assert event["type"] == "scraperd.batch"
    assert event["data"] == json.loads(queue.told[0][2])
    refusing = Queue(deque(given), refuse=2)
    ticks = itertools.count(step=0.5)
    assert await until_told(refusing, new_keeper(monotonic=lambda: next(ticks)))
    assert (len(refusing.posted), len(refusing.told)) == (1, 1)


async def test_strangers_cannot_count() -> None:
    """Without the seal of the fleet, or with one of another message, a note is dropped."""
    said: list[Any] = []
    good, other = notes(2)
    forged = [
        replace(good, headers={}),
        replace(good, headers={SEAL: 7}),
        replace(good, headers=other.headers),
        sealed(Note("monday", SIZE, 1, "ok", 1), Keys([b"other"], "scraperd", time.time)),
    ]
    keeper = new_keeper(said=said)
    queue = Queue(deque([*forged, *notes(SIZE - 1)]))

    def look() -> None:
        assert keeper.holds
        assert keeper.progress("monday").values() == PROGRESS
        assert keeper.progress("other").values() == {"id": "other", "state": "unknown"}
        assert [batch.id for batch in keeper.listed()] == ["monday"]

    assert await queue.serve(keeper, look)
    assert queue.told == []
    assert keeper.counts.notes == {"refused": 4, "counted": SIZE - 1}
    assert [event for event, _ in said].count("batch_note_refused") == 1


async def test_an_expired_batch_says_what_is_missing() -> None:
    """Its message has another routing key, and the same id that a message of its end would have."""
    queue = Queue(deque(notes(2)))
    assert await queue.serve(new_keeper(990 + 86400))  # it has only just begun
    assert queue.told == []
    ticks = itertools.count(step=4.0)  # so that it has not only just begun
    short = replace(SETTINGS, expire_after=10)
    keeper = new_keeper(1000, settings=short, monotonic=lambda: next(ticks))
    assert await until_told(queue, keeper)
    [(key, ident, body)] = queue.told
    end = json.loads(body)
    assert key == end["event"] == "batch.expired"
    assert (end["counted"], end["missing"]) == (2, 3)
    assert "batches.expire_after" in end["reason"]
    other = Queue(deque(notes()))
    assert await other.serve(new_keeper())
    assert other.told[0][1] == ident
