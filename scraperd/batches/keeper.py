"""Keeps the tally while the broker gives this process the notes: writes it down, ends batches.

May touch: the tally, what the transport offers for it (Shelf), the clocks that it is handed.
Must never: ack what is not written down, or forget a batch whose message is not out.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

from msgspec import UNSET
from msgspec.structs import replace

from scraperd.batches.progress import Progress, shown
from scraperd.batches.records import ClosedRecord, Mark, Record, read, records
from scraperd.batches.tally import Bounds, Tally
from scraperd.broker.ports import Message, Own
from scraperd.contract import VERSION, Batch, BatchEnd, encode
from scraperd.jobs.batch.note import Note, is_sealed, sealed
from scraperd.jobs.callback.note import event_body, new_note, webhook_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from scraperd.base.clocks import Clocks
    from scraperd.config.tables import BatchSettings
    from scraperd.jobs.signing import Keys

MAX_UNWRITTEN: Final = 2000  # messages that are read and not acked, until all is written down
WRITE_INTERVAL: Final = 300.0  # seconds that one may be unacked; RabbitMQ's usual limit is 1800
LOOK_INTERVAL: Final = 1.0  # seconds between two looks for batches that expire
MAX_GRACE: Final = 3600.0  # seconds in which a new holder lets none expire: perhaps none ran before
RETRY_INTERVAL: Final = 2.0  # seconds until a message that was refused is published again
GROUP: Final = 100  # messages about ended batches that are published at a time
MAX_LISTED: Final = 100  # batches in an answer
TYPE: Final = "scraperd.batch"  # the property `type` of the message about a batch


class Shelf(Protocol):
    """What a transport offers to who has the queue of batches, while it has it."""

    async def keep(self, message: Message) -> None:
        """Put a message into the queue of batches, confirmed. Raises OSError."""

    async def tell(self, key: str, message: Message, ident: str) -> bool:
        """Publish to the readers of results, confirmed, with this message id.

        False if it is not taken now. Raises OSError.
        """

    async def post(self, message: Message) -> bool:
        """Put a message into the queue of callbacks, confirmed; False if it is not taken now.

        Raises OSError.
        """

    def ack(self, tag: int) -> None:
        """Ack all deliveries up to this one. Raises OSError."""


@dataclass(slots=True)
class Counts:
    """What was counted here: notes by what they were, batches by how they ended."""

    notes: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)


class Keeper:
    """The tally of the fleet, if the broker gives it to this process.

    `event` writes to the log. All is written down after `unwritten` messages, or after
    `write_interval` seconds.
    """

    def __init__(
        self,
        settings: BatchSettings,
        keys: Keys,
        event: Callable[..., None],
        clocks: Clocks,
        *,
        unwritten: int = MAX_UNWRITTEN,
        write_interval: float = WRITE_INTERVAL,
    ) -> None:
        self._bounds = Bounds(
            settings.max_open, settings.max_jobs, settings.expire_after, settings.keep
        )
        self._grace = min(settings.expire_after, MAX_GRACE)
        self._keys = keys
        self._event = event
        self._clocks = clocks
        self._most_unwritten = unwritten
        self._write_interval = write_interval
        self.counts = Counts()
        self._news = asyncio.Event()
        self.begin()

    def begin(self) -> None:
        """Forget all: deliveries of another session follow, and a process knew more meanwhile."""
        self._tally = Tally(self._bounds)
        self._token = ""
        self.holds = False
        """Whether this process has read all that there was, so that it can end batches."""
        self._last = 0  # the newest delivery
        self._unwritten = 0
        self._oldest = 0.0  # when the oldest of these came
        self._pending: list[ClosedRecord] = []
        self._again_at = self._look_at = 0.0
        self._said: set[str] = set()
        self._posted: set[str] = set()  # batches whose callback is out

    @property
    def open(self) -> int:
        """How many batches are open, as far as this process knows."""
        return self._tally.open

    def take(self, tag: int, body: bytes, headers: Mapping[str, Any]) -> None:
        """Take a delivery over, at once. Never raises for what it says."""
        if not self._unwritten:
            self._oldest = self._clocks.monotonic()
        self._last = tag
        self._unwritten += 1
        self._news.set()
        match read(body) if is_sealed(headers, body, self._keys) else None:
            case Note() as note:
                self._count(note)
            case Record(states, by):
                if not by or by != self._token:  # its own says nothing new
                    self._tally.merge(states)
            case Mark(token):
                if token == self._token and not self.holds:
                    self.holds = True
                    self._pending = self._tally.unsent
                    self._look_at = self._clocks.monotonic() + self._grace
                    self._event("tally_taken", batches=self._tally.open)
            case None:
                self.counts.notes["refused"] += 1
                if self._is_news("refused"):
                    self._event("batch_note_refused", bytes=len(body))

    def _count(self, note: Note) -> None:
        if self._tally.disagrees(note) and self._is_news(f"size of {note.batch}"):
            self._event("batch_sizes_differ", batch=note.batch, size=note.size)
        self.counts.notes[self._tally.note(note, self._now)] += 1

    def _is_news(self, about: str) -> bool:
        """Whether a matter is to be logged: each once, and MAX_LISTED matters at most."""
        if about in self._said or len(self._said) >= MAX_LISTED:
            return False
        self._said.add(about)
        return True

    @property
    def _now(self) -> int:
        return int(self._clocks.wall())

    async def hold(self, shelf: Shelf) -> None:
        """Keep the tally until cancelled, or until the transport raises OSError.

        Other processes may wait for the queue too: until the first delivery nothing is known.
        """
        try:
            await shelf.keep(sealed(Record(), self._keys))  # the process that has the queue gets it
            while True:
                self._news.clear()
                await self._turn(shelf)
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_INTERVAL if self._last else None):
                        await self._news.wait()
        finally:
            self.begin()

    async def _turn(self, shelf: Shelf) -> None:
        """Do what is due."""
        now = self._clocks.monotonic()
        if self._last and not self._token:
            self._token = secrets.token_hex(16)
            await shelf.keep(sealed(Mark(self._token), self._keys))
        waited = now - self._oldest >= self._write_interval
        if self._unwritten >= self._most_unwritten or (self._unwritten and waited):
            await self._write(shelf)
        if not self.holds:
            return
        ended = self._tally.end(self._now)
        if now >= self._look_at:
            self._look_at = now + LOOK_INTERVAL
            ended += self._tally.expire(self._now)
        if ended:
            await self._keep(shelf, ended)
            self._pending += ended
        if self._pending and now >= self._again_at:
            await self._tell(shelf)

    async def _write(self, shelf: Shelf) -> None:
        """Write all down, confirmed, and only then ack what was read before."""
        last, count, began = self._last, self._unwritten, self._clocks.monotonic()
        self._tally.forget(self._now)
        written = False
        for record in records(self._tally.states(), self._token):
            await shelf.keep(sealed(record, self._keys))
            written = True
        if not written:  # something must be left, or the next process would not know that it is
            await shelf.keep(sealed(Record(), self._keys))
        shelf.ack(last)
        self._unwritten -= count
        self._oldest = began

    async def _keep(self, shelf: Shelf, states: Iterable[ClosedRecord]) -> None:
        for record in records(states, self._token):
            await shelf.keep(sealed(record, self._keys))

    async def _tell(self, shelf: Shelf) -> None:
        """Publish the messages about ended batches; those that are refused again, later."""
        group = self._pending[:GROUP]
        taken = await asyncio.gather(*(self._told(shelf, it) for it in group))
        sent = [it for it, well in zip(group, taken, strict=True) if well]
        self._tally.sent(sent)
        await self._keep(shelf, [replace(it, sent=True) for it in sent])
        self._pending = [it for it in group if it not in sent] + self._pending[GROUP:]
        for state in sent:
            self._ended(state)
        if len(sent) < len(group):
            self._again_at = self._clocks.monotonic() + RETRY_INTERVAL
            if self._is_news("untold"):
                self._event("batch_message_refused", batches=len(self._pending))
        elif self._pending:
            self._news.set()

    async def _told(self, shelf: Shelf, state: ClosedRecord) -> bool:
        """Publish the message about a batch, after its callback; False if one is not taken."""
        if state.callback and state.id not in self._posted:
            if not await shelf.post(callback_of(state, self._keys)):
                return False
            self._posted.add(state.id)
        taken = await shelf.tell(key_of(state), message_of(state), ident_of(state))
        if taken:
            self._posted.discard(state.id)
        return taken

    def _ended(self, state: ClosedRecord) -> None:
        ident, size, counted = state.id, state.size, state.counted
        self.counts.ended["expired" if state.why else "done"] += 1
        if state.why:
            self._event("batch_expired", batch=ident, size=size, counted=counted, reason=state.why)
        else:
            self._event("batch_done", batch=ident, size=size, counted=counted)

    def progress(self, ident: str) -> Progress:
        """Return what is known of a batch. For the process that holds the tally."""
        return Progress.of(ident, self._tally.of(ident))

    def listed(self) -> list[Progress]:
        """Return what is known of the newest batches."""
        return [Progress.of(ident, it) for ident, it in self._tally.newest(MAX_LISTED)]


def key_of(state: ClosedRecord) -> str:
    """Return the routing key of the message about an ended batch."""
    return "batch.expired" if state.why else "batch.done"


def ident_of(state: ClosedRecord) -> str:
    """Return the message id: made of the batch's id alone, so that a copy has the same."""
    return f"batch-{hashlib.sha256(state.id.encode()).hexdigest()[:32]}"


def callback_of(state: ClosedRecord, keys: Keys) -> Message:
    """Return the callback about an ended batch; a copy has the same `webhook-id` and body."""
    at = datetime.fromtimestamp(state.ended, UTC)
    ident = webhook_id(keys, f"batch {state.id}", 0, b"")
    note = new_note(state.callback, ident, state.id, at)
    return note.message(event_body(TYPE, at, message_of(state).body), keys)


def message_of(state: ClosedRecord) -> Message:
    """Return the message about an ended batch: made of its record alone, so a copy is alike."""
    body = encode(
        BatchEnd(
            event="batch.expired" if state.why else "batch.done",
            batch=Batch(state.id, state.size),
            counted=state.counted,
            kinds=state.kinds,
            missing=max(0, state.size - state.counted),
            reason=state.why or UNSET,
            started_at=shown(state.since),
            ended_at=shown(state.ended),
            contract_version=VERSION,
        )
    )
    own = Own(type=TYPE, app_id="scraperd", timestamp=state.ended)
    return Message(body, correlation_id=state.id, own=own)
