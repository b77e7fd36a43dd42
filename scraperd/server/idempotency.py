"""Idempotency keys: the answer to a request is given again to the same request. Pure.

May touch: a clock that it is handed.
Must never: answer a holder by the key of another, or hold more than its bounds.

By draft-ietf-httpapi-idempotency-key-header-07.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, TypeAlias

from msgspec import Struct

from scraperd.base.cache import Cache
from scraperd.server.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HEADER: Final = "Idempotency-Key"
MAX_KEY: Final = 255  # characters
MAX_ANSWERS_BYTES: Final = 64 * 1024 * 1024  # of all answers that are kept
_QUOTED: Final = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])+)"')  # a String of RFC 8941, not empty
_BARE: Final = re.compile(r"[!#-+\--\[\]-~]+")  # without quotes, as many clients send it

Key: TypeAlias = tuple[str, str]  # of the holder of a token, and what the holder sent


class Outcome(Struct, frozen=True):
    """What became of a request: its answer, how many jobs it published, the handle of a result."""

    status: int
    body: bytes
    jobs: int
    handle: str | None = None


class Kept(Struct, frozen=True):
    """The outcome of an earlier request, and the digest of what that was."""

    digest: bytes
    outcome: Outcome


def key_of(values: list[str]) -> str | None:
    """Return the key that the header's values name; None without the header. Raises Problem."""
    if not values:
        return None
    text = values[0].strip()
    match = _QUOTED.fullmatch(text)
    if len(values) > 1 or not (match or _BARE.fullmatch(text)) or len(text) > MAX_KEY:
        raise Problem(
            HTTPStatus.BAD_REQUEST,
            f"{HEADER} is one text in double quotes, of 1 to {MAX_KEY} visible characters",
        )
    return match[1] if match else text


class Keys:
    """The keys of `seconds`: at most `most`; past that the ones used longest ago are forgotten."""

    def __init__(self, most: int, seconds: float, clock: Callable[[], float]) -> None:
        self._kept: Cache[Key, Kept] = Cache(most, MAX_ANSWERS_BYTES)
        self._seconds = seconds
        self._clock = clock
        self._claimed: set[Key] = set()

    def configure(self, most: int, seconds: float) -> None:
        """Take other bounds; a key that is kept stays for the time that it was kept for."""
        self._kept.configure(most, MAX_ANSWERS_BYTES)
        self._seconds = seconds

    @contextmanager
    def claimed(self, key: Key) -> Iterator[Kept | None]:
        """Give what is kept for a key, which nobody else can claim meanwhile.

        Raises Problem if somebody has it now.
        """
        if key in self._claimed:
            raise Problem(
                HTTPStatus.CONFLICT,
                f"a request with this {HEADER} is being worked on; send it again later",
                headers={"Retry-After": "1"},
            )
        self._claimed.add(key)
        try:
            yield self._kept.get(key, self._clock())
        finally:
            self._claimed.discard(key)

    def keep(self, key: Key, kept: Kept) -> None:
        """Keep the outcome of a request."""
        until = self._clock() + self._seconds
        self._kept.put(key, kept, size=len(kept.outcome.body), until=until)
