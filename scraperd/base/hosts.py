"""Host patterns: which hosts `example.com` and `*.example.com` mean. Pure.

May touch: names and addresses as text.
Must never: resolve a name.
"""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


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
    """One spelling a host: lower case, no final dot, an IPv6 address shortest, without brackets."""
    host = host.lower().strip("[]").rstrip(".")
    if ":" in host:
        with suppress(ValueError):
            return str(ipaddress.IPv6Address(host))
    return host
