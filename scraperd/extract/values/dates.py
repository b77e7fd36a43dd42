"""A text as a date in ISO 8601: by the forms that have one reading, or by the job's formats.

May touch: a text and date formats. Pure.
Must never: use the current date, the locale, a zone that was not written, or `strptime`.
"""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, date, datetime, time, timedelta, timezone
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from scraperd.base.text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST: Final = 120  # characters of a date's text
LONGEST_FORMAT: Final = 80  # characters

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MONTHS: Final = "jan feb mar apr may jun jul aug sep oct nov dec".split()
_WEEKDAYS: Final = "mon tue wed thu fri sat sun".split()
# RFC 5322 section 4.3, in hours from UTC. Other names of zones have several meanings.
_HOURS: Final = dict.fromkeys("z utc ut gmt".split(), 0) | dict(
    zip("est edt cst cdt mst mdt pst pdt".split(), (-5, -4, -6, -5, -7, -6, -8, -7), strict=True)
)

_WEEKDAY_FIRST: Final = re.compile(r"[^\W\d_]+\.?,\s*")
_FRACTION: Final = re.compile(r"\.\d+(?=[+-]|$)")

_YEAR: Final = r"(?P<year>\d{4})"
_MONTH: Final = (
    r"(?P<month>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?"
    r"|sept?|september|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)"
)
_DAY: Final = r"(?P<day>\d{1,2})"
_TH: Final = r"(?:st|nd|rd|th)?"
_WEEKDAY: Final = (
    r"(?P<weekday>mon(?:day)?|tue(?:s|sday)?|wed(?:s|nesday)?|thu(?:r|rs|rsday)?|fri(?:day)?"
    r"|sat(?:urday)?|sun(?:day)?)"
)
_ON: Final = rf"(?:{_WEEKDAY}\.?,? )?"
_HALF: Final = r"(?P<half>[ap])(?:m\b|\.m\.)"
_NAMED: Final = rf"(?P<zone>{'|'.join(_HOURS)})"
_OFFSET: Final = r"(?P<sign>[+-])(?:(?P<zh>\d\d)(?::?(?P<zm>\d\d))?|(?P<zh1>\d)(?!\d))"
_SECOND: Final = r"(?P<second>\d\d)(?:[.,](?P<fraction>\d+))?"
_CLOCK: Final = rf"(?P<hour>\d{{1,2}})(?::(?P<minute>\d\d)(?::{_SECOND})?)?(?: ?{_HALF})?"
_ZONE: Final = rf"(?: ?(?:{_NAMED}|(?:utc|gmt)?{_OFFSET})(?: \([^()]*\))?)?"
_ISO_TIME: Final = (
    rf"[t ](?P<hour>\d\d)(?P<colon>:?)(?P<minute>\d\d)(?:(?P=colon){_SECOND})?"
    rf"(?: ?(?:(?P<zone>z)|{_OFFSET}))?"
)

_FORMS: Final = tuple(
    re.compile(form, re.ASCII | re.IGNORECASE)
    for form in (
        *(  # ISO 8601, RFC 3339
            rf"{day}(?:{_ISO_TIME})?"
            for day in (
                r"(?P<year>\d{4})-(?P<month>\d\d)-(?P<day>\d\d)",
                r"(?P<year>\d{4})(?P<month>\d\d)(?P<day>\d\d)",
                r"(?P<year>\d{4})-w(?P<week>\d\d)-(?P<of_week>[1-7])",
                r"(?P<year>\d{4})w(?P<week>\d\d)(?P<of_week>[1-7])",
                r"(?P<year>\d{4})-(?P<of_year>\d{3})",
            )
        ),
        *(  # as people write it, RFC 5322, and the first form of RFC 9110 section 5.6.7
            rf"{_ON}{day}(?:(?:t|,? (?:at |- )?){_CLOCK}{_ZONE})?"
            for day in (
                rf"{_DAY}{_TH}(?: of)? {_MONTH}\.?,? {_YEAR}",
                rf"{_DAY}\. ?{_MONTH}\.? {_YEAR}",
                rf"{_DAY}-{_MONTH}-{_YEAR}",
                rf"{_MONTH}\.? {_DAY}{_TH},? {_YEAR}",
                rf"{_DAY}\.(?P<month>\d{{1,2}})\.{_YEAR}",
                rf"{_YEAR}(?P<mark>[-/.])(?P<month>\d{{1,2}})(?P=mark){_DAY}",
            )
        ),
        # the other two: that of RFC 850, and that of C's asctime
        rf"{_WEEKDAY}, {_DAY}-{_MONTH}-(?P<yy>\d\d) {_CLOCK} (?P<zone>gmt)",
        rf"{_WEEKDAY} {_MONTH} {_DAY} {_CLOCK}(?: {_NAMED})? {_YEAR}",
        # RFC 822 section 5: a year of two digits, which RFC 5322 section 4.3 reads; with its zone
        (
            rf"{_ON}{_DAY} {_MONTH} (?P<mail_yy>\d\d) {_CLOCK}"
            rf" ?(?:{_NAMED}|(?:utc|gmt)?{_OFFSET})(?: \([^()]*\))?"
        ),
    )
)

# What a format's directive matches, and which part of a date it is.
_DIRECTIVES: Final = {
    "Y": ("year", _YEAR),
    "y": ("year", r"(?P<yy>\d\d)"),
    "m": ("month", r"(?P<month>\d{1,2})"),
    "b": ("month", _MONTH),
    "B": ("month", _MONTH),
    "d": ("day", _DAY),
    "j": ("day of the year", r"(?P<of_year>\d{1,3})"),
    "a": ("weekday", _WEEKDAY),
    "A": ("weekday", _WEEKDAY),
    "H": ("hour", r"(?P<hour>\d{1,2})"),
    "I": ("hour", r"(?P<hour>\d{1,2})"),
    "p": ("half of the day", r"(?P<half>[ap])(?:m|\.m\.)"),
    "M": ("minute", r"(?P<minute>\d{1,2})"),
    "S": ("second", r"(?P<second>\d{1,2})"),
    "f": ("fraction", r"(?P<fraction>\d{1,9})"),
    "z": ("zone", rf"(?:(?P<zone>z)|{_OFFSET})"),
    "Z": ("zone", _NAMED),
    "s": ("timestamp", r"(?P<epoch>-?\d{1,12})"),
}
_NEEDS: Final = (
    ("zone", "hour"),
    ("minute", "hour"),
    ("second", "minute"),
    ("fraction", "second"),
)


def date_of(text: str, formats: tuple[str, ...]) -> str | None:
    """The date that the whole text is, as ISO 8601, or None.

    `2024-05-12`, or with a time of day `2024-05-12T10:00:00`, and with its offset from UTC if a
    zone was written. Without `formats`: the calendar, week and ordinal dates of ISO 8601 (to the
    day; the bare digits of an ordinal date are none) and RFC 3339; the dates of RFC 5322
    (section 3.3, and 4.3 for names of zones) and HTTP (RFC 9110, section 5.6.7); dates with an
    English month, in either order; 12.05.2024, day first; and 2024/05/12. A date that several
    people read differently (05/12/2024, 12 May 24), that contradicts itself (a wrong weekday) or
    is not complete is None, and so is a leap second. A year of two digits, in HTTP's dates and for
    `%y`, is one of 1969 to 2068, as in POSIX.

    With `formats`: the first that fits, and nothing else. They are `strptime`'s, with English
    names for months and weekdays, `%Y` in four digits, and `%s` for seconds since 1970.
    """
    text = text.strip()
    if len(text) > LONGEST:
        return None
    text = " ".join(_ascii_digits(text).split())
    for form in map(_form, formats) if formats else _FORMS:
        found = form.fullmatch(text) if isinstance(form, re.Pattern) else None
        if found and (value := _date(found.groupdict())):
            return value
    return None


def moment(text: str) -> str | None:
    """The date of a feed or a sitemap as ISO 8601, without fractions of a second, or None.

    It is read as `date_of` reads one, but the weekday may be wrong or in any language: it says
    nothing that the date does not. The zone is the one that was written; a time without one has
    none. None if the zone is a name that RFC 5322 gives no offset: military letters (which it
    calls unknown), CET, EST5EDT.
    """
    if len(text) > LONGEST:
        return None
    text = _WEEKDAY_FIRST.sub("", text.strip())
    found = date_of(text, ())
    return _FRACTION.sub("", found) if found else None


def format_fault(fmt: str) -> str | None:
    """Why a job's format can't be used, in at most 200 characters; None if it can."""
    form = _form(fmt)
    return printable(form) if isinstance(form, str) else None


@lru_cache(maxsize=256)
def _form(fmt: str) -> re.Pattern[str] | str:
    """The pattern of a format, or its fault."""
    if len(fmt) > LONGEST_FORMAT:
        return f"longer than {LONGEST_FORMAT} characters"
    pattern, parts = "", []
    for literal, directive in re.findall(r"([^%]+)|%(.?)", " ".join(fmt.split()), re.DOTALL):
        if literal or directive == "%":
            pattern += re.escape(literal or "%")
            continue
        if directive not in _DIRECTIVES:
            return f"%{directive} is not one of %{' %'.join(_DIRECTIVES)}"
        part, snippet = _DIRECTIVES[directive]
        if part in parts:
            return f"%{directive}: the {part} is there already"
        pattern += snippet
        parts.append(part)
    fault = _missing(parts, half="%I" in fmt.replace("%%", ""))
    return fault or re.compile(pattern, re.ASCII | re.IGNORECASE)


def _missing(parts: list[str], *, half: bool) -> str | None:
    """What a format with these parts lacks to say one day, and one time of it."""
    if "timestamp" in parts:
        return "%s stands alone" if len(parts) > 1 else None
    if "year" not in parts:
        return "says no year"
    if ("day of the year" in parts) == ("day" in parts) or ("month" in parts) != ("day" in parts):
        return "must say a month and a day, or a day of the year"
    if half != ("half of the day" in parts):
        return "%I and %p go together"
    for part, base in _NEEDS:
        if part in parts and base not in parts:
            return f"says a {part} but no {base}"
    return None


def _date(parts: Mapping[str, str | None]) -> str | None:
    try:
        if epoch := parts.get("epoch"):
            return (_EPOCH + timedelta(seconds=int(epoch))).isoformat()
        day = _day(parts)
        if parts.get("hour") is None:
            return day.isoformat()
        return datetime.combine(day, _time(parts), _zone(parts)).isoformat()
    except (ValueError, OverflowError):  # there is no such day, time or offset
        return None


def _day(parts: Mapping[str, str | None]) -> date:
    """The day; raises ValueError if there is no such day."""
    year = int(parts.get("year") or 0)
    if yy := parts.get("yy"):
        year = int(yy) + (1900 if int(yy) >= 69 else 2000)  # noqa: PLR2004
    if yy := parts.get("mail_yy"):
        year = int(yy) + (1900 if int(yy) >= 50 else 2000)  # noqa: PLR2004 - RFC 5322 section 4.3
    if week := parts.get("week"):
        return date.fromisocalendar(year, int(week), int(parts["of_week"] or 0))
    if of_year := parts.get("of_year"):
        day = date(year, 1, 1) + timedelta(int(of_year) - 1)
        if day.year != year:
            raise ValueError(of_year)
    else:
        month = parts["month"] or ""
        number = int(month) if month.isdecimal() else _MONTHS.index(month[:3].lower()) + 1
        day = date(year, number, int(parts["day"] or 0))
    weekday = parts.get("weekday")
    if weekday and _WEEKDAYS[day.weekday()] != weekday[:3].lower():
        raise ValueError(weekday)
    return day


def _time(parts: Mapping[str, str | None]) -> time:
    """The time of day; raises ValueError if there is no such time."""
    hour = int(parts["hour"] or 0)
    minute = parts.get("minute")
    if half := parts.get("half"):
        if hour not in range(1, 13):
            raise ValueError(hour)
        hour = hour % 12 + (12 if half in "pP" else 0)
    elif minute is None and "minute" in parts:
        raise ValueError(hour)  # "May 12, 2024 10" may go on in some other way
    fraction = (parts.get("fraction") or "")[:6].ljust(6, "0")
    return time(hour, int(minute or 0), int(parts.get("second") or 0), int(fraction))


def _zone(parts: Mapping[str, str | None]) -> timezone | None:
    """The zone, if one was written; raises ValueError if there is no such zone."""
    if zone := parts.get("zone"):
        return timezone(timedelta(hours=_HOURS[zone.lower()]))
    if not (hours := parts.get("zh") or parts.get("zh1")):
        return None
    minutes = int(parts.get("zm") or 0)
    if minutes not in range(60):
        raise ValueError(minutes)
    offset = timedelta(hours=int(hours), minutes=minutes)
    return timezone(-offset if parts["sign"] == "-" else offset)


def _ascii_digits(text: str) -> str:
    if text.isascii():
        return text
    return "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)
