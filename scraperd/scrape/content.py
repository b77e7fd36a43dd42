"""What a job asks of a response, and the fields of the Result that need no look at the body.

May touch: the job, the response's headers. Pure.
Must never: fetch anything, or raise for what a site sends.
"""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any, Final

from msgspec import UNSET

from scraperd.base.text import printable
from scraperd.base.urls import where
from scraperd.contract import ENTITY_TAG
from scraperd.extract.document import MAX_INFLATED, ExtractRequest
from scraperd.extract.media.computed import APACHE
from scraperd.extract.media.header import read_type, split
from scraperd.extract.readable import AVAILABLE
from scraperd.fetch.message import http_date

if TYPE_CHECKING:
    from scraperd.contract import Job
    from scraperd.extract.media.computed import Sniffing
    from scraperd.fetch.message import Response

MAX_VALIDATOR: Final = 1024  # characters
_DOUBTED: Final = frozenset({"", "text/plain"})  # types whose bytes are looked at
_WEEKDAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = tuple("Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split())
_IMF_DATE: Final = re.compile(
    rf"({'|'.join(_WEEKDAYS)}), ([0-3][0-9]) ({'|'.join(_MONTHS)}) ([1-9][0-9]{{3}}) "
    "([0-2][0-9]):([0-5][0-9]):([0-5][0-9]) GMT"
)


def extract_request(
    job: Job,
    url: str,
    media: str,
    *,
    ok: bool = True,
    sniffing: Sniffing = "",
    largest: int = MAX_INFLATED,
) -> ExtractRequest:
    """What the job asks of the page of `url`. A page that failed is not extracted from.

    `media` is what `media_of` gives, `sniffing` what `sniffing_of` gives. `largest` is how many
    bytes a page may have.
    """
    return ExtractRequest(
        url,
        media,
        digest=job.verb != "HEAD",
        body=job.wants("body"),
        links=ok and job.wants("links"),
        metadata=ok and job.wants("metadata"),
        text=ok and job.wants("text"),
        feed=ok and job.wants("feed"),
        rules=bytes(job.extract) if ok and job.extract is not UNSET else None,
        sniffing=sniffing,
        inflated=largest,
    )


def unavailable(job: Job, *, readable: bool = AVAILABLE) -> str | None:
    """Why what the job wants to be included can't be had here; None if it can.

    `readable` says whether that extra is installed.
    """
    if job.wants("text") and not readable:
        return "text needs the extra 'readable': pip install '.[readable]' in scraperd's checkout"
    return None


def media_of(response: Response) -> str:
    """The values of all Content-Type headers as one text, a character for each byte (Fetch)."""
    return _isomorphic(_content_type(response))


def sniffing_of(response: Response, media: str) -> Sniffing:
    """How far the first bytes may tell what a document is, whose `media_of` is `media`.

    By Fetch's "determine nosniff", and MIME Sniffing section 5.1, for the Apache bug.
    """
    if read_type(media).essence not in _DOUBTED:
        return ""
    options = response.headers.getall("X-Content-Type-Options", ())
    if options and split(", ".join(options))[0].lower() == "nosniff":
        return "nosniff"
    types = response.headers.getall("Content-Type", ())
    return "apache" if types and types[-1] in APACHE else ""


def _content_type(response: Response) -> str:
    """The values of all Content-Type headers, joined by commas (RFC 9110 section 5.3)."""
    values = response.headers.getall("Content-Type", ())
    return values[0] if len(values) == 1 else ", ".join(filter(None, values))


def described(job: Job, response: Response) -> dict[str, Any]:
    """The fields that need no look at the body.

    A body that is cut has no validators: by them the site would say that the copy is still valid.
    """
    if response.cut is None:
        found: dict[str, Any] = _validators(response)
    else:
        found = {"body_truncated": response.cut.kind}
    if response.trouble is None:
        found["size"] = len(response.body)
    if media := _content_type(response):
        found["content_type"] = printable(_clean(media))
    if job.wants("headers"):
        found["headers"] = headers_of(response)
    return found


def leads_to(response: Response, location: str) -> dict[str, Any]:
    """The field of a redirect that is not followed: where it leads.

    That is read as browsers read it, also where no job could go; userinfo is left out. A Location
    that is no URL, or that is longer than a URL may be, is in the headers only.
    """
    target = where(response.url, location)
    return {} if target is None else {"redirect_url": target}


def unchanged(response: Response) -> dict[str, Any]:
    """The fields of a 304: there is nothing new."""
    return {"not_modified": True} | _validators(response)


def _validators(response: Response) -> dict[str, str]:
    """What tells this version of the page from another (RFC 9110 section 8.8).

    Only what a later job can send back: sites do send entity tags that are none.
    """
    found: dict[str, str] = {}
    tag = _clean(response.headers.get("ETag", ""))
    if len(tag) <= MAX_VALIDATOR and ENTITY_TAG.fullmatch(tag):
        found["etag"] = tag
    if when := _imf_date(response.headers.get("Last-Modified", "")):
        found["last_modified"] = when
    return found


def _imf_date(text: str) -> str:
    """A date as IMF-fixdate (RFC 9110 section 5.6.7); empty if it is not a date."""
    if (parts := _IMF_DATE.fullmatch(text)) is not None:  # a tenth of the time: most sites have it
        weekday, day, month, *rest = parts.groups()
        year, hour, minute, second = map(int, rest)
        with suppress(ValueError):  # no such day
            date = datetime(year, _MONTHS.index(month) + 1, int(day), hour, minute, second, 0, UTC)
            if _WEEKDAYS[date.weekday()] == weekday:
                return text
    when = http_date(text)
    return "" if when is None else format_datetime(when.astimezone(UTC), usegmt=True)


def headers_of(response: Response) -> dict[str, list[str]]:
    """All headers: lower-case names, each with a list of values."""
    headers: dict[str, list[str]] = {}
    for name, value in response.headers.items():
        headers.setdefault(name.lower(), []).append(_clean(value))
    return headers


def _clean(value: str) -> str:
    """A header's text: UTF-8, or else Latin-1; aiohttp hands odd bytes on as surrogates."""
    if value.isascii():
        return value
    raw = value.encode("utf-8", "surrogateescape")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _isomorphic(value: str) -> str:
    """A header's text with a character for each byte, as standards of the web read it."""
    if value.isascii():
        return value
    return value.encode("utf-8", "surrogateescape").decode("latin-1")
