"""Which rule is about a job: by dictionaries, however many rules there are. Pure.

May touch: rules, what names a job.
Must never: look at all rules for one job.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, Struct

from scraperd.base.hosts import canonical, names_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from msgspec import UnsetType

    from scraperd.control.rules import Rule


class About(Struct, frozen=True):
    """What rules look at in a job: its id, its batch's, its host, its `meta` as JSON."""

    ident: str
    batch: str
    host: str
    meta: msgspec.Raw | UnsetType = UNSET


class Matcher:
    """Finds the rule that is about a job. Of several the first of id, batch, host, meta."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        by: dict[str, dict[str, Rule]] = {"id": {}, "batch": {}, "host": {}}
        self._metas: dict[str, dict[str, Rule]] = {}
        for rule in rules:
            if rule.what == "meta":
                self._metas.setdefault(rule.name, {})[rule.value] = rule
            elif rule.what in by:
                by[rule.what][rule.value] = rule
        self._idents, self._batches = by["id"], by["batch"]
        self._hosts = {canonical(pattern): rule for pattern, rule in by["host"].items()}

    def __bool__(self) -> bool:
        return bool(self._idents or self._batches or self._hosts or self._metas)

    def of(self, job: About) -> Rule | None:
        """Return the rule about a job, or None."""
        found = self._idents.get(job.ident) or self._batches.get(job.batch)
        return found or self.of_host(job.host) or self._of_meta(job.meta)

    def of_host(self, host: str) -> Rule | None:
        """Return the rule about a host: that of the most specific pattern."""
        if not self._hosts:
            return None
        return next((self._hosts[name] for name in names_of(host) if name in self._hosts), None)

    @property
    def has_hosts(self) -> bool:
        """Whether any rule is about a host."""
        return bool(self._hosts)

    def _of_meta(self, meta: msgspec.Raw | UnsetType) -> Rule | None:
        if not self._metas or meta is UNSET:
            return None
        try:
            fields = msgspec.json.decode(meta)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        if not isinstance(fields, dict):
            return None
        found = (
            self._metas[name].get(_text(fields[name]) or "")
            for name in self._metas.keys() & fields.keys()
        )
        return next((rule for rule in found if rule is not None), None)


def _text(value: Any) -> str | None:
    """A value of `meta` as a person types it; None for a list, an object, or null."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return msgspec.json.encode(value).decode()
    return None
