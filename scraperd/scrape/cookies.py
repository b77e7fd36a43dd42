"""The cookies of one job, from its first request through all its redirects (RFC 6265).

May touch: the time it is given, for the `Expires` of an answer that has no Date.
Must never: outlive its job, or send the job's own cookies to another origin.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from scraperd.base.urls import origin_of
from scraperd.contract import MAX_COOKIES
from scraperd.fetch.message import http_date, sent_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from yarl import URL

MAX_PAIR: Final = 4096  # characters of name and value; browsers ignore a longer cookie
MAX_ATTRIBUTE: Final = 1024  # characters; browsers ignore a longer one, and Path is kept
_UNFIT = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")  # can't stand in a header of ours


@dataclass(frozen=True, slots=True)
class _Cookie:
    """A cookie that a redirect set, as RFC 6265 section 5.3 stores it."""

    pair: str
    domain: str
    host_only: bool
    path: str
    secure: bool

    def fits(self, url: URL) -> bool:
        """Section 5.4: whether it goes to `url`."""
        host = url.raw_host or ""
        if not (host == self.domain or (not self.host_only and _is_under(host, self.domain))):
            return False
        if self.secure and url.scheme != "https":
            return False
        path = url.raw_path
        return path == self.path or path.startswith(self.path.rstrip("/") + "/")


class Cookies:
    """`own` are the job's, for the `first` URL's origin; `learn` adds what a redirect sets.

    The newest MAX_COOKIES of those are kept. Section 6.1 asks ten times as many of
    a browser, for all the sites of its life; this is one page's few hops, and
    no site reads a header that long.
    """

    def __init__(self, first: URL, own: list[tuple[str, str]]) -> None:
        self._own = own
        self._origin = origin_of(first)
        self._set: dict[tuple[str, str, str], _Cookie] = {}

    def header(self, url: URL) -> str:
        """The Cookie header for a request to `url`; empty if none goes there."""
        pairs: list[str] = []
        if self._own and origin_of(url) == self._origin:
            pairs = [pair for _, pair in self._own]
        if self._set:
            fitting = [cookie for cookie in self._set.values() if cookie.fits(url)]
            fitting.sort(key=lambda cookie: -len(cookie.path))  # stable: then by age
            pairs += [cookie.pair for cookie in fitting]
        return "; ".join(pairs)

    def learn(
        self, url: URL, lines: Iterable[str], headers: Mapping[str, str], now: datetime
    ) -> None:
        """Keep what `url` sets (section 5.2): the next hop may depend on it.

        `headers` are those of the same answer. Its Date is what `Expires` is taken against:
        with a clock of ours that is ahead, a cookie for minutes would be over as it comes.
        Without a Date it is taken against `now`.
        """
        names: set[str] = set()
        for line in lines:
            pair, *rest = line.split(";")
            pair = pair.strip()
            name, is_pair, _ = pair.partition("=")
            name = name.strip()
            if not (name and is_pair) or len(pair) > MAX_PAIR or _UNFIT.search(pair):
                continue
            attributes = _attributes(rest)
            cookie = _cookie(pair, attributes, url)
            if cookie is None:
                continue
            names.add(name)
            key = (name, cookie.domain, cookie.path)
            if _is_over(attributes, headers, now):
                self._set.pop(key, None)
            else:
                self._set[key] = cookie
                if len(self._set) > MAX_COOKIES:
                    del self._set[next(iter(self._set))]
        if names and self._own:
            self._own = [own for own in self._own if own[0] not in names]  # the site knows better


def given(cookies: dict[str, str], header: str) -> list[tuple[str, str]]:
    """The job's own cookies, as pairs of the name and `name=value`."""
    pairs = [(name, f"{name}={value}") for name, value in cookies.items()]
    parts = [part.strip() for part in header.split(";")]
    return pairs + [(part.partition("=")[0].strip(), part) for part in parts if part]


def _attributes(parts: Iterable[str]) -> dict[str, str]:
    """By lower-case name; the last of a name wins."""
    split = (part.partition("=") for part in parts if len(part) <= MAX_ATTRIBUTE)
    return {name.strip().lower(): value.strip() for name, _, value in split}


def _cookie(pair: str, attributes: dict[str, str], url: URL) -> _Cookie | None:
    host = url.raw_host or ""
    domain = attributes.get("domain", "").removeprefix(".").lower()
    if domain and domain != host and not _is_under(host, domain):
        return None  # a site can't set cookies for another
    path = attributes.get("path", "")
    if not path.startswith("/"):
        path = url.raw_path.rpartition("/")[0] or "/"  # section 5.1.4
    return _Cookie(pair, domain or host, not domain, path, "secure" in attributes)


def _is_under(host: str, domain: str) -> bool:
    """Section 5.1.3. An address has no domains above it."""
    return host.endswith("." + domain) and not _is_address(host)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_over(attributes: dict[str, str], headers: Mapping[str, str], now: datetime) -> bool:
    """Whether the cookie is being deleted; a job is too short for any other lifetime to matter."""
    age = attributes.get("max-age", "")
    if re.fullmatch(r"-?[0-9]+", age):
        return age.startswith("-") or not age.strip("0")
    expires = http_date(attributes.get("expires", ""))
    return expires is not None and expires <= sent_at(headers, now)
