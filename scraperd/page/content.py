"""What a job asked of its page, as fields of the Result.

May touch: charset, extract. Pure.
Must never: fetch anything, or raise for what a page holds.
"""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import UTC
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any, Final

from scraperd.contract import ENTITY_TAG, Failure, printable
from scraperd.page import charset
from scraperd.page.extract import Rules, extract
from scraperd.page.fetch import http_date

if TYPE_CHECKING:
    from scraperd.contract import Job
    from scraperd.page.fetch import Response

_HTML: Final = frozenset({"text/html", "application/xhtml+xml"})
_TEXT: Final = ("text/", "application/json", "application/xml", "application/javascript")
_TEXT_SUFFIXES: Final = ("+xml", "+json")
_SNIFFED: Final = 1445  # bytes; where the MIME Sniffing Standard stops looking
MAX_VALIDATOR: Final = 1024  # characters
_BINARY = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")  # bytes that no text holds


def content_of(
    job: Job, rules: Rules | None, response: Response, *, ok: bool
) -> tuple[dict[str, Any], Failure | None]:
    """What the job asked for, as fields of the Result. A failed page is not extracted from."""
    media = _clean(response.headers.get("Content-Type", ""))
    mime = media.partition(";")[0].strip().lower()
    found: dict[str, Any] = {"size": len(response.body)} | _validators(response)
    if job.verb != "HEAD":
        found["content_hash"] = f"sha256:{hashlib.sha256(response.body).hexdigest()}"
    if mime:
        found["content_type"] = printable(media)
    if job.wants("headers"):
        found["headers"] = _headers(response)
    parsed = rules is not None or job.wants("links") or job.wants("metadata")
    start = response.body[:_SNIFFED]
    is_html = mime in _HTML or (not mime and start.lstrip()[:1] == b"<")
    is_text = is_html or mime.startswith(_TEXT) or mime.endswith(_TEXT_SUFFIXES)
    is_text = is_text or (not mime and bool(start) and not _BINARY.search(start))
    name = charset.sniff(response.body, media) if is_text else ""
    if name:
        found["charset"] = name
    if job.wants("body"):
        found |= _body(response.body, name)
    if not (ok and parsed):
        return found, None
    if not is_html:
        return found, Failure(
            "extract", f"the response is {printable(mime) or 'of no type'}, not HTML"
        )
    taken = extract(
        charset.to_utf8(response.body, name),
        str(response.url),
        rules=rules,
        links=job.wants("links"),
        metadata=job.wants("metadata"),
    )
    return found | {"data": taken.data, "links": taken.links, "metadata": taken.metadata}, None


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
    if (when := http_date(response.headers.get("Last-Modified", ""))) is not None:
        found["last_modified"] = format_datetime(when.astimezone(UTC), usegmt=True)
    return found


def _headers(response: Response) -> dict[str, list[str]]:
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


def _body(body: bytes, name: str) -> dict[str, str]:
    if name or not body:
        return {"body": charset.to_text(body, name) if name else ""}
    return {"body": base64.b64encode(body).decode(), "body_encoding": "base64"}
