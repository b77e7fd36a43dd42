"""URLs: which may be scraped, which is asked for, byte for byte, and where references lead. Pure.

May touch: ada, which reads as browsers do (WHATWG URL); yarl, which carries what is dialled.
Must never: turn a URL into another one that only looks the same, or read a host in two ways.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final
from unicodedata import normalize
from urllib.parse import quote, urlsplit

import ada_url
from msgspec import UNSET, UnsetType
from yarl import URL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_URL: Final = 8192
_QUERY_START = re.compile("[?#]")
_ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/\\]*")
_ORDINARY = re.compile(  # nearly every URL, known to be right without a closer look
    r"https?://(?=[^/?#]{1,253}(?:[/?#]|$))(?![^/?#]*xn--)"
    r"(?:[a-z0-9_-]{1,63}\.)*+[a-z_-][a-z0-9_-]{0,62}"
    r"(?::[1-9][0-9]{0,3})?+(?:[/?#][^\x00-\x20\x7f\\\ud800-\udfff]*+)?+"
)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")  # RFC 3986 section 3.1
_BEFORE_PATH = re.compile("[/?#]")
_LONGEST_HOST: Final = 254  # characters, with a final dot
_URL_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\\ud800-\udfff]")
_AUTHORITY = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]*)(?::(?P<port>.*))?", re.DOTALL)
_PORT = re.compile(r"0*(?P<port>[1-9][0-9]{0,4})|")  # may be empty (RFC 3986 section 3.2.3)
_MAX_PORT: Final = 2**16 - 1  # TCP's range
_MAX_DIGITS: Final = 99  # of a port; some parsers give up at 4,300
_HOST = re.compile(r"(?=.{1,254}$)(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}\.?")  # as in DNS
_MORE = re.compile(r"[/?#\\@]|^[^\[]*:")  # it ends the host, or comes before or behind it
_PLAIN_HOST = re.compile(r"(?![a-z0-9_.-]*xn--)(?:[a-z0-9_-]+\.)*[a-z_-][a-z0-9_-]*")
_SPLIT = re.compile(  # a URL of the web: scheme, userinfo, host, and the rest
    r"(?P<scheme>https?)://(?P<user>[^/?#]*@)?(?P<host>\[[^\[\]/?#]*\]|[^/?#:\[\]]*)(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
)
_NO_DOMAIN = re.compile(r"[\x00-\x20\x7f/?#@\\\[\]%\ud800-\udfff]")
_AFTER_HOST = re.compile(r"(?::[0-9]*)?(?:[/?#]|\Z)")
_RAW = re.compile("[\ud800-\udfff]")  # bytes of a header, or halves of a pair
_USERINFO: Final = "userinfo (user:password@) is refused; send an Authorization header instead"
_NO_HOST_NAME: Final = "names neither a host nor an address"
_KEPT: Final = "!#$%&'()*+,-./:;=?@[]_~"  # what quote() leaves alone, besides letters and digits
_TOUCHED = re.compile(r"[%\[\]]")  # what yarl would change though it may be sent
_USERINFO_OF = re.compile("(https?://)[^/?#]*@", re.IGNORECASE)
_NO_USERINFO = re.compile(r"https?://[^/?#@\\]+(?:[/?#]|$)", re.IGNORECASE)
# URL standard, "special scheme"; those of WebSockets have their query in UTF-8 ("query state").
_ENCODED: Final = ("http:", "https:", "ftp:", "file:")
_AROUND: Final = "".join(map(chr, range(0x21)))  # it strips C0 controls and space at both ends
_SAME = re.compile("[ -~]*")  # what all encodings write alike
_IGNORED: Final = dict.fromkeys(map(ord, "\t\n\r"))  # and these everywhere
_DOTS = re.compile(r"/(\.|%2e)", re.IGNORECASE)
_HERE: Final = frozenset((".", "%2e"))  # URL standard: "single-dot path segment"
_ABOVE: Final = frozenset(("..", ".%2e", "%2e.", "%2e%2e"))  # "double-dot path segment"


def check_url(url: str) -> str | None:
    """Why `url` cannot be scraped, or None: http(s), a host, no userinfo, nothing to strip.

    All reasons at once. Never raises, for any text.
    """
    if len(url) > MAX_URL:
        return f"longer than {MAX_URL} characters"
    if _ORDINARY.fullmatch(url):
        return None
    return "; ".join(_faults(url)) or None


def _faults(url: str) -> Iterator[str]:
    """Yield what is wrong with a URL."""
    if _URL_FORBIDDEN.search(url):
        yield "holds a space, a control character or a backslash; percent-encode it"
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        yield "must start with http:// or https://"
    authority = _BEFORE_PATH.split(rest, maxsplit=1)[0]
    if separator and _SCHEME.fullmatch(scheme) and not _URL_FORBIDDEN.search(authority):
        yield from _authority_faults(authority)


@lru_cache(maxsize=1024)  # the links of a page have few hosts
def _authority_faults(authority: str) -> tuple[str, ...]:
    """What is wrong between `//` and the path. yarl would let a port of `+80` or `8_0` pass."""
    _, at, rest = authority.rpartition("@")
    match = _AUTHORITY.fullmatch(rest)
    faults = [_USERINFO] if at else []
    if match is None:
        return (*faults, _NO_HOST_NAME)
    port = match["port"]
    if fault := _host_fault(match["host"]):
        faults.append(fault)
    if port and not _is_port(port):
        faults.append("the port must be 1 to 65535")
    return tuple(faults)


def _host_fault(host: str) -> str | None:
    if not host:
        return "has no host"
    if host[0] == "[":
        return None if _is_ipv6(host[1:-1]) else _NO_HOST_NAME
    return _NO_HOST_NAME if _is_long(host) else _name_fault(host)


def _name_fault(host: str) -> str | None:
    name = host_as_dialled(host)
    return None if name is not None and _HOST.fullmatch(name) else _NO_HOST_NAME


@lru_cache(maxsize=4096)
def host_as_dialled(host: str) -> str | None:
    """Return a URL's host as browsers read it (WHATWG URL, "host parser"), or None if it is none.

    Names are in lower case and ASCII (UTS 46, not transitional). `0x7f.1` is 127.0.0.1.
    """
    if _PLAIN_HOST.fullmatch(host):
        return host
    if _is_long(host) or _MORE.search(host):
        return None
    try:
        name: str = ada_url.URL(f"http://{host}/").hostname
    except (ValueError, UnicodeError):
        return None
    return name or None


def domain_of(text: str) -> str | None:
    """Return a cookie's domain as URLs have their hosts, or None; a leading dot means nothing."""
    host = text.removeprefix(".")
    if ":" in host:
        return host_of(f"http://[{host.strip('[]')}]/")
    return None if _NO_DOMAIN.search(host) else host_as_dialled(host)


def canonical(text: str) -> str:
    """Return a URL that `check_url` takes with its host as it is dialled; all else as written."""
    if _ORDINARY.fullmatch(text):
        return text
    match = _SPLIT.fullmatch(text)
    host = host_as_dialled(match["host"]) if match else None
    if match is None or host is None:
        return text
    return f"{match['scheme'].lower()}://{match['user'] or ''}{host}{match['rest']}"


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
    match = _SPLIT.match(url)
    if match is None or not _AFTER_HOST.match(match["rest"]):
        return None
    host = host_as_dialled(match["host"])
    return host.strip("[]") if host else None


def named_host(text: str) -> str | None:
    """Return the host that an operator names, as a host name, an address or a URL; or None."""
    plain = f"[{text}]" if text.count(":") > 1 and "[" not in text else text
    host = host_of(text if "://" in text else f"http://{plain}/")
    return host.rstrip(".") if host else None


def host_name(url: URL) -> str:
    """Return the host of `url` without a final dot: with it, it is the same host."""
    return (url.raw_host or "").rstrip(".")


def exact(text: str) -> URL:
    """`text` as a URL whose path and query are sent as they are written, without its fragment.

    yarl by itself undoes percent-encoding that it finds needless, also that of
    reserved characters, which makes another URL of it (RFC 3986 section 6.2.2.2)
    and breaks signatures, and it drops a `?` with nothing behind it. Only what
    can't stand in a request line is encoded. `text` is one that `check_url` takes.
    """
    text = canonical(text.partition("#")[0])
    url = URL(text)
    if not _TOUCHED.search(text) and not text.endswith("?"):
        return url
    parts = urlsplit(text)
    path = quote(_without_dots(parts.path), safe=_KEPT) or "/"
    if "?" in text and not parts.query:
        path += "?"  # yarl has no other place for a query that is there and empty: see `path_of`
    return URL.build(
        scheme=url.scheme,
        authority=url.raw_authority,
        path=path,
        query_string=quote(parts.query, safe=_KEPT),
        encoded=True,
    )


def path_of(url: URL) -> str:
    """Return the path of a URL of `exact`, whose `raw_path` ends with the `?` of an empty query."""
    return url.raw_path.removesuffix("?")


def _without_dots(path: str) -> str:
    """Return `path` with its dot segments resolved, and all else as written (WHATWG "path state").

    yarl resolves them too, but undoes the percent-encoding of the other segments with them.
    """
    if not _DOTS.search(path):
        return path
    kept: list[str] = []
    for segment in path.split("/")[1:]:
        ends_in_folder = segment.lower() in _HERE or segment.lower() in _ABOVE
        if segment.lower() in _ABOVE:
            del kept[-1:]
        elif not ends_in_folder:
            kept.append(segment)
    return "/" + "/".join([*kept, ""] if ends_in_folder else kept)


def origin_of(url: URL) -> tuple[str, str | None, int | None]:
    """RFC 6454; yarl's own takes an explicit default port for another one."""
    return url.scheme, url.raw_host, url.port


def join(base: str, reference: str, encode: Callable[[str], str] | None = None) -> str | None:
    """Return where a reference leads from `base`, as browsers read both; None if it is no URL.

    WHATWG URL, "basic URL parser" and "URL serializing". `encode` writes the query of the reference
    in ASCII where its document is not in UTF-8 ("encoding override").
    """
    try:
        url: str = ada_url.join_url(base, reference)
    except ValueError:
        whole = _RAW.sub("\N{REPLACEMENT CHARACTER}", reference)  # half of a pair, to browsers
        return None if whole == reference else join(base, whole, encode)
    if encode is None or _SAME.fullmatch(reference) or not url.startswith(_ENCODED):
        return url
    # The first "?" and "#" count in each state of the standard's parser that such a URL is read in.
    text, mark, fragment = reference.strip(_AROUND).translate(_IGNORED).partition("#")
    before, question, query = text.partition("?")
    if not query or len(query) > MAX_URL:  # longer than a URL may be, however it is written
        return url
    return join(base, before + question + encode(query) + mark + fragment)


def where(base: URL, location: str) -> str | None:
    """Return where a Location header leads, of any scheme, without userinfo; None if nowhere."""
    if len(location) > MAX_URL:
        return None
    found = join(str(base), _RAW.sub(_percent, location))
    return None if found is None or len(found) > MAX_URL else _USERINFO_OF.sub(r"\1", found)


def resolve(base: URL, location: str) -> URL:
    """Where a Location header leads from `base` (RFC 9110 section 10.2.2), without userinfo.

    It is read as browsers read it (`join`). Bytes that are not UTF-8 are percent-encoded as they
    came: servers do send raw Latin-1. Raises ValueError, with the reason, for what no job could
    have as its URL.
    """
    if len(location) > MAX_URL:
        raise ValueError(f"longer than {MAX_URL} characters")
    found = join(str(base), _RAW.sub(_percent, location))
    if found is None:
        raise ValueError("no URL, as browsers read it")
    text = _USERINFO_OF.sub(r"\1", found)
    if fault := check_url(text):
        raise ValueError(fault)
    return exact(text)


def _percent(match: re.Match[str]) -> str:
    """The byte behind a character; aiohttp hands odd ones on as surrogates (PEP 383)."""
    return f"%{ord(match[0]) & 0xFF:02X}"


def shown(url: str, how: str) -> str:
    """Return `url` as a log shows it: "full", "no-query" or "host", never with userinfo."""
    url = without_credentials(url)
    if how == "full":
        return url
    url = _QUERY_START.split(url, maxsplit=1)[0]
    if how == "no-query":
        return url
    match = _ORIGIN.match(url)
    return match[0] if match else "(not a URL)"


def without_credentials(url: str) -> str:
    """Return `url` without userinfo; "(not a URL)" if it is not clear where its userinfo ends."""
    if "@" not in url or _NO_USERINFO.match(url):
        return url
    try:
        read = URL(url)
        return str(read.with_user(None)) if read.raw_host else "(not a URL)"
    except Exception:  # noqa: BLE001 - yarl and idna raise whatever a text provokes
        return "(not a URL)"
