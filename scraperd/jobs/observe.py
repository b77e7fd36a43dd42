"""Logs: one canonical line a job, made from the finished record, in one place.

May touch: structlog, standard output through it.
Must never: change what happens, write a credential, or write a text that steers a terminal.
"""

from __future__ import annotations

import io
import logging
import math
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TextIO

import msgspec
import structlog
from msgspec import UNSET
from yarl import URL

from scraperd.contract import MAX_URL, host_of, printable
from scraperd.jobs.verdict import Aside, Dead, Done, Park, Retry, Verdict
from scraperd.jsonline import dumps

if TYPE_CHECKING:
    from scraperd.config import Config
    from scraperd.contract import Result

_LONGEST: Final = MAX_URL  # characters of one value
_TRACEBACK: Final = 16_384  # characters; an exception's message can quote all of a page
SAY_EVERY: Final = 60.0  # seconds
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


@dataclass(frozen=True, slots=True)
class Record:
    """One delivery that came to its end here. Times in seconds.

    A job that was parked or set aside has no result yet: the one given only says which job it is.
    """

    result: Result
    verdict: Verdict
    settled: bool
    publish_time: float
    parks: int = 0
    crashes: int = 0


@dataclass(slots=True)
class Tally:
    """Counts since the start, for the status line."""

    done: int = 0
    failed: int = 0
    retried: int = 0
    parked: int = 0
    aside: int = 0
    dead: int = 0
    lost: int = 0
    starved: int = 0
    unlogged: int = 0


@dataclass(slots=True)
class Observer:
    """Where records and events go."""

    log: Any = field(default_factory=structlog.get_logger)
    tally: Tally = field(default_factory=Tally)
    _disbelieved: int = 0  # jobs since it was last said
    _next_disbelieved: float = -math.inf

    def event(self, event: str, **fields: Any) -> None:
        """Something happened to the process: start, ready, lost broker, drain, stop."""
        self.tally.starved += event == "consumer_starved"
        level = "error" if event == "config" else "warning" if event in _WARNINGS else "info"
        self._write(level, event, fields)

    def record(self, record: Record) -> None:
        """Count one finished delivery and write its line."""
        result, verdict = record.result, record.verdict
        match verdict:
            case Done():
                self.tally.done += 1
                self.tally.failed += result.status == "failed"
            case Retry():
                self.tally.retried += 1
            case Park():
                self.tally.parked += 1
            case Aside():
                self.tally.aside += 1
            case Dead():
                self.tally.dead += 1
        self.tally.lost += not record.settled
        level = logging.DEBUG if isinstance(verdict, Park) else logging.INFO
        if self.log.is_enabled_for(level):
            self._write(logging.getLevelName(level).lower(), "job", _line(record))

    def suspect(self, ident: str, url: Any, crashes: int) -> None:
        """A job begins to run alone. If the process ends now, this is the last that is said."""
        told = {"id": ident, "url": without_credentials(url) if url else None, "host": host_of(url)}
        self.event("suspect", **told, crashes=crashes)

    def disbelieved(self) -> None:
        """A job came with marks that nobody vouches for. Said once a minute at most, with a count.

        Who publishes can provoke it, with each job.
        """
        self._disbelieved += 1
        if (now := time.monotonic()) >= self._next_disbelieved:
            self.event("marks_disbelieved", jobs=self._disbelieved)
            self._disbelieved, self._next_disbelieved = 0, now + SAY_EVERY

    def trouble(self, event: str, error: BaseException, **fields: Any) -> None:
        """An error of ours, with its traceback."""
        self._write("error", event, {"exc_info": error, **fields})

    def _write(self, level: str, event: str, fields: dict[str, Any]) -> None:
        """Write a line; a full disk, or what it should say, must not end a job or the process."""
        try:
            getattr(self.log, level)(event, **fields)
        except Exception:  # noqa: BLE001 - there is nowhere left to say it
            self.tally.unlogged += 1


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
        "marks_disbelieved",
        "own_addresses_unknown",
        "reply_refused",
        "queue_differs",
        "publish_refused",
        "drain_timeout",
        "second_signal",
    }
)


def _line(record: Record) -> dict[str, Any]:
    result, verdict = record.result, record.verdict
    fields: dict[str, Any] = {
        "id": result.id,
        "url": without_credentials(result.url) if result.url is not UNSET else None,
        "host": host_of(result.url),
        "status": UNSET if isinstance(verdict, Park | Aside) else result.status,
        "verdict": type(verdict).__name__.lower(),
        "attempt": result.attempt,
        "publish": round(record.publish_time, 6),
    }
    if result.http_status is not UNSET:
        fields["http_status"] = result.http_status
    if result.size is not UNSET:
        fields["bytes"] = result.size
    if result.error:
        fields["kind"], fields["error"] = result.error.kind, result.error.message
    if isinstance(verdict, Retry):
        fields["retry_in"] = round(verdict.delay, 3)
    if isinstance(verdict, Park):
        fields["turn_of"], fields["turn_in"] = verdict.host, round(verdict.delay, 3)
    if isinstance(verdict, Aside):
        fields["queue"] = verdict.queue
    counts = {"crashes": record.crashes, "parks": record.parks}
    fields |= {name: count for name, count in counts.items() if count}
    if result.timings is not UNSET:
        fields |= msgspec.structs.asdict(result.timings)
    if not record.settled:
        fields["settled"] = False
    return {name: value for name, value in fields.items() if value is not UNSET}


def without_credentials(url: str) -> str:
    """`url` without userinfo."""
    if "@" not in url:
        return url
    return str(URL(url).with_user(None)) if host_of(url) else "(not a URL)"


def configure(config: Config, stream: TextIO | None = None) -> None:
    """Set the process's logging up: JSON lines, or colours on a terminal."""
    stream = stream or sys.stdout
    pretty = config.log_format == "console" or (config.log_format == "auto" and stream.isatty())
    quiet_libraries()
    common: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    factory: Any
    if pretty:
        common += [
            _printable,
            structlog.dev.ConsoleRenderer(
                colors=stream.isatty(), exception_formatter=_plain_traceback
            ),
        ]
        factory = structlog.PrintLoggerFactory(file=stream)
    else:
        common += [
            structlog.processors.format_exc_info,
            _bounded,
            _head_first,
            structlog.processors.JSONRenderer(serializer=_json),
        ]
        # Unbuffered: what a full disk refused must not be tried again at the process's end.
        factory = structlog.BytesLoggerFactory(file=getattr(stream.buffer, "raw", stream.buffer))
    structlog.configure(
        processors=common,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[config.log_level]),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )


def _head_first(_logger: object, _method: str, fields: dict[str, Any]) -> dict[str, Any]:
    """When, how grave, and what, before the details: a line is read from the left."""
    head = {name: fields.pop(name) for name in ("timestamp", "level", "event")}
    return head | fields


def quiet_libraries() -> None:
    """The AMQP libraries log failed dials and strangers' header names; we say it in our words."""
    for name in ("aiormq", "aio_pika", "pamqp"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def _bounded(_logger: object, _method: str, fields: dict[str, Any]) -> dict[str, Any]:
    """No line of the log grows with what an untrusted publisher or site wrote."""
    return {
        name: _cut(value, name) if type(value) is str else value for name, value in fields.items()
    }


def _cut(text: str, name: str = "") -> str:
    """A text that is too long without its end, or a traceback without its middle."""
    if name == "exception" and len(text) > _TRACEBACK:
        half = _TRACEBACK // 2
        return f"{text[:half]}\n[{len(text) - 2 * half} characters left out]\n{text[-half:]}"
    if name == "exception" or len(text) <= _LONGEST:
        return text
    return text[: _LONGEST - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _printable(_logger: object, _method: str, fields: dict[str, Any]) -> dict[str, Any]:
    """What the console shows as text; JSON says the same with escapes instead (`_json`)."""
    return {
        name: printable(value if isinstance(value, str) else repr(value), _LONGEST)
        if not isinstance(value, int | float | None) and name != "exc_info"
        else value
        for name, value in fields.items()
    }


def _plain_traceback(stream: TextIO, exc_info: Any) -> None:
    """The traceback, indented: no line of it can pass for one of the log.

    structlog's own default prints local variables, and with them passwords and cookies.
    """
    text = io.StringIO()
    structlog.dev.plain_traceback(text, exc_info)
    lines = _cut(text.getvalue(), "exception").split("\n")
    stream.write("\n".join(f"  {printable(line, _LONGEST)}" for line in lines))


def _json(value: Any, **_: Any) -> bytes:
    return dumps(value, other=repr).encode()
