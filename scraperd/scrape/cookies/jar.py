"""The cookies of one job, from its first request through all its redirects (RFC 6265).

May touch: the list of public suffixes.
Must never: outlive its job, or send a job's cookie that names no domain to another origin.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

from msgspec import UNSET, Struct
from msgspec.structs import replace

from scraperd.base.urls import domain_of, origin_of, path_of
from scraperd.contract import MAX_COOKIES, MAX_HEADER_BYTES, Cookie
from scraperd.fetch.message import sent_at
from scraperd.scrape.cookies.set_cookie import SetCookie, set_cookie
from scraperd.scrape.cookies.suffixes import is_public_suffix

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import datetime

    from yarl import URL

_SECURE_NAME: Final = "__secure-"
_HOST_NAME: Final = "__host-"


class _Kept(Struct, frozen=True):
    """A cookie as section 5.3 stores it, and what is sent of it.

    `own` says that the job gave it without a domain: it goes to the job's first origin only.
    """

    cookie: Cookie
    domain: str
    path: str
    text: str
    own: bool = False

    @property
    def size(self) -> int:
        """The characters that a site made us keep."""
        return 0 if self.own else len(self.text) + len(self.domain) + len(self.path)

    def fits(self, url: URL) -> bool:
        """Section 5.4: whether it goes to `url`."""
        cookie = self.cookie
        host = url.raw_host or ""
        return (
            (host == self.domain if cookie.host_only else _is_under(host, self.domain))
            and (not cookie.secure or url.scheme == "https")
            and path_matches(path_of(url), self.path)
        )


class Cookies:
    """`own` are the job's, for the `first` URL; `learn` adds what an answer sets.

    Of all that name a domain the newest MAX_COOKIES are kept, as far as they have
    MAX_HEADER_BYTES together. Section 6.1 asks ten times as many of a browser, for all the sites
    of its life; this is one page's few hops, and no site reads a header that long.
    """

    def __init__(
        self, first: URL, own: Iterable[tuple[Cookie, str]], now: datetime | None = None
    ) -> None:
        self._first = first
        self._kept: dict[tuple[str, str, str], _Kept] = {}
        self._count = self._size = 0
        for cookie, text in own:
            if cookie.expires is UNSET or now is None or cookie.expires > now:
                self._give(cookie, text)

    def header(self, url: URL) -> str:
        """The Cookie header for a request to `url`; empty if none goes there."""
        if not self._kept:
            return ""
        is_first = origin_of(url) == origin_of(self._first)
        fitting = [
            kept for kept in self._kept.values() if (is_first or not kept.own) and kept.fits(url)
        ]
        fitting.sort(key=lambda kept: -len(kept.path))  # stable: then by age
        return "; ".join(kept.text for kept in fitting)

    def learn(
        self, url: URL, lines: Iterable[str], headers: Mapping[str, str], now: datetime
    ) -> None:
        """Keep what `url` sets (section 5.3): the next hop may depend on it.

        `headers` are those of the same answer. Its Date is what `Expires` is taken against:
        with a clock of ours that is ahead, a cookie for minutes would be over as it comes.
        Without a Date it is taken against `now`.
        """
        for line in lines:
            said = set_cookie(line, now)
            kept = None if said is None else _kept(said, url)
            if said is None or kept is None or self._is_guarded(kept, url):
                continue
            ends = said.age or said.expires
            since = now if said.age is not None else sent_at(headers, now)
            if ends is not None and ends <= since:
                self._drop(_key(kept))
            else:
                self._keep(kept)

    def told(self) -> list[Cookie]:
        """All that name a domain, as a job can give them: what was set, and what the job gave.

        A cookie whose bytes are not UTF-8 can't stand in JSON, and is left out.
        """
        return [kept.cookie for kept in self._kept.values() if not kept.own and _is_text(kept.text)]

    def _give(self, cookie: Cookie, text: str) -> None:
        """Take one of the job's own cookies. Several of one name stay together, as given."""
        path = cookie.path or "/"
        if cookie.domain is not UNSET:
            domain = domain_of(cookie.domain) or ""
            told = replace(
                cookie,
                domain=domain,
                path=path,
                secure=bool(cookie.secure),
                http_only=bool(cookie.http_only),
                host_only=bool(cookie.host_only) or is_public_suffix(domain),
            )
            self._keep(_Kept(told, domain, path, text))
            return
        key = cookie.name, self._first.raw_host or "", path
        if (twin := self._kept.get(key)) is not None:
            text = f"{twin.text}; {text}"
        self._keep(_Kept(replace(cookie, host_only=True), *key[1:], text, own=True))

    def _keep(self, kept: _Kept) -> None:
        """Store it, in the place of the one that it replaces; the oldest give way."""
        key = _key(kept)
        old = self._kept.get(key)
        self._account(old, -1)
        self._kept[key] = kept
        self._account(kept, 1)
        while self._count > MAX_COOKIES or self._size > MAX_HEADER_BYTES:
            self._drop(next(key for key, kept in self._kept.items() if not kept.own))

    def _drop(self, key: tuple[str, str, str]) -> None:
        self._account(self._kept.pop(key, None), -1)

    def _account(self, kept: _Kept | None, sign: int) -> None:
        if kept is not None and not kept.own:
            self._count += sign
            self._size += sign * kept.size

    def _is_guarded(self, new: _Kept, url: URL) -> bool:
        """Whether it would hide a secure cookie, and does not come safely (RFC 6265bis 5.7)."""
        if url.scheme == "https":
            return False
        return any(
            kept.cookie.name == new.cookie.name
            and (kept.cookie.secure or (kept.own and self._first.scheme == "https"))
            and path_matches(new.path, kept.path)
            and (_is_under(new.domain, kept.domain) or _is_under(kept.domain, new.domain))
            for kept in self._kept.values()
        )


def given(cookies: Mapping[str, str] | list[Cookie], header: str) -> Iterator[tuple[Cookie, str]]:
    """The job's own cookies, from `cookies` or from a Cookie header, each with what is sent."""
    if isinstance(cookies, list):
        for cookie in cookies:
            yield cookie, f"{cookie.name}={cookie.value}"
    else:
        for name, value in cookies.items():
            yield Cookie(name, value), f"{name}={value}"
    for part in header.split(";"):
        if pair := part.strip():
            name, equals, value = pair.partition("=")
            yield Cookie(name.strip(), value) if equals else Cookie("", pair), pair


def path_matches(path: str, cookie_path: str) -> bool:
    """Section 5.1.4: whether a cookie of `cookie_path` goes to `path`."""
    if not path.startswith(cookie_path):
        return False
    return len(path) == len(cookie_path) or cookie_path[-1] == "/" or path[len(cookie_path)] == "/"


def _key(kept: _Kept) -> tuple[str, str, str]:
    """What makes two cookies one (section 5.3, step 11)."""
    return kept.cookie.name, kept.domain, kept.path


def _is_allowed(said: SetCookie, url: URL) -> bool:
    """Whether `url` may set it, by the rules about Secure and prefixes (RFC 6265bis 5.7)."""
    if said.secure and url.scheme != "https":
        return False
    name = said.name.lower()
    if name.startswith(_SECURE_NAME):
        return said.secure
    if name.startswith(_HOST_NAME):
        return said.secure and said.path == "/" and not said.domain
    return True


def _kept(said: SetCookie, url: URL) -> _Kept | None:
    """The cookie as it is stored, or None if `url` may not set it."""
    host, domain = url.raw_host or "", said.domain
    if not domain.isascii():  # section 5.1.2: it is compared as hosts are
        domain = domain_of(domain) or ""
        if not domain:
            return None
    if domain and is_public_suffix(domain):
        if domain != host:
            return None
        domain = ""
    if not _is_allowed(said, url) or (domain and not _is_under(host, domain)):
        return None
    path = said.path or path_of(url).rpartition("/")[0] or "/"  # section 5.1.4
    cookie = Cookie(
        said.name,
        said.value,
        domain or host,
        path,
        said.age or said.expires or UNSET,
        secure=said.secure,
        http_only=said.http_only,
        host_only=not domain,
    )
    return _Kept(cookie, domain or host, path, f"{said.name}={said.value}")


def _is_under(host: str, domain: str) -> bool:
    """Section 5.1.3: whether `host` is `domain`, or below it. An address has no domains."""
    return host == domain or (host.endswith("." + domain) and not _is_address(host))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_text(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)
