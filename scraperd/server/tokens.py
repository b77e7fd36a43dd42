"""Who may do what over HTTP: bearer tokens from a file (RFC 6750). Pure.

May touch: the lines of the file, a clock that it is handed.
Must never: keep a token as text, or compare one in a time that tells how much of it is right.
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

from scraperd.base.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable

Role: TypeAlias = Literal["read", "submit", "admin"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)  # each may do what those before it may
MIN_TOKEN: Final = 16  # characters
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750 section 2.1
_FIELDS: Final = (3, 4)  # of a line: with a rate, and without


class TokensError(ValueError):
    """The file of tokens is wrong; the message says which line, and shows no token."""


@dataclass(slots=True)
class Holder:
    """Who has a token: a name for the log, what it may do, and its requests a second."""

    name: str
    role: Role
    digest: bytes
    rate: float | None = None
    left: float = 0.0  # requests that it may make now
    seen: float = 0.0  # when it was last counted, by the monotonic clock

    def may(self, role: Role) -> bool:
        """Return whether it may do what `role` may."""
        return ROLES.index(self.role) >= ROLES.index(role)

    def take(self, now: float) -> float:
        """Count a request. Return the seconds until one is allowed; 0 if this one is.

        A second's requests may come at once.
        """
        if self.rate is None:
            return 0.0
        most = max(1.0, self.rate)
        self.left = min(most, self.left + (now - self.seen) * self.rate) if self.seen else most
        self.seen = now
        if self.left < 1:
            return (1 - self.left) / self.rate
        self.left -= 1
        return 0.0


ANYBODY: Final = Holder("", "submit", b"")  # where no token is needed


class Tokens:
    """The tokens of a file, at least one."""

    def __init__(self, holders: list[Holder], clock: Callable[[], float]) -> None:
        self._holders = holders
        self._clock = clock

    def __len__(self) -> int:
        return len(self._holders)

    def holder(self, header: str) -> Holder | None:
        """Return who sent this Authorization header; None if it has no token of ours.

        The digest is compared with all of them, so the time says nothing of any.
        """
        scheme, _, token = header.partition(" ")
        digest = sha256(token.strip().encode(errors="replace")).digest()
        found = None
        for holder in self._holders:
            if hmac.compare_digest(holder.digest, digest):
                found = holder
        return found if scheme.lower() == "bearer" else None

    def wait(self, holder: Holder) -> float:
        """Count a request of `holder`. Return the seconds until one is allowed."""
        return holder.take(self._clock())

    def still(self, holder: Holder, role: Role) -> bool:
        """Return whether the token of a holder of another file is one of ours that may do that."""
        return (own := self._own(holder)) is not None and own.may(role)

    def succeed(self, before: Tokens) -> list[str]:
        """Take the place of other tokens: requests that are counted stay counted.

        Return the names whose lines differ.
        """
        for holder in self._holders:
            if (old := before._own(holder)) is not None:
                holder.left, holder.seen = old.left, old.seen
        lines, earlier = self._lines, before._lines
        return sorted(name for name in lines | earlier if lines.get(name) != earlier.get(name))

    def _own(self, holder: Holder) -> Holder | None:
        found = (it for it in self._holders if hmac.compare_digest(it.digest, holder.digest))
        return next(found, None)

    @property
    def _lines(self) -> dict[str, tuple[Role, bytes, float | None]]:
        return {it.name: (it.role, it.digest, it.rate) for it in self._holders}


def read_tokens(text: str, clock: Callable[[], float]) -> Tokens:
    """Read a file of tokens: NAME ROLE TOKEN [REQUESTS-A-SECOND] a line; # begins a comment.

    Raises TokensError.
    """
    holders: list[Holder] = []
    for number, line in enumerate(text.splitlines(), 1):
        if fields := line.partition("#")[0].split():
            holders.append(_holder(fields, f"line {number}"))
    names = [it.name for it in holders]
    if len({*names}) < len(names):
        raise TokensError("a name is given to more than one token")
    if len({it.digest for it in holders}) < len(holders):
        raise TokensError("a token is given to more than one name")
    if not holders:
        raise TokensError("it has no token")
    return Tokens(holders, clock)


def _holder(fields: list[str], where: str) -> Holder:
    if len(fields) not in _FIELDS:
        raise TokensError(f"{where}: write NAME ROLE TOKEN, and perhaps requests a second")
    name, role, token, *rate = fields
    if role not in ROLES:
        raise TokensError(f"{where}: the role {printable(role)} is not one of {', '.join(ROLES)}")
    if len(token) < MIN_TOKEN or not _TOKEN.fullmatch(token):
        raise TokensError(
            f"{where}: a token has at least {MIN_TOKEN} characters, of letters, digits and "
            "._~+/- (openssl rand -hex 32)"
        )
    digest = sha256(token.encode()).digest()
    return Holder(printable(name, 50), role, digest, _rate(rate[0], where) if rate else None)


def _rate(text: str, where: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0.001 <= rate <= 1e6:  # noqa: PLR2004 - one in a quarter of an hour, and no limit
        raise TokensError(f"{where}: requests a second are a number from 0.001 to 1000000")
    return rate
