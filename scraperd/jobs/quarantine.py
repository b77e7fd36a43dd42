"""Poison-job isolation: what a redelivery proves, and where the job may run. Pure.

May touch: counts, and the queue that a delivery came from.
Must never: look into a body, or settle anything.

A crash counts against every delivery that was unacked. So a redelivered job runs among few others
first, and after a second time with nothing beside it; only what ends its process alone is dead
(docs/decisions/0016-quarantine.md). The table, by strikes:

| strikes              | from jobs  | from quarantine | from solo |
| -------------------- | ---------- | --------------- | --------- |
| 0                    | runs       | runs            | runs      |
| 1                    | quarantine | runs            | runs      |
| 2 or more            | solo       | solo            | runs      |
| the same, unwitnessed| quarantine | runs            | runs      |
| at delivery_limit    | not run    | not run         | not run   |
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from scraperd.base.cache import Cache
from scraperd.broker.ports import Source

MAX_DISCOUNTS: Final = 50_000  # redeliveries that are remembered as nobody's fault; 14 MB
_LEAST: Final = {Source.QUARANTINE: 1, Source.SOLO: 2}  # nobody else writes there


def strikes(source: Source, noted: int, redeliveries: int, discounted: int) -> int:
    """Count the redeliveries without an outcome, in all queues, that have no known reason.

    `noted` is the count that travelled with the job; `redeliveries` is the broker's for this queue,
    of which `discounted` are known not to be the job's fault.
    """
    before = max(_LEAST.get(source, 0), noted)
    return max(0, before + redeliveries - discounted)


def quarantine_for(source: Source, count: int, *, witnessed: bool) -> Source | None:
    """The queue that a job with `count` strikes must be moved to before it is looked at, if any.

    Without a witness (the broker's own count, or a fresh note) a job only gets among few others:
    a note may be an old copy, and what runs alone is paid for by all others.
    """
    if not count or source is Source.SOLO:
        return None
    place = Source.SOLO if count > 1 and witnessed else Source.QUARANTINE
    return None if place is source else place


@dataclass(slots=True)
class Discounts:
    """Which redeliveries this process knows not to be the job's fault: it lives, so it did not die.

    By a job's fingerprint. Of too many the one that was not used for longest is forgotten.
    """

    _known: Cache[int, int] = field(default_factory=lambda: Cache(MAX_DISCOUNTS))

    def of(self, fingerprint: int, source: Source, redeliveries: int) -> int:
        """How many of its redeliveries are not held against it.

        Cut off again and again, a job is redelivered that nobody has even read. So where it is one
        of many, all its redeliveries are no more than one.
        """
        least = 0 if source is Source.SOLO else redeliveries - 1
        return min(redeliveries, max(self._known.get(fingerprint) or 0, least))

    def add(self, fingerprint: int, so_far: int) -> None:
        """Its next redelivery is not its fault, as `so_far` were not."""
        self._known.put(fingerprint, so_far + 1)
