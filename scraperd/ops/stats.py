"""What the records of jobs add up to since the start, for /metrics. Pure.

May touch: the records, the verdicts.
Must never: keep a host, a URL or an id: what is counted by has few values.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from msgspec import UNSET

from scraperd.base.histogram import Histogram
from scraperd.broker.ports import Into
from scraperd.jobs.verdict import Dead, Done, Requeue

if TYPE_CHECKING:
    from scraperd.contract import Result, Timings
    from scraperd.jobs.record import Record
    from scraperd.ops.fleet.faults import Faults

OK: Final = "ok"  # stands for the kind of what did not fail
PHASES: Final = ("dns", "connect", "tls", "first_byte", "transfer")


def _phases() -> dict[str, Histogram]:
    return {phase: Histogram() for phase in PHASES}


@dataclass(slots=True)
class Stats:
    """Counts and times of all deliveries that came to an end here, beyond those of Tally.

    Times are in seconds.
    """

    ended: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Jobs that left us, by outcome (ok, failed, dead) and by kind of failure."""
    attempts: Counter[str] = field(default_factory=Counter)
    """Attempts by kind of failure, those that are retried too."""
    moved: Counter[str] = field(default_factory=Counter)
    """Jobs that were moved unread, by queue."""
    responses: Counter[str] = field(default_factory=Counter)
    """Last responses of pages by class of status, such as 2xx."""
    bytes: int = 0
    """Bytes of bodies after decompression."""
    queue_wait: Histogram = field(default_factory=Histogram)
    """From the publisher's timestamp, in whole seconds, to the first delivery."""
    lateness: Histogram = field(default_factory=Histogram)
    """From a snoozed job's turn, or from when a retried job was due, to its return."""
    phases: dict[str, Histogram] = field(default_factory=_phases)
    publish: Histogram = field(default_factory=Histogram)
    """From a result's publish to its confirm."""
    total: Histogram = field(default_factory=Histogram)
    """From the begin of a job here to its result."""
    faults: Faults | None = None
    """The last failures of each host, if anybody may ask for them."""

    def add(self, record: Record) -> None:
        """Count one delivery that came to its end."""
        result, verdict = record.result, record.verdict
        match verdict:
            case Done() | Dead():
                self._end(result, dead=isinstance(verdict, Dead))
            case Requeue(to):
                where = to.source.value if isinstance(to, Into) else type(to).__name__.lower()
                self.moved[where] += 1
        if record.queue_wait is not None:
            self.queue_wait.add(record.queue_wait)
        if record.lateness is not None:
            self.lateness.add(record.lateness)
        if result is not None:
            self._add_result(result)
            if result.error and self.faults is not None and record.host is not None:
                self.faults.add(record.host, result)
            self.publish.add(record.publish_time)

    def _end(self, result: Result | None, *, dead: bool) -> None:
        if result is not None:
            outcome = "dead" if dead else result.status
            self.ended[outcome, result.error.kind if result.error else OK] += 1

    def _add_result(self, result: Result) -> None:
        self.attempts[result.error.kind if result.error else OK] += 1
        if result.http_status is not UNSET:
            self.responses[f"{result.http_status // 100}xx"] += 1
        if result.size is not UNSET:
            self.bytes += result.size
        if result.timings is not UNSET:
            self._add_times(result.timings)

    def _add_times(self, took: Timings) -> None:
        self.total.add(took.total)
        for phase, histogram in self.phases.items():
            if (seconds := getattr(took, phase)) is not UNSET:
                histogram.add(seconds)
