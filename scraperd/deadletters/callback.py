"""What a dead callback says of itself, and its message as it was made: for another ladder. Pure.

May touch: a delivery's body and headers, the keys of the fleet.
Must never: believe a note, but for what an operator asks to be sent again.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct
from msgspec.structs import replace

from scraperd.base.urls import host_of, without_credentials
from scraperd.jobs.callback.note import Note, Obituary

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scraperd.broker.ports import Delivery, Message
    from scraperd.deadletters.letter import Filters
    from scraperd.jobs.signing import Keys

REASONS: Final = ("exhausted", "gone", "blocked", "too_old", "forged", "internal", "unknown")
FORGED: Final = "forged"
_BEGINNING: Final = datetime.fromtimestamp(0, UTC)
_FURTHEST: Final = 1 << 37  # seconds since 1970; a later date has more than four digits


class CallbackLetter(Struct, frozen=True):
    """A dead callback, read. See Letter for what its texts are; it has no kind.

    `again` is the note of another ladder, sealed by `keys` when it is sent.
    """

    delivery: Delivery
    note: Note
    obituary: Obituary
    host: str | None
    keys: Keys
    again: Note
    kind: str | None = None

    @property
    def reason(self) -> str:
        """Why it is dead, in a word."""
        said = self.obituary.reason
        return said if said in REASONS else "unknown"

    @property
    def died(self) -> datetime | None:
        """Since when it is dead."""
        at = self.obituary.died
        return datetime.fromtimestamp(at, UTC) if 0 < at < _FURTHEST else None

    @property
    def ident(self) -> str | None:
        """The id of its job."""
        return self.note.job or None

    @property
    def job(self) -> Message:
        """What is published again."""
        return self.again.message(self.delivery.body, self.keys)

    def line(self, now: datetime) -> dict[str, Any]:
        """Return it in short. `age` is in seconds."""
        died = self.died
        return {
            "age": None if died is None else int((now - died).total_seconds()),
            "died": None if died is None else died.isoformat(timespec="seconds"),
            "reason": self.reason,
            "host": self.host,
            "to": without_credentials(self.note.to) if ":" in self.note.to else self.note.to,
            "attempt": self.note.attempt,
            "callback": self.note.ident,
            "id": self.ident,
            "message": self.obituary.why,
            "bytes": len(self.delivery.body),
        }

    def whole(self) -> dict[str, Any]:
        """Return it with its body."""
        line = self.line(_BEGINNING)
        del line["age"]
        return {**line, "body": self.delivery.body.decode(errors="replace")}


def read_callback(
    delivery: Delivery, *, keys: Keys, urls: Mapping[str, str], now: float
) -> CallbackLetter:
    """Return a delivery of the queue of dead callbacks as a letter. Never raises.

    `urls` are those of the endpoints, by which their hosts are known.
    """
    note = Note.unsealed(delivery.headers)
    url = urls.get(note.to, note.to)
    again = replace(note, since=int(now), attempt=1, due=0)
    return CallbackLetter(
        delivery, note, Obituary.of(delivery.headers), host_of(url) or None, keys, again
    )


def believed(filters: Filters) -> Filters:
    """Leave forged callbacks out of what is sent again, unless a reason was asked for."""
    if filters.reasons:
        return filters
    return replace(filters, reasons=frozenset(REASONS) - {FORGED})
