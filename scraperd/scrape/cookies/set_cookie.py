"""A Set-Cookie line as RFC 6265 section 5.2 reads it, with the bounds that browsers have. Pure.

May touch: text.
Must never: raise for what a site sends.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from scraperd.scrape.cookies.dates import cookie_date

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_PAIR: Final = 4096  # bytes of name and value; browsers ignore a longer cookie (RFC 6265bis)
MAX_ATTRIBUTE: Final = 1024  # bytes; browsers ignore a longer one, and Path is kept (RFC 6265bis)
# RFC 6265bis section 5.6. Surrogates that stand for no byte of the line can't be sent back.
_UNFIT = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udc7f\udd00-\udfff]")
_AGE = re.compile("-?[0-9]+")
_SPACE: Final = " \t"
_OVER: Final = datetime(1, 1, 1, tzinfo=UTC)  # "the earliest representable date and time"
_NEVER: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


@dataclass(slots=True)
class SetCookie:
    """What a line says. `domain` is empty, and `path` None, if it says nothing of them.

    `age` is the moment at which Max-Age ends, `expires` is what Expires says.
    """

    name: str
    value: str
    domain: str = ""
    path: str | None = None
    secure: bool = False
    http_only: bool = False
    age: datetime | None = None
    expires: datetime | None = None


def set_cookie(line: str, now: datetime) -> SetCookie | None:
    """Return what `line` says, or None if it is to be ignored. Max-Age counts from `now`."""
    if _UNFIT.search(line):
        return None
    pair, *rest = line.split(";")
    name, equals, value = pair.partition("=")
    name, value = name.strip(_SPACE), value.strip(_SPACE)
    if not (equals and name) or _size(name) + _size(value) > MAX_PAIR:
        return None
    found = SetCookie(name, value)
    _read(found, rest, now)
    return found


def _read(found: SetCookie, parts: Iterable[str], now: datetime) -> None:
    """Read the attributes; of each that is valid, the last counts."""
    for part in parts:
        name, _, value = part.partition("=")
        value = value.strip(_SPACE)
        if _size(value) > MAX_ATTRIBUTE:
            continue
        match name.strip(_SPACE).lower():
            case "domain":
                found.domain = value.removeprefix(".").lower() or found.domain
            case "path":
                found.path = value if value.startswith("/") else None
            case "secure":
                found.secure = True
            case "httponly":
                found.http_only = True
            case "max-age":
                found.age = _age(value, now) or found.age
            case "expires":
                found.expires = cookie_date(value) or found.expires


def _age(value: str, now: datetime) -> datetime | None:
    """Return when so many seconds are over (section 5.2.2)."""
    if not _AGE.fullmatch(value):
        return None
    seconds = int(value)
    if seconds <= 0:
        return _OVER
    try:
        return now.replace(microsecond=0) + timedelta(seconds=seconds)
    except OverflowError:
        return _NEVER


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogateescape"))
