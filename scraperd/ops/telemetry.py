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

from scraperd.base.text import text_without_credentials, text_without_queries
from scraperd.base.urls import shown
from scraperd.broker.ports import Into
from scraperd.config.tables import LogSettings
from scraperd.jobs.verdict import Dead, Done, Requeue, Retry, Snooze
from scraperd.ops.events import EVENTS
from scraperd.ops.log import set_level
from scraperd.ops.repeats import Cause, Repeats

if TYPE_CHECKING:
    from collections.abc import Mapping

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
    """Where records and events go. `lines` is what `log` writes to, `stats` what /metrics shows.

    Without `job_lines`, no line is written of a job. `spans_lost` has the spans that no collector
    got, by reason; it is None while tracing is off.
    """

    log: Any = field(default_factory=structlog.get_logger)
    lines: Log | None = None
    tally: Tally = field(default_factory=Tally)
    stats: Stats | None = None
    settings: LogSettings = field(default_factory=LogSettings)
    job_lines: bool = True
    spans_lost: Mapping[str, int] | None = None
    _well: int = 0  # jobs that ended well since the last line of one
    _repeats: Repeats = field(default_factory=Repeats)
    _unverified: int = 0  # jobs since it was last said
    _next_unverified: float = -math.inf

    def configure(self, settings: LogSettings) -> None:
        """Write from now on by these settings."""
        self.settings = settings
        self.set_level(settings.level)

    def set_level(self, level: str) -> None:
        """Write from now on what is at least as grave as this."""
        set_level(level)
        self.log = structlog.get_logger()

    def event(self, event: str, **fields: Any) -> None:
        """Something happened to the process: start, ready, lost broker, drain, stop."""
        self.tally.starved += event == "consumer_starved"
        if event == "stop":
            self._say_repeats(all_of_them=True)
        known = EVENTS.get(event)
        self._write(
            known.level if known else "info",
            event,
            {name: self._told(value) for name, value in fields.items()},
        )

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
        if self.job_lines:
            self._job(record)

    def _job(self, record: Record) -> None:
        """Write the line of a job, unless there were enough of its cause, or it is not sampled."""
        self._say_repeats()
        level = _level_of(record, self.settings.job_level)
        if not self.log.is_enabled_for(level) or not self._is_written(record):
            return
        fields = _line(record, self._shown(record.url))
        if "error" in fields:
            fields["error"] = self._told(fields["error"])
        self._write(_NAMES[level], "job", fields)

    def _is_written(self, record: Record) -> bool:
        result = record.result
        if result is not None and result.error:
            return self._repeats.take(
                Cause(record.host, result.error.kind), self.settings.failure_lines
            )
        if not isinstance(record.verdict, Done) or not record.settled:
            return True
        self._well += 1
        if self._well < self.settings.job_sample:
            return False
        self._well = 0
        return True

    def _say_repeats(self, *, all_of_them: bool = False) -> None:
        for cause, count in self._repeats.over(all_of_them=all_of_them):
            self.event("failures_repeated", host=cause.host, kind=cause.kind, jobs=count)

    def _shown(self, url: str | UnsetType) -> str | None:
        return None if url is UNSET else shown(url, self.settings.urls)

    def _told(self, value: Any) -> Any:
        """Return a text, or the texts of a list, with the URLs in it as the settings say."""
        if isinstance(value, list):
            return [self._told(it) for it in value]
        if not isinstance(value, str):
            return value
        if self.settings.urls == "full":
            return text_without_credentials(value)
        return text_without_queries(value, only_hosts=self.settings.urls == "host")

    def solo(self, received: Received) -> None:
        """A job begins to run alone. If the process ends now, this is the last that is said."""
        self.event(
            "solo_job",
            id=received.name,
            url=self._shown(received.url),
            host=received.host,
            strikes=received.strikes,
        )

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


_NEVER: Final = 0  # below each level that the log can have
_JOB_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "off": _NEVER}
_NAMES: Final = {logging.DEBUG: "debug", logging.INFO: "info", logging.WARNING: "warning"}


def _level_of(record: Record, job_level: str) -> int:
    """How grave the line of a job is: a job that ended without its page is a warning."""
    match record.verdict:
        case Snooze():
            return logging.DEBUG
        case Dead():
            return logging.WARNING
        case Done() if record.result is not None and record.result.status == "failed":
            return logging.WARNING
        case Retry():
            return logging.INFO
    return _JOB_LEVELS[job_level]


def _next(record: Record) -> dict[str, str]:
    """Say of a failure what happens next."""
    if record.result is None or record.result.status != "failed":
        return {}
    if not record.settled:
        return {"next": "the broker delivers the job again"}
    match record.verdict:
        case Retry(delay):
            return {"next": f"attempt {record.attempt + 1} in {delay:g} s"}
        case Dead(_, tell):
            return {"next": "the job is in the dead queue" + ("" if tell else ", without a result")}
    return {"next": "nothing, the failed result is published"}


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


def _line(record: Record, url: str | None) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "id": record.ident,
        "url": url,
        "host": record.host,
        "status": UNSET if record.result is None else record.result.status,
        "verdict": type(record.verdict).__name__.lower(),
        "attempt": record.attempt,
        "publish": round(record.publish_time, 6),
        **_of_verdict(record.verdict),
        **_of_result(record.result),
        **_next(record),
    }
    counts = {"strikes": record.strikes, "snoozes": record.snoozes}
    fields |= {name: count for name, count in counts.items() if count}
    if not record.settled:
        fields["settled"] = False
    return {name: value for name, value in fields.items() if value is not UNSET}
