"""A body -> what was requested of it. The one function that the loop and the helpers share.

May touch: the other files of this room. Pure.
Must never: know a response or a job, read a clock, or raise for what a page holds (but Overrun).
"""

from __future__ import annotations

import base64
import codecs
import hashlib
import math
import re
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Struct

from scraperd.base.text import printable
from scraperd.base.urls import check_url
from scraperd.contract import Failure, peek
from scraperd.extract import cost
from scraperd.extract.apply import Allowance, Missing, Overrun, extract, extract_json, never
from scraperd.extract.encoding import sniff
from scraperd.extract.feeds.feeds import FeedError, feed, is_feed
from scraperd.extract.feeds.xml import GZIP
from scraperd.extract.media.computed import READ, TEXT, Sniffing, computed
from scraperd.extract.media.header import read_type
from scraperd.extract.readable import readable
from scraperd.extract.rules import Bounds, Rules  # noqa: TC001 - msgspec resolves annotations

if TYPE_CHECKING:
    from collections.abc import Callable

_HTML: Final = frozenset({"text/html", "application/xhtml+xml"})
_JSON: Final = frozenset({"application/json", "text/json"})
_TEXT: Final = ("text/", "application/xml")
_SCRIPT: Final = frozenset(  # MIME Sniffing standard, section 4.6, without those of text/
    f"application/{name}" for name in "ecmascript javascript x-ecmascript x-javascript".split()
)
LIGHT_BODY: Final = 256 * 1024  # bytes; larger ones are not even hashed on the loop
LIGHT_PAGE: Final = 32 * 1024  # bytes; larger ones are not parsed there by selectolax
BOUNDED_PAGE: Final = 512 * 1024  # bytes; larger ones are not parsed there into a compiled tree
_USUAL_DEPTH: Final = 10
_USUAL_BESIDE: Final = 20
LIGHT_RULES: Final = 0.03  # seconds; the worst case of rules on the loop
_EASY: Final = frozenset({"utf-8", sniff.FALLBACK})  # what decodes a megabyte in a millisecond
_XHTML = re.compile(rb"\s*<\?xml[^<>]*>\s*(?:<!doctype html[^<>\[]*>\s*)?<html[\s>]", re.IGNORECASE)
_HALF = re.compile(  # half of a surrogate pair
    rb"(?<!\\)((?:\\\\)*)\\u(?:[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|[dD][c-fC-F][0-9a-fA-F]{2}(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}))"
)
Kind: TypeAlias = Literal["html", "json", "feed", "text", "binary"]


MAX_INFLATED: Final = 10 * 1024 * 1024  # bytes, where nobody says how large a page may be


class Limits(Struct, frozen=True):
    """The bounds of one page's content.

    `work` bounds what may be done on the loop, and `searching` the seconds that all rules may
    take there in the worst case. With `bounded` a page is parsed there into the compiled tree.
    """

    matches: int
    output: int
    bounds: Bounds
    work: int | None = None
    searching: float | None = None
    bounded: bool = False


class ExtractRequest(Struct, frozen=True, array_like=True):
    """What to extract from a body, and what must be known of its response. Travels to a helper.

    With `job` the body is a job's own, and only what names the job is wanted. With `check` the
    body is empty, and the only question is whether the rules are valid. `inflated` bounds the bytes
    of a packed feed or sitemap that is unpacked.
    """

    url: str
    media: str
    digest: bool
    body: bool
    links: bool
    metadata: bool
    text: bool
    feed: bool
    rules: bytes | None
    job: bool = False
    check: bool = False
    sniffing: Sniffing = ""
    inflated: int = MAX_INFLATED

    @property
    def parsed(self) -> bool:
        """Whether the body has to be understood, and not only handed on."""
        return self.rules is not None or self.links or self.metadata or self.text or self.feed

    @property
    def mime(self) -> str:
        """The essence of the media type; empty if it is missing, invalid or unknown."""
        return read_type(self.media).essence


class Extracted(Struct, frozen=True, array_like=True):
    """What was extracted. `parts` are fields of the Result as JSON, `hits` the matches by rule."""

    parts: dict[str, bytes]
    charset: str = ""
    digest: str = ""
    failure: Failure | None = None
    hits: dict[str, int] = {}

    def fields(self) -> dict[str, Any]:
        """The fields of the Result."""
        found: dict[str, Any] = {name: msgspec.Raw(part) for name, part in self.parts.items()}
        if self.charset:
            found["charset"] = self.charset
        if self.digest:
            found["content_hash"] = self.digest
        return found


def extract_document(
    request: ExtractRequest,
    body: bytes,
    rules: Rules | None,
    limits: Limits,
    overdue: Callable[[], bool] = never,
    *,
    kind: Kind | None = None,
) -> Extracted:
    """Return all that `request` names, out of `body`; `kind` is what `kind_of` says, if known.

    Raises Overrun past `limits.work` and `limits.searching`, or once `overdue`, which is asked
    before each selector.
    """
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}" if request.digest else ""
    kind = kind or kind_of(request, body)
    name = ""
    if kind != "binary" and not (kind == "feed" and body.startswith(GZIP)):
        name = sniff.sniff(body, request.media, markup=kind != "json")
    parts: dict[str, bytes] = {}
    if request.body:
        parts = _body(body, name)
    if not request.parsed:
        return Extracted(parts, name, digest)
    allowance = Allowance(
        limits.matches, limits.output, limits.work, limits.searching, limits.bounded, overdue
    )
    reader = _Reader(request, body, rules, limits, allowance)
    failure: Failure | None = None
    try:
        parts |= reader.read(kind, name)
    except (_Unfit, Missing, FeedError) as error:
        failure = Failure("extract", str(error))
    except Overrun as overrun:
        if limits.work is not None:
            raise
        large = overrun.bound == "extract.max_output_size"
        failure = Failure("too_large" if large else "extract", str(overrun))
    return Extracted(parts, name, digest, failure, allowance.hits)


def names(body: bytes) -> Extracted:
    """Return what names the job whose body this is: id and URL in UTF-8, meta and batch as JSON.

    A URL that is not plain ASCII and valid is left out: nobody checks it again. So is one that the
    result is to be posted to.
    """
    seen = peek(body)
    parts: dict[str, bytes] = {}
    if seen.id is not UNSET:
        parts["id"] = seen.id.encode()
    if seen.url is not UNSET and seen.url.isascii() and check_url(seen.url) is None:
        parts["url"] = seen.url.encode()
    to = seen.callback_url
    if to is not UNSET and to.isascii() and check_url(to) is None:
        parts["callback_url"] = to.encode()
    if seen.callback is not UNSET and seen.callback.isascii():
        parts["callback"] = seen.callback.encode()
    if seen.meta is not UNSET:
        parts["meta"] = bytes(seen.meta)
    if seen.batch is not UNSET:
        parts["batch"] = msgspec.json.encode(seen.batch)
    return Extracted(parts)


def worst_case_seconds(
    request: ExtractRequest,
    body: bytes,
    rules: Rules | None,
    enough: float = 0.0,
    *,
    bounded: bool = False,
    kind: Kind | None = None,
) -> float:
    """Return the seconds that `extract_document` takes in the worst case, before rules run.

    Infinite where that is unknown or large. The time of rules on a parsed page is bounded by
    `Limits.searching`, with `bounded` also the parsing of HTML; JSON and its rules are counted
    here. A sum of no more than `enough` seconds is not looked at more closely.
    """
    if not request.parsed:
        return 0.0 if _is_light(request, body) else math.inf
    if request.text or len(body) > (BOUNDED_PAGE if bounded else LIGHT_PAGE):
        return math.inf
    if b"\0" in body or b"\x1b" in body:  # UTF-16, ISO-2022: it says other than it seems to
        return math.inf
    kind = kind or kind_of(request, body)
    if kind == "feed" or (kind != "html" and len(body) > LIGHT_PAGE):
        return math.inf
    if rules is not None and kind == "html" and _is_hopeless(body, rules):
        return math.inf
    each = cost.LINKS_AND_METADATA if request.links or request.metadata else 0.0
    took = cost.of_html(body, each, enough * 1e9) if kind == "html" and not bounded else 0.0
    if rules is not None and (kind != "html" or "json" in rules.reads):
        took += cost.of_json(body, rules.cost)  # it may be JSON, whatever its media type says
    decoded = 0.0 if body.isascii() else cost.DECODED * len(body)
    if took + decoded > enough * 1e9 and decoded and sniff.sniff(body, request.media) in _EASY:
        decoded = 0.0
    return (took + decoded) / 1e9


def _is_hopeless(body: bytes, rules: Rules) -> bool:
    """Whether rules are never for the loop, or not on a page of so many tags and a usual depth.

    The second is a guess that saves parsing a large page in vain.
    """
    if rules.cost.once >= cost.HEAVY.once or len(body) <= LIGHT_PAGE:
        return rules.cost.once >= cost.HEAVY.once
    tags = body.count(b"<") // 2
    usual = cost.Shape(tags, _USUAL_DEPTH, _USUAL_BESIDE, 0, 0, 0, 0)
    return rules.compiled_cost.at(usual) > LIGHT_RULES * 1e9


def _is_light(request: ExtractRequest, body: bytes) -> bool:
    """Whether a body is hashed and decoded in a moment: small, or large and easily decoded."""
    if len(body) > LIGHT_BODY:
        return False
    if not request.body or len(body) <= LIGHT_PAGE:
        return True
    return kind_of(request, body) == "binary" or sniff.sniff(body, request.media) in _EASY


class _Unfit(Exception):  # noqa: N818 - a page that is not of the requested kind
    """The document is of another kind."""


def kind_of(request: ExtractRequest, body: bytes) -> Kind:
    """What the body is, by its media type; if that is missing or unknown, by its first bytes."""
    if (request.feed or request.rules is not None) and is_feed(body, request.media):
        return "feed"
    if mime := read_type(request.media).essence:
        return _kind(_type_of(request, body) if request.sniffing else mime)
    return _unknown_kind(request, body) if body else "binary"


def _type_of(request: ExtractRequest, body: bytes) -> str:
    """The computed MIME type; empty if neither a header nor a byte tells it."""
    return computed(request.mime, body, request.sniffing) if request.mime or body else ""


def _kind(mime: str) -> Kind:
    if mime in _HTML:
        return "html"
    if mime in _JSON or mime.endswith("+json"):
        return "json"
    if mime.startswith(_TEXT) or mime.endswith("+xml") or mime in _SCRIPT:
        return "text"
    return "binary"


def _unknown_kind(request: ExtractRequest, body: bytes) -> Kind:
    """What a body of no known type is, by its computed type; we know JSON and XHTML, too.

    The MIME Sniffing standard (section 7.1) allows more types. XHTML is XML to the standard, and
    a page to a reader.
    """
    mime = _type_of(request, body)
    if mime == TEXT:
        start = body[:READ].removeprefix(codecs.BOM_UTF8)
        return "json" if start.lstrip()[:1] in {b"{", b"["} else "text"
    return "html" if mime == "text/xml" and _XHTML.match(body[:READ]) else _kind(mime)


def _body(body: bytes, name: str) -> dict[str, bytes]:
    if name or not body:
        text = sniff.to_text(body, name) if name else ""
        return {"body": msgspec.json.encode(text)}
    # Standard base64 is JSON as it stands: nothing in it has to be escaped.
    return {"body": b'"%s"' % base64.b64encode(body), "body_encoding": b'"base64"'}


def _json_of(text: bytes) -> Any:
    """The document; raises msgspec.DecodeError and RecursionError.

    A text that was cut within a character is common, and need not cost the whole answer.
    """
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        mended = _HALF.sub(rb"\1\\ufffd", text)
        if mended == text:
            raise
        return msgspec.json.decode(mended)


class _Reader:
    """Reads one body for what was requested."""

    def __init__(
        self,
        request: ExtractRequest,
        body: bytes,
        rules: Rules | None,
        limits: Limits,
        allowance: Allowance,
    ) -> None:
        self._request = request
        self._body = body
        self._rules = rules
        self._limits = limits
        self._allowance = allowance

    def read(self, kind: Kind, name: str) -> dict[str, bytes]:
        """The parts, each as JSON. Raises _Unfit, Missing, Overrun and FeedError."""
        request, rules = self._request, self._rules
        if (request.links or request.metadata or request.text) and kind != "html":
            raise _Unfit(self._is_not("HTML"))
        if request.feed and kind != "feed":
            raise _Unfit(self._is_not("a feed or a sitemap"))
        found: dict[str, Any] = {}
        if kind == "feed" or (self._json_only and self._is_xml(kind)):
            found = self._feed()
        elif self._json_only:
            found["data"] = self._json(name)
            rules = None
        elif rules is not None and kind == "json" and "json" in rules.reads:
            found["data"] = self._json(name)
        elif rules is not None and kind != "html":
            raise _Unfit(self._is_not(" or ".join(sorted(map(str.upper, rules.reads or ["html"])))))
        if kind == "html" and (rules is not None or request.links or request.metadata):
            found |= self._html(rules, name)
        if request.text:
            found["text"] = readable(sniff.to_utf8(self._body, name))
        return self._encoded(found)

    def _is_xml(self, kind: Kind) -> bool:
        xml = kind == "text" and _type_of(self._request, self._body).endswith("xml")
        return xml and self._body[:READ].lstrip()[:1] == b"<"

    @property
    def _json_only(self) -> bool:
        return self._rules is not None and self._rules.reads == {"json"}

    def _is_not(self, what: str) -> str:
        mime = _type_of(self._request, self._body)
        by = "" if mime == self._request.mime else " by its first bytes"
        return f"the response is {mime or 'of no type'}{by}, not {what}"

    def _html(self, rules: Rules | None, name: str) -> dict[str, Any]:
        taken = extract(
            sniff.to_utf8(self._body, name),
            self._request.url,
            rules=rules,
            links=self._request.links,
            metadata=self._request.metadata,
            allowance=self._allowance,
            encoding=name,
        )
        found = {"data": taken.data, "links": taken.links, "metadata": taken.metadata}
        return {name: part for name, part in found.items() if part is not UNSET}

    def _json(self, name: str) -> Any:
        text = sniff.to_utf8(self._body, name or "utf-8")
        try:
            document = _json_of(text)
        except (msgspec.DecodeError, RecursionError) as error:
            deep = isinstance(error, RecursionError)
            why = "nested too deeply" if deep else printable(str(error))
            raise _Unfit(f"{self._is_not('JSON')}: {why}") from None
        return self._searched(document)

    def _feed(self) -> dict[str, Any]:
        rules = self._rules
        if rules is not None and "json" not in rules.reads:
            raise _Unfit(self._is_not("HTML"))
        document = feed(
            self._body,
            media=self._request.media,
            base=self._request.url,
            max_size=self._request.inflated,
            max_entries=self._limits.matches,
        )
        found = {"feed": document} if self._request.feed else {}
        return found | ({} if rules is None else {"data": self._searched(document)})

    def _searched(self, document: Any) -> Any:
        assert self._rules is not None
        return extract_json(document, self._request.url, self._rules, self._allowance)

    def _encoded(self, found: dict[str, Any]) -> dict[str, bytes]:
        parts = {}
        left = self._limits.output
        for name, value in found.items():
            try:
                parts[name] = msgspec.json.encode(value)
            except (ValueError, TypeError, OverflowError, RecursionError) as error:
                # Only an expression makes such a value: half a character, or too many digits.
                why = f"{name} can't be written as JSON ({type(error).__name__})"
                raise _Unfit(why) from None
            left -= len(parts[name])
            if left < 0:
                most = self._limits.output
                raise Overrun(
                    "extract" if name == "data" else name, "bytes", "extract.max_output_size", most
                )
        return parts
