"""Host patterns: which hosts `example.com` and `*.example.com` mean. Pure.

May touch: names and addresses as text, the one reader of hosts.
Must never: resolve a name, or read a host in another way than the URL that is dialled.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final

from scraperd.base.urls import host_as_dialled, host_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_NUMBERS: Final = re.compile("[0-9.]+")
_NAME: Final = re.compile(r"[^\s/:?#@\\\[\]*%]+")  # what may be a host's name; yarl looks closer


class HostSet:
    """Hosts by pattern: `host in HostSet(["example.com", "*.example.org"])`."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = frozenset(canonical(pattern) for pattern in patterns)

    def __contains__(self, host: str) -> bool:
        return any(name in self._patterns for name in names_of(host))

    def __bool__(self) -> bool:
        return bool(self._patterns)


def names_of(host: str) -> Iterator[str]:
    """The patterns that mean `host`, the most specific first.

    `www.example.com` is meant by itself, `*.example.com`, `*.com` and `*`. A
    domain's own name is not among its `*.domain`, as in certificates (RFC 9525).
    """
    host = canonical(host)
    yield host
    if ":" not in host:
        labels = host.split(".")
        for start in range(1, len(labels)):
            yield f"*.{'.'.join(labels[start:])}"
    yield "*"


def canonical(host: str) -> str:
    """One spelling of a host or a pattern: the host as dialled, no final dot, no brackets.

    A text that is neither is in lower case. `*.EXÁMPLE.com.` is `*.xn--exmple-qta.com`.
    """
    star, name = ("*.", host[2:]) if host.startswith("*.") else ("", host)
    name = name.strip("[]")
    if ":" in name:
        return (host_as_dialled(f"[{name}]") or name.lower()).strip("[]")
    read = host_as_dialled(name)
    if read is None or (star and _NUMBERS.fullmatch(read)):  # `*.0.0.1` is no address
        read = name.lower()
    return star + read.rstrip(".")


def host_pattern(text: str) -> str:
    """A pattern of hosts as HostSet takes it, spelled as hosts are here: names in punycode.

    Raises ValueError for anything else, such as a URL or a host with its port.
    """
    star, name = ("*.", text[2:]) if text.startswith("*.") else ("", text)
    if text == "*":
        return text
    if ":" in name and not star:
        return str(ipaddress.IPv6Address(name.strip("[]")))
    host = host_of(f"http://{name}/") if _NAME.fullmatch(name) else None
    if not host:
        raise ValueError(f"{text!r} is not a host")
    return star + host
