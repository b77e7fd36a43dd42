"""The process's log: JSON lines, or text with colours on a terminal.

May touch: structlog, standard output through the sink.
Must never: write a text that steers a terminal, or a line that grows with what a publisher wrote.
"""

from __future__ import annotations

import io
import logging
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TextIO, cast

import structlog
from msgspec import Struct

from scraperd.base.jsonline import dumps
from scraperd.base.text import printable, text_without_queries
from scraperd.base.urls import MAX_URL
from scraperd.ops.outlets import outlet_of
from scraperd.ops.sink import MAX_JOBS_BYTES, Sink

if TYPE_CHECKING:
    from scraperd.config.tables import LogSettings
    from scraperd.ops.outlets import Outlet

_LONGEST: Final = MAX_URL  # characters of one value
_TRACEBACK: Final = 16_384  # characters; an exception's message can quote all of a page
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
LEVELS: Final = tuple(_LEVELS)  # from the one that says most


class Log(Struct, frozen=True):
    """The log as it was set up: where its lines go, and whether they are JSON."""

    sink: Sink
    json: bool

    def line(self, level: str, event: str, fields: dict[str, Any]) -> None:
        """Write a JSON line as structlog would, but with others, within sink.MAX_DELAY.

        For the lines of jobs, of which there are many. `fields` hold no exception.
        """
        head = {"timestamp": _now(), "level": level, "event": event}
        line = _json(head | _bounded(None, "", fields)) + b"\n"
        self.sink.write(line, MAX_JOBS_BYTES, can_wait=True)


def configure(settings: LogSettings, stream: TextIO | None = None) -> Log:
    """Set the process's logging up: JSON lines, or colours on a terminal."""
    stream = stream or sys.stdout
    sink = Sink(_outlet(stream))
    pretty = settings.format == "console" or (settings.format == "auto" and stream.isatty())
    quiet_libraries()
    common: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if pretty:
        common += [
            _printable,
            structlog.dev.ConsoleRenderer(
                colors=stream.isatty(), exception_formatter=_plain_traceback
            ),
            _encoded,
        ]
    else:
        common += [
            structlog.processors.format_exc_info,
            _bounded,
            _head_first,
            structlog.processors.JSONRenderer(serializer=_json),
        ]
    structlog.configure(
        processors=common,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[settings.level]),
        logger_factory=structlog.BytesLoggerFactory(file=cast("BinaryIO", sink)),
        cache_logger_on_first_use=True,
    )
    return Log(sink, not pretty)


def set_level(level: str) -> None:
    """Let loggers that are made from now on write what is at least as grave as this."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]))


def _outlet(stream: TextIO) -> Outlet:
    """Where a stream's bytes go, without its buffers: what was refused is not tried again."""
    try:
        return outlet_of(stream.fileno())
    except OSError:  # io.UnsupportedOperation: it is in memory
        return _Memory(stream.buffer)


class _Memory:
    """A file that has no descriptor."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def take(self, data: bytes) -> int:
        return self._file.write(data)

    def wait(self, seconds: float) -> None:
        pass

    def close(self) -> None:
        pass


def _now() -> str:
    """The time as structlog's TimeStamper writes it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _encoded(_logger: object, _method: str, text: str) -> bytes:
    return text.encode(errors="backslashreplace")


def _head_first(_logger: object, _method: str, fields: dict[str, Any]) -> dict[str, Any]:
    """When, how grave, and what, before the details: a line is read from the left."""
    head = {name: fields.pop(name) for name in ("timestamp", "level", "event")}
    return head | fields


def quiet_libraries() -> None:
    """The AMQP libraries log failed dials and untrusted header names; we log these in our words."""
    for name in ("aiormq", "aio_pika", "pamqp"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def _bounded(_logger: object, _method: str, fields: dict[str, Any]) -> dict[str, Any]:
    """No line of the log grows with what an untrusted publisher or site wrote."""
    return {
        name: _cut(text_without_queries(value) if name == "exception" else value, name)
        if type(value) is str
        else value
        for name, value in fields.items()
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
    lines = _cut(text_without_queries(text.getvalue()), "exception").split("\n")
    stream.write("\n".join(f"  {printable(line, _LONGEST)}" for line in lines))


def _json(value: Any, **_: Any) -> bytes:
    return dumps(value, other=repr).encode()
