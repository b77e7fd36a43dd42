"""Which URL is asked for, byte for byte: as the job wrote it, or as a redirect points to it.

May touch: yarl, the contract's judge of URLs. Pure.
Must never: turn a URL into another one that only looks the same.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, urljoin, urlsplit

from yarl import URL

from scraperd.contract import check_url

_KEPT: Final = "!#$%&'()*+,-./:;=?@[]_~"  # what quote() leaves alone, besides letters and digits
_TOUCHED = re.compile(r"[%\[\]]")  # what yarl would change though it may be sent
_USERINFO = re.compile("(https?://)[^/?#]*@", re.IGNORECASE)
_DOTS = re.compile(r"/(\.|%2e)", re.IGNORECASE)
_ODD = re.compile(r"[\x00-\x20\x7f\\\ud800-\udfff]")


def exact(text: str) -> URL:
    """`text` as a URL whose path and query are sent as they are written, without its fragment.

    yarl by itself undoes percent-encoding that it finds needless, also that of
    reserved characters, which makes another URL of it (RFC 3986 section 6.2.2.2)
    and breaks signatures. Only what can't stand in a request line is encoded. `text`
    is one that `check_url` takes.
    """
    text = text.partition("#")[0]
    url = URL(text)
    if not _TOUCHED.search(text):
        return url
    parts = urlsplit(text)
    # A path with dot segments is left to yarl, which resolves them.
    path = url.raw_path if _DOTS.search(parts.path) else quote(parts.path, safe=_KEPT)
    return URL.build(
        scheme=url.scheme,
        authority=url.raw_authority,
        path=path or "/",
        query_string=quote(parts.query, safe=_KEPT),
        encoded=True,
    )


def origin_of(url: URL) -> tuple[str, str | None, int | None]:
    """RFC 6454; yarl's own takes an explicit default port for another one."""
    return url.scheme, url.raw_host, url.port


def resolve(base: URL, location: str) -> URL:
    """Where a Location header leads from `base` (RFC 9110 section 10.2.2), without userinfo.

    Bytes that no URL may hold are percent-encoded as they came: servers do send
    raw Latin-1. Raises ValueError, with the reason, for what no job could have as its URL.
    """
    text = _USERINFO.sub(r"\1", urljoin(str(base), _ODD.sub(_percent, location)))
    if fault := check_url(text):  # before yarl sees it, which takes its time for odd hosts
        raise ValueError(fault)
    target = exact(text)
    if fault := check_url(str(target)):  # it is longer now: what is not ASCII is encoded
        raise ValueError(fault)
    return target


def _percent(match: re.Match[str]) -> str:
    """The byte behind a character; aiohttp hands odd ones on as surrogates (PEP 383)."""
    return f"%{ord(match[0]) & 0xFF:02X}"
