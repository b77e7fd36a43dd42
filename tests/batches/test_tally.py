"""The tally: merged in any order and any number of times it says the same; its bounds.

May touch: the pure tally and its records.
Must never: need a broker or a clock.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scraperd.batches.records import (
    MAX_RECORD,
    ClosedRecord,
    Mark,
    OpenRecord,
    Record,
    read,
    records,
)
from scraperd.batches.tally import Bounds, Tally
from scraperd.contract import Batch
from scraperd.jobs.batch.note import Note

BOUNDS = Bounds(max_open=3, max_jobs=50, expire_after=100, keep=1000)
NOTES = st.builds(
    Note,
    batch=st.sampled_from(["a", "b", "c"]),
    size=st.integers(3, 6),
    job=st.integers(0, 4),
    kind=st.sampled_from(["ok", "dns", "timeout"]),
    at=st.integers(1, 50),
)

TORN = (
    b'{"what":"record","states":[{"is":"open","id":"a","size":1,"since":1,"last":1,'
    b'"jobs":{"ok":"AAAA"}}]}'
)


def tally_of(*notes: Note, **bounds: Any) -> Tally:
    """A tally that has taken these notes at the time 100."""
    tally = Tally(replace(BOUNDS, **bounds))
    for note in notes:
        tally.note(note, 100)
    return tally


def note(batch: str, job: int, size: int = 2, at: int = 10, kind: str = "ok") -> Note:
    """A note."""
    return Note(batch, size, job, kind, at)


def states(tally: Tally) -> list[Any]:
    """What a tally knows, in an order of its own."""
    found = []
    for state in tally.states():
        if isinstance(state, OpenRecord):
            jobs = {kind: sorted(row[n : n + 8] for n in range(0, len(row), 8))
                    for kind, row in state.jobs.items()}  # fmt: skip
            found.append(("open", state.id, state.size, state.since, state.last, jobs))
        else:
            found.append(state)
    return sorted(found, key=repr)


def written(tally: Tally) -> list[Record]:
    """The records of a tally, through their bytes."""
    found = [read(msgspec.json.encode(record)) for record in records(tally.states(), "")]
    assert all(isinstance(record, Record) for record in found)
    return found  # type: ignore[return-value]


@settings(max_examples=60)
@given(notes=st.lists(NOTES, max_size=20), cut=st.integers(0, 20), seed=st.integers(0, 99))
def test_notes_and_records_can_come_in_any_order_and_twice(
    notes: list[Note], cut: int, seed: int
) -> None:
    """Records of a part, and all notes once more in another order, say what all notes say."""
    whole = tally_of(*notes)
    again = [*notes, *notes[:cut]]
    random.Random(seed).shuffle(again)
    other = Tally(BOUNDS)
    for record in written(tally_of(*notes[:cut])):
        other.merge(record.states)
    for one in again:
        other.note(one, 100)
    for record in written(whole):
        other.merge(record.states)
    assert states(other) == states(whole)
    assert other.jobs == whole.jobs
    assert {it.id for it in other.end(100)} == {it.id for it in whole.end(100)}


def test_a_batch_ends_once_and_stays_ended() -> None:
    """At the last job; duplicates before it and anything after it change nothing."""
    tally = tally_of(note("a", 1), note("a", 1), note("b", 1))
    assert tally.end(100) == []
    tally.note(note("a", 2, kind="dns", at=20), 100)
    ended = ClosedRecord("a", 2, 2, {"dns": 1, "ok": 1}, 10, 100)
    assert tally.end(100) == [ended]
    assert tally.note(note("a", 3), 101) == "late"
    tally.merge([OpenRecord("a", 2, 10, 10, {"ok": bytes(16)})])
    assert tally.end(101) == []
    assert tally.unsent == [ended]
    tally.sent([ended])
    tally.merge([ended])
    assert tally.unsent == []
    assert (tally.open, tally.jobs) == (1, 1)


def test_of_two_ends_of_a_batch_the_first_counts() -> None:
    """Two holders that did not know of one another agree in the end."""
    one = ClosedRecord("a", 2, 2, {"ok": 2}, 10, 100, sent=True)
    two = ClosedRecord("a", 2, 1, {"ok": 1}, 10, 99, "x")
    for pair in ([one, two], [two, one]):
        tally = Tally(BOUNDS)
        tally.merge(pair)
        assert list(tally.states()) == [msgspec.structs.replace(two, sent=True)]


def test_the_largest_size_counts() -> None:
    """Whichever job says it."""
    for notes in ([note("a", 1, 1), note("a", 2, 3)], [note("a", 2, 3), note("a", 1, 1)]):
        tally = tally_of(notes[0])
        assert tally.disagrees(notes[1])
        tally.note(notes[1], 100)
        assert tally.end(100) == []
        tally.note(note("a", 3, 1), 100)
        assert [it.counted for it in tally.end(100)] == [3]


def test_a_batch_without_news_expires() -> None:
    """After `expire_after` seconds without an outcome; a note from the future is one of now."""
    tally = tally_of(note("a", 1, at=50), note("b", 1, at=10**9))
    assert tally.expire(149) == []
    [ended] = tally.expire(150)
    assert (ended.id, ended.counted, ended.ended) == ("a", 1, 150)
    assert "batches.expire_after" in ended.why
    assert [it.id for it in tally.expire(200)] == ["b"]


@pytest.mark.parametrize(
    ("bounds", "setting"), [({"max_open": 2}, "max_open"), ({"max_jobs": 2}, "max_jobs")]
)
def test_of_too_many_the_idlest_ends(bounds: dict[str, int], setting: str) -> None:
    """Memory is bounded, and each batch has its end all the same."""
    given = [note("a", 1, at=20), note("b", 1, at=10), note("c", 1, at=30)]
    tally = tally_of(*given, **bounds)
    [ended] = tally.end(100)
    assert ended.id == "b"
    assert f"batches.{setting}" in ended.why


def test_what_ended_long_ago_is_forgotten_once_its_message_is_out() -> None:
    """Before that it is not, however old it is."""
    tally = tally_of(note("a", 1, 1))
    ended = tally.end(100)
    tally.forget(10**6)
    assert tally.unsent == ended
    tally.sent(ended)
    tally.forget(1099)
    assert tally.of("a") is not None
    tally.forget(1100)
    assert tally.of("a") is None


def test_a_job_that_is_run_again_opens_no_batch() -> None:
    """A dead letter may be published again long after its batch is forgotten."""
    again = Note.of(Batch("a", 2), b"job", "ok", 10.5, again=True)
    tally = tally_of()
    assert tally.note(again, 100) == "late"
    assert tally.open == 0
    assert tally_of(note("a", 1)).note(again, 100) == "counted"


def test_records_are_of_a_bounded_size() -> None:
    """A batch of the largest size is one message of a megabyte or so; others share messages."""
    tally = Tally(Bounds(max_open=10**6, max_jobs=10**6, expire_after=1, keep=1))
    for job in range(100_000):
        tally.note(note("large", job << 40, 100_000), 100)
    for number in range(2000):
        tally.note(note(f"b{number}", 1), 100)
    sizes = [len(msgspec.json.encode(record)) for record in records(tally.states(), "")]
    assert max(sizes) < 1_500_000
    assert sorted(sizes)[-2] < 2 * MAX_RECORD
    assert len(sizes) < 8


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"{}",
        b'{"what":"other"}',
        b"[" * 100_000,
        b'{"what":"note","batch":"a","size":0,"job":1,"kind":"ok","at":1}',
        b'{"what":"note","batch":"a","size":1,"job":-1,"kind":"ok","at":1}',
        TORN,
        b'{"what":"record","states":[{"is":"closed","id":"a"}]}',
    ],
)
def test_what_is_not_a_message_of_the_tally_is_none(body: bytes) -> None:
    """It never raises, whoever wrote it."""
    assert read(body) is None


def test_a_mark_is_read_back() -> None:
    """As it was written."""
    assert read(msgspec.json.encode(Mark("t"))) == Mark("t")
