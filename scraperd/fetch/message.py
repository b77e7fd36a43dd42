"""The two messages of one hop, and the headers that tell a time or another place. Pure.

May touch: nothing but the values it is given; the wall clock, if the caller gives no `now`.
Must never: do I/O, or import aiohttp.
"""

from __future__ import annotations

import contextlib
import email.utils
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from multidict import CIMultiDictProxy
    from yarl import URL

    from scraperd.contract import Failure
    from scraperd.fetch.http1.reader import Head as HeadRead
    from scraperd.fetch.memory import Claim

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


@dataclass(slots=True)
class Steps:
    """How long the steps of all hops took, in seconds; 0 for a step that did not happen.

    `dns` is a lookup that no cache answered, `connect` a TCP connection, through a proxy too,
    `tls` a handshake, `first_byte` the time from the request to the first byte of the answer, and
    `transfer` that from there to the last one.
    """

    dns: float = 0.0
    connect: float = 0.0
    tls: float = 0.0
    first_byte: float = 0.0
    transfer: float = 0.0
    tls_began: float = 0.0  # when the handshake began that is under way

    def dialled(self, began: float, ended: float) -> None:
        """Add a connection that was made, or tried, between these two moments."""
        middle = self.tls_began or ended
        self.connect += middle - began
        self.tls += ended - middle
        self.tls_began = 0.0

    def answered(self, asked: float, first: float, last: float) -> None:
        """Add an answer, by the moments of its request, its first byte and its last one."""
        self.first_byte += first - asked
        self.transfer += last - first


# The steps of the fetch that this task is at; aiohttp passes nothing else down.
STEPS: ContextVar[Steps | None] = ContextVar("steps", default=None)


@dataclass(slots=True)
class Request:
    """One hop. `timeout` in seconds for all of it, `max_body` in bytes after decompression.

    `spent` is the part of the job's timeout that earlier hops used, in seconds.
    `claim` is the share of the memory budget that the body's bytes are counted in.
    `proxy` is a configured name; the empty name means no proxy. With `truncate`, a
    body that is larger than a limit is cut there instead of failing. `reach` is asked
    of each address, right before it is dialled, whether it may be connected to now;
    without `reach`, all addresses may. `final` says that a redirect is not followed, so that
    its body is wanted. `head` is that of the answer, as soon as it is there.
    `steps` adds up over the hops of a job.
    """

    method: str
    url: URL
    headers: dict[str, str]
    body: bytes | None
    timeout: float
    max_body: int
    claim: Claim | None = None
    proxy: str = ""
    truncate: bool = False
    spent: float = 0.0
    reach: Callable[[str], bool] | None = None
    final: bool = False
    head: HeadRead | None = None
    steps: Steps = field(default_factory=Steps)

    def begin(self) -> None:
        """Forget the answer of the hop before."""
        self.head = None


class Response(Struct, frozen=True):
    """The answer with any status, and its whole body. A redirect's is kept if it is `final`.

    `trouble` is why the body could not be read; it is empty then. `cut` is why the body is only
    the beginning of what its site packed: the coding ends early in a message that is whole.
    """

    status: int
    url: URL
    headers: CIMultiDictProxy[str]
    body: bytes
    trouble: Failure | None = None
    cut: Failure | None = None


class Head(Protocol):
    """The part of a response that comes before its body; a Response has it too."""

    @property
    def status(self) -> int:
        """Return the status code."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Return the headers; their names are compared without case."""


def location_of(answer: Head) -> str | None:
    """Return where a redirect points; None if `answer` is not one (RFC 9110 section 15.4)."""
    return (answer.headers.get("Location") or None) if answer.status in _REDIRECTS else None


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Return the seconds that the site asks to wait (RFC 9110 section 10.2.3), or None.

    The header holds seconds or a date. A date is compared with the time that the
    answer itself bears; `now` as for `sent_at`.
    """
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    then = http_date(value)
    return None if then is None else max(0.0, (then - sent_at(headers, now)).total_seconds())


def sent_at(headers: Mapping[str, str], now: datetime | None = None) -> datetime:
    """Return when an answer was sent, by the site's clock, which made its other dates too.

    That is its Date (RFC 9110 section 6.6.1) plus, from a cache, its Age (RFC 9111
    section 5.1). Without a Date it is `now`, or else the time of our own clock, which
    may be wrong.
    """
    date = http_date(headers.get("Date", ""))
    if date is None:
        return now or datetime.now(UTC)
    age = headers.get("Age", "").strip()
    with contextlib.suppress(OverflowError):
        date += timedelta(seconds=int(age[:9]) if age.isascii() and age.isdigit() else 0)
    return date


def http_date(text: str) -> datetime | None:
    """Parse a date in any of the forms of RFC 9110 section 5.6.7; None if it is not one."""
    try:
        date = email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
