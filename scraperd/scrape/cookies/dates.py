"""The dates of cookies, as RFC 6265 section 5.1.1 reads them. Pure.

May touch: text.
Must never: raise for what a site sends.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

_TOKEN = re.compile(r"[^\t\x20-/;-@\[-`{-~]+")
_TIME = re.compile(r"([0-9]{1,2}):([0-9]{1,2}):([0-9]{1,2})(?![0-9])")
_DAY = re.compile(r"([0-9]{1,2})(?![0-9])")
_MONTH = re.compile("jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec", re.IGNORECASE)
_YEAR = re.compile(r"([0-9]{2,4})(?![0-9])")
_MONTHS: Final = "jan feb mar apr may jun jul aug sep oct nov dec".split()
_PARTS: Final = (_TIME, _DAY, _MONTH, _YEAR)  # a token is the first of these that is not yet found
_OLDEST: Final = 1601
_LAST_CENTURY, _THIS_CENTURY = range(70, 100), range(70)  # years of two digits


def cookie_date(text: str) -> datetime | None:
    """Return the date that `text` holds, in UTC, or None if that is no date.

    Parts may stand in any order, and what is none of them is passed over.
    """
    found: dict[re.Pattern[str], re.Match[str]] = {}
    for token in _TOKEN.findall(text):
        for part in _PARTS:
            if part not in found and (match := part.match(token)):
                found[part] = match
                break
    if len(found) < len(_PARTS):
        return None
    year = int(found[_YEAR][1])
    if year in _LAST_CENTURY:
        year += 1900
    elif year in _THIS_CENTURY:
        year += 2000
    if year < _OLDEST:
        return None
    month = _MONTHS.index(found[_MONTH][0].lower()) + 1
    try:
        hour, minute, second = map(int, found[_TIME].groups())
        return datetime(year, month, int(found[_DAY][1]), hour, minute, second, tzinfo=UTC)
    except ValueError:  # no such day, or no such time
        return None
