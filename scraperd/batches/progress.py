"""How far a batch is: the answer to who asks, and the question that the fleet understands. Pure.

May touch: the state of a batch, bytes.
Must never: raise because of bytes that another program wrote.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import msgspec
from msgspec import Struct, field

from scraperd.batches.records import ClosedRecord

if TYPE_CHECKING:
    from scraperd.batches.tally import Known

FORM: Final = 1  # of questions and answers; ops/fleet/answer.py says when it rises


class Progress(Struct, omit_defaults=True):
    """How far a batch is. Times in seconds since 1970; `kinds` counts outcomes by kind."""

    id: str
    state: Literal["open", "done", "expired", "unknown"]
    size: int = 0
    counted: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    started_at: int = 0
    last_at: int = 0
    ended_at: int = 0
    reason: str = ""

    @classmethod
    def of(cls, ident: str, batch: Known | None) -> Self:
        """Return what is known of a batch."""
        if batch is None:
            return cls(ident, "unknown")
        if isinstance(batch, ClosedRecord):
            return cls(
                ident,
                "expired" if batch.why else "done",
                batch.size,
                batch.counted,
                batch.kinds,
                started_at=batch.since,
                ended_at=batch.ended,
                reason=batch.why,
            )
        return cls(
            ident,
            "open",
            batch.size,
            len(batch.jobs),
            batch.kinds,
            started_at=batch.since,
            last_at=batch.last,
        )

    def values(self) -> dict[str, Any]:
        """Return it for JSON, with times as RFC 3339 dates; what is not known is left out."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        for name in ("started_at", "last_at", "ended_at"):
            if name in found:
                found[name] = shown(found[name])
        if self.state != "unknown":
            found = {"counted": 0, "kinds": {}, **found}
        return found


def shown(at: int) -> str:
    """Return a time in seconds since 1970 as an RFC 3339 date."""
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")


class _Question(Struct):
    ask: str
    batch: str
    form: int = FORM


class _Answer(Struct):
    """What of a process's answer is about batches."""

    batches: list[Progress] | None = None
    form: int = FORM


_answer: Final = msgspec.json.Decoder(_Answer)


def question(ident: str) -> bytes:
    """Return the question about a batch, or about the newest ones if `ident` is empty."""
    return msgspec.json.encode(_Question("batches", ident))


def read_answer(body: bytes) -> list[Progress] | None:
    """Return what the process says that tallies; None if this answer is not from that process."""
    try:
        found = _answer.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return found.batches if found.form == FORM else None
