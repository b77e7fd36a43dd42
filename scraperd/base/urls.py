"""URLs: which may be scraped, and which is asked for, byte for byte. Pure.

May touch: yarl, which also dials: a URL must mean here what it means there.
Must never: turn a URL into another one that only looks the same.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import Final
from unicodedata import normalize
from urllib.parse import quote, urljoin, urlsplit

from msgspec import UNSET, UnsetType
from yarl import URL

from scraperd.base.text import printable

MAX_URL: Final = 8192
_ORDINARY = re.compile(  # nearly every URL, known to be right without a closer look
    r"https?://(?=[^/?#]{1,253}(?:[/?#]|$))[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*+"
    r"(?::[1-9][0-9]{0,3})?+(?:[/?#][^\x00-\x20\x7f\\\ud800-\udfff]*+)?+"
)
_BEFORE_PATH = re.compile("[/?#]")
_NAMED_HOST = re.compile("https?://(?P<host>[^/?#]*)", re.IGNORECASE)
_LONGEST_HOST: Final = 254  # characters, with a final dot
_URL_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\\ud800-\udfff]")
_AUTHORITY = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]*)(?::(?P<port>.*))?", re.DOTALL)
_PORT = re.compile(r"0*(?P<port>[1-9][0-9]{0,4})|")  # may be empty (RFC 3986 section 3.2.3)
_MAX_PORT: Final = 2**16 - 1  # TCP's range
_MAX_DIGITS: Final = 99  # of a port; some parsers give up at 4,300
_HOST = re.compile(r"(?=.{1,254}$)(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?")  # as in DNS
_USERINFO: Final = "userinfo (user:password@) is refused; send an Authorization header instead"
_NO_HOST_NAME: Final = "names neither a host nor an address"
_KEPT: Final = "!#$%&'()*+,-./:;=?@[]_~"  # what quote() leaves alone, besides letters and digits
_TOUCHED = re.compile(r"[%\[\]]")  # what yarl would change though it may be sent
_USERINFO_OF = re.compile("(https?://)[^/?#]*@", re.IGNORECASE)
_NO_USERINFO = re.compile(r"https?://[^/?#@\\]+(?:[/?#]|$)", re.IGNORECASE)
_DOTS = re.compile(r"/(\.|%2e)", re.IGNORECASE)
_ODD = re.compile(r"[\x00-\x20\x7f\\\ud800-\udfff]")


def check_url(url: str) -> str | None:
    """Why `url` cannot be scraped, or None: http(s), a host, no userinfo, nothing to strip.

    Never raises, for any text.
    """
    if len(url) > MAX_URL:
        return f"longer than {MAX_URL} characters"
    if _ORDINARY.fullmatch(url):
        return None
    if _URL_FORBIDDEN.search(url):
        return "holds a space, a control character or a backslash; percent-encode it"
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        return "must start with http:// or https://"
    return _authority_fault(_BEFORE_PATH.split(rest, maxsplit=1)[0])


@lru_cache(maxsize=1024)  # the links of a page have few hosts
def _authority_fault(authority: str) -> str | None:
    """What is wrong between `//` and the path. yarl would let a port of `+80` or `8_0` pass."""
    if "@" in authority:
        return _USERINFO
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        return _NO_HOST_NAME
    host, port = match["host"], match["port"]
    if not host:
        return "has no host"
    if port and not _is_port(port):
        return "the port must be 1 to 65535"
    if host[0] == "[":
        return None if _is_ipv6(host[1:-1]) else _NO_HOST_NAME
    return _NO_HOST_NAME if _is_long(host) else _name_fault(host)


def _name_fault(host: str) -> str | None:
    try:
        name = URL(f"http://{host}/").raw_host or ""
    except Exception as error:  # noqa: BLE001 - yarl and idna raise whatever a text provokes
        return f"not a URL: {printable(str(error))}"
    return None if _HOST.fullmatch(name) else _NO_HOST_NAME


def _is_port(text: str) -> bool:
    """Whether it is 1 to 65535. Looked at as text first: `int` is not for digits without end."""
    match = _PORT.fullmatch(text)
    return match is not None and len(text) <= _MAX_DIGITS and int(match["port"]) <= _MAX_PORT


def _is_long(host: str) -> bool:
    """Whether a host has more characters than a name can have, as written or as IDNA reads it.

    It reads an 8,000 characters long host for up to 1.4 s, and then finds it too long.
    """
    return len(host) > _LONGEST_HOST or len(normalize("NFKC", host)) > _LONGEST_HOST


def _is_ipv6(text: str) -> bool:
    """Whether it is an IPv6 address without a zone: `%eth0` has a meaning on one machine only."""
    try:
        return ipaddress.IPv6Address(text).scope_id is None
    except ValueError:
        return False


def host_of(url: str | UnsetType) -> str | None:
    """Return the host that a URL names, or None if the URL or its host is missing or invalid."""
    if url is UNSET:
        return None
    if not url.isascii():
        match = _NAMED_HOST.match(url)
        if match is None or _is_long(match["host"]):
            return None
    try:
        return URL(url).raw_host
    except Exception:  # noqa: BLE001 - yarl and idna raise whatever a text provokes
        return None


def host_name(url: URL) -> str:
    """Return the host of `url` without a final dot: with it, it is the same host."""
    return (url.raw_host or "").rstrip(".")


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
    text = _USERINFO_OF.sub(r"\1", urljoin(str(base), _ODD.sub(_percent, location)))
    if fault := check_url(text):  # before yarl sees it, which takes its time for odd hosts
        raise ValueError(fault)
    target = exact(text)
    if fault := check_url(str(target)):  # it is longer now: what is not ASCII is encoded
        raise ValueError(fault)
    return target


def _percent(match: re.Match[str]) -> str:
    """The byte behind a character; aiohttp hands odd ones on as surrogates (PEP 383)."""
    return f"%{ord(match[0]) & 0xFF:02X}"


def without_credentials(url: str) -> str:
    """Return `url` without userinfo; "(not a URL)" if it is not clear where its userinfo ends."""
    if "@" not in url or _NO_USERINFO.match(url):
        return url
    return str(URL(url).with_user(None)) if host_of(url) else "(not a URL)"
