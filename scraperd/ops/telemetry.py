"""What is told of jobs and of the process: one line a job, counts, events; in one place.

May touch: the records of jobs, structlog.
Must never: change what happens, or write a credential.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import structlog
from msgspec import UNSET

from scraperd.base.urls import without_credentials
from scraperd.broker.ports import Into
from scraperd.jobs.verdict import Dead, Done, Requeue, Retry, Snooze
from scraperd.ops.log import set_level

if TYPE_CHECKING:
    from msgspec import UnsetType

    from scraperd.broker.ports import Destination
    from scraperd.contract import Result
    from scraperd.jobs.received import Received
    from scraperd.jobs.record import Record
    from scraperd.jobs.verdict import Verdict
    from scraperd.ops.log import Log
    from scraperd.ops.stats import Stats

LOG_INTERVAL: Final = 60.0  # seconds


@dataclass(slots=True)
class Tally:
    """Counts since the start, for the status line."""

    done: int = 0
    failed: int = 0
    retried: int = 0
    snoozed: int = 0
    requeued: int = 0
    dead: int = 0
    lost: int = 0
    starved: int = 0
    unlogged: int = 0

    @property
    def ended(self) -> int:
        """How many deliveries came to their end here."""
        return self.done + self.retried + self.snoozed + self.requeued + self.dead


@dataclass(slots=True)
class Observer:
    """Where records and events go. `lines` is what `log` writes to, `stats` what /metrics shows."""

    log: Any = field(default_factory=structlog.get_logger)
    lines: Log | None = None
    tally: Tally = field(default_factory=Tally)
    stats: Stats | None = None
    _unverified: int = 0  # jobs since it was last said
    _next_unverified: float = -math.inf

    def set_level(self, level: str) -> None:
        """Write from now on what is at least as grave as this."""
        set_level(level)
        self.log = structlog.get_logger()

    def event(self, event: str, **fields: Any) -> None:
        """Something happened to the process: start, ready, lost broker, drain, stop."""
        self.tally.starved += event == "consumer_starved"
        level = "error" if event in _ERRORS else "warning" if event in _WARNINGS else "info"
        self._write(level, event, fields)

    def record(self, record: Record) -> None:
        """Count one finished delivery and write its line."""
        result, verdict = record.result, record.verdict
        if self.stats is not None:
            self.stats.add(record)
        match verdict:
            case Done():
                self.tally.done += 1
                self.tally.failed += result is not None and result.status == "failed"
            case Retry():
                self.tally.retried += 1
            case Snooze():
                self.tally.snoozed += 1
            case Requeue():
                self.tally.requeued += 1
            case Dead():
                self.tally.dead += 1
        self.tally.lost += not record.settled
        level = logging.DEBUG if isinstance(verdict, Snooze) else logging.INFO
        if self.log.is_enabled_for(level):
            name = "info" if level == logging.INFO else "debug"
            self._write(name, "job", _line(record))

    def solo(self, received: Received) -> None:
        """A job begins to run alone. If the process ends now, this is the last that is said."""
        told = {"id": received.name, "url": _shown(received.url), "host": received.host}
        self.event("solo_job", **told, strikes=received.strikes)

    def unverified(self) -> None:
        """A job came with headers of ours that have no valid signature.

        Any publisher can provoke this with each job, so one line a minute gives the count.
        """
        self._unverified += 1
        if (now := time.monotonic()) >= self._next_unverified:
            self.event("signature_invalid", jobs=self._unverified)
            self._unverified, self._next_unverified = 0, now + LOG_INTERVAL

    def trouble(self, event: str, error: BaseException, **fields: Any) -> None:
        """An error of ours, with its traceback."""
        self._write("error", event, {"exc_info": error, **fields})

    def lost_lines(self, count: int) -> None:
        """So many lines of the log were lost: its reader stalled, or its disk was full."""
        self.event("log_lines_lost", lines=count)

    @property
    def unlogged(self) -> int:
        """How many lines were lost, or could not be made, since the start."""
        return self.tally.unlogged + (self.lines.sink.lost if self.lines else 0)

    def _write(self, level: str, event: str, fields: dict[str, Any]) -> None:
        """Write a line; what it should say must not end a job or the process."""
        try:
            if event == "job" and self.lines is not None and self.lines.json:
                self.lines.line(level, event, fields)
                return
            getattr(self.log, level)(event, **fields)
        except Exception:  # noqa: BLE001 - there is nowhere left to say it
            self.tally.unlogged += 1


_ERRORS = frozenset({"config", "reload_failed"})
_WARNINGS = frozenset(
    {
        "broker_unreachable",
        "broker_refused",
        "broker_lost",
        "broker_blocked",
        "broker_limit",
        "broker_vulnerable",
        "consumer_starved",
        "descriptors_exhausted",
        "descriptors_few",
        "helpers_busy",
        "helpers_unconfined",
        "log_lines_lost",
        "signature_invalid",
        "status_unanswered",
        "own_addresses_unknown",
        "reply_refused",
        "queue_differs",
        "publish_refused",
        "priority_ignored",
        "queue_policy",
        "undeliverable",
        "drain_timeout",
        "second_signal",
    }
)


def _of_verdict(verdict: Verdict) -> dict[str, Any]:
    match verdict:
        case Retry(delay):
            return {"retry_in": round(delay, 3)}
        case Snooze(host, delay):
            return {"turn_of": host, "turn_in": round(delay, 3)}
        case Requeue(to):
            return {"queue": _place(to)}
    return {}


def _of_result(result: Result | None) -> dict[str, Any]:
    if result is None:
        return {}
    fields: dict[str, Any] = {"http_status": result.http_status, "bytes": result.size}
    if result.error:
        fields |= {"kind": result.error.kind, "error": result.error.message}
    if result.timings is not UNSET:
        took = result.timings
        fields |= {
            "total": took.total,
            "wait": took.wait,
            "fetch": took.fetch,
            "extract": took.extract,
        }
    return fields


def _place(to: Destination) -> str:
    """Where a job was moved to: a queue without its prefix."""
    return to.source.value if isinstance(to, Into) else type(to).__name__.lower()


def _shown(url: str | UnsetType) -> str | None:
    return None if url is UNSET else without_credentials(url)


def _line(record: Record) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "id": record.ident,
        "url": _shown(record.url),
        "host": record.host,
        "status": UNSET if record.result is None else record.result.status,
        "verdict": type(record.verdict).__name__.lower(),
        "attempt": record.attempt,
        "publish": round(record.publish_time, 6),
        **_of_verdict(record.verdict),
        **_of_result(record.result),
    }
    counts = {"strikes": record.strikes, "snoozes": record.snoozes}
    fields |= {name: count for name, count in counts.items() if count}
    if not record.settled:
        fields["settled"] = False
    return {name: value for name, value in fields.items() if value is not UNSET}
