"""Which policy holds for a queue, by RabbitMQ's rules: its statistics tell it seconds late. Pure.

May touch: answers of the management API, which are untrusted values; RE2, which cannot hang.
Must never: raise over an answer, or take a pattern that cannot be read for one that fits.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import re2
from msgspec import Struct

from scraperd.base.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_PATTERN: Final = 1000  # characters
# RE2 has no lookahead. This one is what most patterns use it for: all but names that begin so.
_ALL_BUT = re.compile(r"\^\(\?!(?P<but>[^()]*)\)(?P<rest>[^()]*)")
_KINDS: Final = {  # apply-to, by the type of the queue
    "quorum": frozenset({"all", "queues", "quorum_queues"}),
    "classic": frozenset({"all", "queues", "classic_queues"}),
}
_MINIMA: Final = frozenset(  # keys of which the smaller value of both policies counts
    {"expires", "message-ttl", "max-length", "max-length-bytes", "delivery-limit"}
)


class Policy(Struct, frozen=True):
    """A policy as the management API tells it."""

    name: str
    pattern: str
    applies_to: str
    definition: dict[str, Any]
    priority: int

    @classmethod
    def of(cls, answer: Any) -> Policy | None:
        """Read one; None if it is not as RabbitMQ tells policies."""
        values = answer if isinstance(answer, dict) else {}
        name, pattern = values.get("name"), values.get("pattern")
        definition, priority = values.get("definition"), values.get("priority", 0)
        if not (isinstance(name, str) and isinstance(pattern, str)):
            return None
        if not isinstance(definition, dict) or type(priority) is not int:
            return None
        return cls(name, pattern, str(values.get("apply-to", "all")), definition, priority)

    def fits(self, queue: str, kind: str) -> bool | None:
        """Whether it means a queue; None if its pattern cannot be read here."""
        if self.applies_to not in _KINDS.get(kind, _KINDS["quorum"]):
            return False
        if (match := _ALL_BUT.fullmatch(self.pattern)) is not None:
            but = _found(f"^(?:{match['but']})", queue)
            rest = _found(f"^(?:{match['rest']})", queue)
            return None if but is None or rest is None else rest and not but
        return _found(self.pattern, queue)


def policies_of(answer: Any) -> list[Policy]:
    """Read a list of policies, the one that counts most first."""
    every = answer if isinstance(answer, list) else []
    found = [policy for policy in map(Policy.of, every) if policy is not None]
    return sorted(found, key=lambda policy: -policy.priority)


def applied(
    queue: str, kind: str, policies: Iterable[Policy], operators: Iterable[Policy]
) -> dict[str, Any]:
    """Return the names of the policy and the operator policy of a queue, and what both make.

    The keys are those of RabbitMQ's own answer about a queue.
    """
    policy = next((one for one in policies if one.fits(queue, kind)), None)
    operator = next((one for one in operators if one.fits(queue, kind)), None)
    effective = dict(policy.definition) if policy else {}
    for key, value in (operator.definition if operator else {}).items():
        own = effective.get(key)
        both = key in _MINIMA and type(own) is int and type(value) is int
        effective[key] = min(own, value) if both else value
    return {
        "policy": policy.name if policy else None,
        "operator_policy": operator.name if operator else None,
        "effective_policy_definition": effective,
    }


def unread(queue: str, policies: Iterable[Policy]) -> list[str]:
    """Say of which policies it is not known whether they mean the queues."""
    return [
        f"policy {printable(one.name, 100)!r}: its pattern {printable(one.pattern, 100)!r} cannot "
        "be read here; look whether it means these queues"
        for one in policies
        if one.fits(queue, "quorum") is None
    ]


def _found(pattern: str, name: str) -> bool | None:
    if len(pattern) > MAX_PATTERN:
        return None
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options).search(name) is not None
    except (re2.error, ValueError):
        return None
