"""The state of all batches, as values that can be merged in any order and repeatedly. Pure.

May touch: notes, records, times that are handed in.
Must never: read a clock, or count a job twice.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TYPE_CHECKING, Final, TypeAlias

from msgspec.structs import replace

from scraperd.batches.records import ClosedRecord, OpenRecord, keys_in, packed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from scraperd.batches.records import State
    from scraperd.jobs.batch.note import Note

OK: Final = "ok"
MAX_CLOSED: Final = 10_000  # ended batches that are remembered


@dataclass(slots=True)
class Open:
    """A batch of which jobs are missing. Times in seconds since 1970.

    `jobs` has the kind of outcome by the hash of each job that has one, `counts` how many have
    each kind.
    """

    size: int
    since: int
    last: int
    jobs: dict[int, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    callback: str = ""

    def learn(self, size: int, since: int, last: int, callback: str) -> None:
        """Take what a note or a record says of the batch itself."""
        self.size = max(self.size, size)
        self.since, self.last = min(self.since, since), max(self.last, last)
        self.callback = max(self.callback, callback)  # whichever comes first

    @property
    def complete(self) -> bool:
        """Whether all of its jobs have their outcome."""
        return len(self.jobs) >= self.size

    @property
    def kinds(self) -> dict[str, int]:
        """How many of its jobs had each kind of outcome, in one order."""
        return {kind: count for kind, count in sorted(self.counts.items()) if count}

    def count(self, job: int, kind: str) -> bool:
        """Count a job; False if it was counted before.

        Of two kinds `ok` wins, else the first by name: so it does not matter which comes first.
        """
        known = self.jobs.get(job)
        if known is None:
            self.jobs[job] = kind
            self.counts[kind] += 1
            return True
        if known not in (kind, OK) and (kind == OK or kind < known):
            self.jobs[job] = kind
            self.counts[kind] += 1
            self.counts[known] -= 1
        return False


Known: TypeAlias = Open | ClosedRecord


@dataclass(slots=True)
class Bounds:
    """How many batches may be open, how many jobs they may have together, and for how long.

    `expire_after` is in seconds without an outcome, `keep` in seconds after the end.
    """

    max_open: int
    max_jobs: int
    expire_after: float
    keep: float


class Tally:
    """All batches by their ids, in the order of their last outcome or of their end."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._open: dict[str, Open] = {}
        self._closed: dict[str, ClosedRecord] = {}
        self._complete: dict[str, None] = {}
        self.jobs = 0
        """Jobs of open batches that are counted."""

    @property
    def open(self) -> int:
        """How many batches are open."""
        return len(self._open)

    def of(self, ident: str) -> Known | None:
        """Return what is known of a batch."""
        return self._open.get(ident) or self._closed.get(ident)

    def newest(self, most: int) -> Iterator[tuple[str, Known]]:
        """Yield batches, the open ones first, each kind by its last news."""
        idents = chain(reversed(self._open), reversed(self._closed))
        for ident in [*islice(idents, most)]:
            if (batch := self.of(ident)) is not None:
                yield ident, batch

    def note(self, note: Note, now: int) -> str:
        """Take a note at the time `now`. Return what it was: counted, duplicate, or late."""
        if note.batch in self._closed:
            return "late"
        batch = self._open.pop(note.batch, None)
        if batch is None:
            if note.again:
                return "late"
            batch = Open(note.size, min(note.at, now), 0)
        self._open[note.batch] = batch  # the newest is last
        batch.learn(note.size, note.at, min(note.at, now), note.callback)
        new = batch.count(note.job, note.kind)
        self.jobs += new
        self._look(note.batch, batch)
        return "counted" if new else "duplicate"

    def disagrees(self, note: Note) -> bool:
        """Whether the note has another size than the notes of its batch before."""
        batch = self._open.get(note.batch)
        return batch is not None and batch.size != note.size

    def merge(self, states: Iterable[State]) -> None:
        """Take what a record says."""
        for state in states:
            if isinstance(state, ClosedRecord):
                self._merge_closed(state)
            elif state.id not in self._closed:
                self._merge_open(state)

    def _merge_closed(self, state: ClosedRecord) -> None:
        self._drop(state.id)
        known = self._closed.get(state.id)
        if known is not None:
            sent = known.sent or state.sent
            state = replace(min(known, state, key=_first), sent=sent)
        self._closed[state.id] = state

    def _merge_open(self, state: OpenRecord) -> None:
        batch = self._open.setdefault(state.id, Open(state.size, state.since, state.last))
        batch.learn(state.size, state.since, state.last, state.callback)
        for kind, jobs in state.jobs.items():
            self.jobs += sum(batch.count(job, kind) for job in keys_in(jobs))
        self._look(state.id, batch)

    def _look(self, ident: str, batch: Open) -> None:
        if batch.complete:
            self._complete[ident] = None
        else:
            self._complete.pop(ident, None)

    def _drop(self, ident: str) -> None:
        batch = self._open.pop(ident, None)
        if batch is not None:
            self.jobs -= len(batch.jobs)
            self._complete.pop(ident, None)

    def end(self, now: int) -> list[ClosedRecord]:
        """End the batches that are complete, and those that are too many; return them."""
        ended = [self._close(ident, now) for ident in list(self._complete)]
        while (why := self._crowded) and self._open:
            idlest = min(self._open, key=lambda ident: self._open[ident].last)
            ended.append(self._close(idlest, now, why))
        return ended

    def expire(self, now: int) -> list[ClosedRecord]:
        """End the batches that had no outcome for long; return them."""
        why = f"no outcome for {self._bounds.expire_after:g} s (batches.expire_after)"
        limit = now - self._bounds.expire_after
        idle = [ident for ident, batch in self._open.items() if batch.last <= limit]
        return [self._close(ident, now, why) for ident in idle]

    @property
    def _crowded(self) -> str:
        """Why a batch must end before its time; empty if none must."""
        if len(self._open) > self._bounds.max_open:
            return f"more than {self._bounds.max_open} batches were open (batches.max_open)"
        if self.jobs > self._bounds.max_jobs:
            most = self._bounds.max_jobs
            return f"open batches had more than {most} counted jobs (batches.max_jobs)"
        return ""

    def _close(self, ident: str, now: int, why: str = "") -> ClosedRecord:
        batch = self._open[ident]
        kinds = batch.kinds
        counted, callback = len(batch.jobs), batch.callback
        state = ClosedRecord(
            ident, batch.size, counted, kinds, batch.since, now, why, callback=callback
        )
        self._drop(ident)
        self._closed[ident] = state
        return state

    def sent(self, states: Iterable[ClosedRecord]) -> None:
        """Note that the messages about these are out."""
        for state in states:
            self._closed[state.id] = replace(state, sent=True)

    @property
    def unsent(self) -> list[ClosedRecord]:
        """The ended batches whose message may not be out."""
        return [state for state in self._closed.values() if not state.sent]

    def forget(self, now: int) -> None:
        """Forget what ended long ago, and the oldest of too many."""
        out = [it for it in self._closed.values() if it.sent]
        out.sort(key=_first)
        surplus = len(self._closed) - MAX_CLOSED
        for place, state in enumerate(out):
            if place < surplus or state.ended <= now - self._bounds.keep:
                del self._closed[state.id]

    def states(self) -> Iterator[State]:
        """Yield all there is to write down now. Notes may be taken between two of them."""
        for ident in (*self._closed, *self._open):
            match self.of(ident):
                case Open() as batch:
                    rows = packed(batch.jobs)
                    yield OpenRecord(
                        ident, batch.size, batch.since, batch.last, rows, batch.callback
                    )
                case ClosedRecord() as state:
                    yield state


def _first(state: ClosedRecord) -> tuple[int, str, int]:
    return state.ended, state.why, state.counted
