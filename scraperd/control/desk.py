"""Changes the rules of a fleet: the one interface behind the commands and HTTP.

May touch: the book of rules, which a transport offers; the keys of the fleet.
Must never: write a set that was not made from the newest one.
"""

from __future__ import annotations

import secrets
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol

from scraperd.base.text import printable
from scraperd.control.rules import MAX_BY, Rule, RuleError, RuleSet, renewed
from scraperd.control.stored import read, written

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from scraperd.broker.ports import Message
    from scraperd.control.rules import Do, Edit, What
    from scraperd.control.stored import Keys

QUESTION: Final = b'{"ask":"rules"}'  # has daemons look that know of no rules yet
UNBELIEVED: Final = (
    "the rules that the broker holds are not sealed by a key of this configuration, so they can be "
    "neither read nor changed with it; use the fleet's jobs.signing_key_file (or, without one, its "
    "broker_url). If the fleet's key was changed, `scraperd rules --forget` begins anew"
)


class Book(Protocol):
    """The messages that hold sets of rules, while nobody else can write one."""

    async def records(self) -> Sequence[tuple[bytes, Mapping[str, Any]]]:
        """Return bodies and headers of those that are kept."""

    async def write(self, message: Message) -> None:
        """Add one, confirmed."""


def newest(records: Iterable[tuple[bytes, Mapping[str, Any]]], keys: Keys) -> RuleSet | None:
    """Return the set with the highest version of those with a valid seal."""
    sets = (read(body, headers, keys) for body, headers in records)
    return max((it for it in sets if it is not None), key=lambda it: it.version, default=None)


async def rules_of(book: Book, keys: Keys) -> RuleSet:
    """Return the set of now. Raises RuleError if there are only sets that can't be believed."""
    records = await book.records()
    found = newest(records, keys)
    if found is None and records:
        raise RuleError(UNBELIEVED)
    return found or RuleSet()


async def change(book: Book, keys: Keys, edit: Edit, now: float) -> RuleSet:
    """Put what `edit` makes of the rules of now in force; return that. Raises RuleError."""
    current = await rules_of(book, keys)
    if (rules := edit(current)) is current.rules:
        return current
    after = renewed(current, rules, now)
    await book.write(written(after, keys))
    return after


async def forget(book: Book, keys: Keys, now: float) -> RuleSet:
    """Begin anew without any rule, also where those of now can't be read."""
    after = renewed(newest(await book.records(), keys) or RuleSet(), (), now)
    await book.write(written(after, keys))
    return after


def rule_of(
    do: Do,
    matched: tuple[What, str, str],
    by: str,
    at: float,
    until: float,
    *,
    limits: Mapping[str, Any] = MappingProxyType({}),
) -> Rule:
    """Return a new rule. `limits` are those of control/rules.py."""
    what, name, value = matched
    return Rule(
        id=secrets.token_hex(4),
        do=do,
        what=what,
        name=name,
        value=value,
        by=printable(by, MAX_BY),
        at=at,
        until=until,
        **limits,
    )
