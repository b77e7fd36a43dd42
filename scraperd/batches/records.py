"""What the tally writes into its own queue: the state of batches, and a mark. Pure.

May touch: values, notes.
Must never: raise over a message of another form; that is None.
"""

from __future__ import annotations

from array import array
from sys import byteorder
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec
from msgspec import Struct, field

from scraperd.jobs.batch.note import KEY_BYTES, Note

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_RECORD: Final = 256 * 1024  # bytes, about; the state of one batch may be larger
_SMALL: Final = 300  # bytes of a state without its jobs


class OpenRecord(Struct, frozen=True, tag="open", tag_field="is"):
    """An open batch: as in Open, with the hashes of jobs in a row by kind of outcome."""

    id: str
    size: int
    since: int
    last: int
    jobs: dict[str, bytes]
    callback: str = ""


class ClosedRecord(Struct, frozen=True, tag="closed", tag_field="is", omit_defaults=True):
    """A batch that has ended, with what its message says. Times in seconds since 1970.

    `why` is empty if all of its jobs had their outcome. `sent`: the message is out.
    """

    id: str
    size: int
    counted: int
    kinds: dict[str, int]
    since: int
    ended: int
    why: str = ""
    sent: bool = False
    callback: str = ""


State: TypeAlias = OpenRecord | ClosedRecord


class Record(Struct, frozen=True, tag="record", tag_field="what"):
    """The states of some batches, written by the holder with this token."""

    states: list[State] = field(default_factory=list)
    by: str = ""


class Mark(Struct, frozen=True, tag="mark", tag_field="what"):
    """What a new holder puts behind all that was in the queue before."""

    token: str


_decoder: Final = msgspec.json.Decoder(Note | Record | Mark)


def read(body: bytes) -> Note | Record | Mark | None:
    """Return what a message of the queue says; None if it is not one that this version knows."""
    try:
        found = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    rows = [
        row
        for state in (found.states if isinstance(found, Record) else ())
        if isinstance(state, OpenRecord)
        for row in state.jobs.values()
    ]
    return None if any(len(row) % KEY_BYTES for row in rows) else found


def records(states: Iterable[State], by: str) -> Iterator[Record]:
    """Yield records of all states, each of a bounded size, by the holder with this token."""
    held: list[State] = []
    size = 0
    for state in states:
        held.append(state)
        size += _SMALL
        if isinstance(state, OpenRecord):
            size += sum(map(len, state.jobs.values())) * 4 // 3  # base64
        if size >= MAX_RECORD:
            yield Record(held, by)
            held, size = [], 0
    if held:
        yield Record(held, by)


def packed(jobs: dict[int, str]) -> dict[str, bytes]:
    """Return the hashes of jobs in a row by kind."""
    rows: dict[str, array[int]] = {}
    for job, kind in jobs.items():
        if (row := rows.get(kind)) is None:
            row = rows[kind] = array("Q")
        row.append(job)
    for row in rows.values():
        _turn(row)
    return {kind: row.tobytes() for kind, row in rows.items()}


def keys_in(row: bytes) -> array[int]:
    """Return the hashes of a row."""
    found = array("Q", row)
    _turn(found)
    return found


def _turn(row: array[int]) -> None:
    """Machines of a fleet may differ in their byte order; a row is little-endian."""
    if byteorder == "big":
        row.byteswap()
