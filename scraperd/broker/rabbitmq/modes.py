"""The modes of a process's consumers, as a table: what each consumes, and what ends it. Pure.

May touch: names of queues.
Must never: ask a broker, or read a clock.

A crash counts against every unacked delivery. So a job of `solo` runs alone: the process first
empties itself, and consumes again when that job is done (docs/decisions/0016-quarantine.md). While
the broker takes no outcome nothing is consumed. The table:

| mode        | consumes                      | event     | next mode   |
| ----------- | ----------------------------- | --------- | ----------- |
| consuming   | quarantine, undelivered, jobs | solo due  | emptying    |
| consuming   | quarantine, undelivered, jobs | blocked   | paused      |
| paused      |                               | unblocked | consuming   |
| emptying    |                               | empty     | solo        |
| emptying    |                               | blocked   | paused      |
| solo        | solo                          | solo over | leaving     |
| solo        | solo                          | blocked   | solo paused |
| solo paused |                               | unblocked | leaving     |
| leaving     |                               | empty     | consuming   |
| leaving     |                               | blocked   | solo paused |
| closed      |                               |           |             |

Each mode is left for `closed` when the process drains or ends. The events:

- solo due: a job waits in the queue `solo`, and it is this process's turn to run it.
- empty: no delivery is unacked.
- solo over: the queue `solo` is empty, or other jobs have waited for long enough.
- blocked, unblocked: the broker began or ended a memory or disk alarm, or to refuse all that is
  published to an exchange of ours.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from scraperd.broker.ports import Source

Mode: TypeAlias = Literal[
    "consuming", "paused", "emptying", "solo", "solo paused", "leaving", "closed"
]
Event: TypeAlias = Literal["solo due", "empty", "solo over", "blocked", "unblocked"]

# In this order: answers to a registration come behind all that earlier consumers are delivered.
_ALL: Final = (Source.QUARANTINE, Source.UNDELIVERED, Source.JOBS)

CONSUMES: Final[dict[Mode, tuple[Source, ...]]] = {
    "consuming": _ALL,
    "paused": (),
    "emptying": (),
    "solo": (Source.SOLO,),
    "solo paused": (),
    "leaving": (),
    "closed": (),
}

NEXT: Final[dict[tuple[Mode, Event], Mode]] = {
    ("consuming", "solo due"): "emptying",
    ("consuming", "blocked"): "paused",
    ("paused", "unblocked"): "consuming",
    ("emptying", "empty"): "solo",
    ("emptying", "blocked"): "paused",
    ("solo", "solo over"): "leaving",
    ("solo", "blocked"): "solo paused",
    ("solo paused", "unblocked"): "leaving",  # the solo job still runs, so nothing else starts
    ("leaving", "empty"): "consuming",
    ("leaving", "blocked"): "solo paused",
}
PAUSED: Final[frozenset[Mode]] = frozenset({"paused", "solo paused"})
