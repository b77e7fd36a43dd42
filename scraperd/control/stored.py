"""A set of rules as a message, with the seal of the fleet. Pure.

May touch: values, the keys of the fleet.
Must never: believe a set without a valid seal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from scraperd.broker.ports import Message
from scraperd.control.rules import RuleSet

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SEAL: Final = "x-scraperd-rules-seal"
_PURPOSE: Final = b"scraperd rules 1"
_decoder: Final = msgspec.json.Decoder(RuleSet)


class Keys(Protocol):
    """The keys of a fleet: see jobs/signing.py."""

    def seal(self, purpose: bytes, values: Iterable[bytes]) -> str:
        """Return a signature over values, for one purpose."""

    def is_sealed(self, seal: str, purpose: bytes, values: Iterable[bytes]) -> bool:
        """Return whether one of the keys made `seal`."""


def written(rules: RuleSet, keys: Keys) -> Message:
    """Return the message of a set."""
    body = msgspec.json.encode(rules)
    return Message(body, {SEAL: keys.seal(_PURPOSE, (body,))})


def read(body: bytes, headers: Mapping[str, Any], keys: Keys) -> RuleSet | None:
    """Return the set that a message holds; None without a valid seal."""
    seal = headers.get(SEAL)
    if not isinstance(seal, str) or not keys.is_sealed(seal, _PURPOSE, (body,)):
        return None
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
