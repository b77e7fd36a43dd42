"""The table of the log's events, compared with each place of the code that logs one.

May touch: the code, to read; structlog's global configuration, which it puts back.
Must never: hold a list of events of its own.
"""

from __future__ import annotations

import ast
import io
import json
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from msgspec import UNSET

from scraperd.broker.ports import Into, Source
from scraperd.config.tables import LogSettings
from scraperd.contract import Failure, Result, Timings
from scraperd.jobs.record import Record
from scraperd.jobs.verdict import Dead, Done, Requeue, Retry, Snooze
from scraperd.ops.events import EVENTS, FIELDS
from scraperd.ops.log import configure
from scraperd.ops.telemetry import Observer
from tests.rig.checks.events import faults

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(__file__).parents[2] / "scraperd"
LOGS = {"event", "_event", "_events", "trouble"}  # what logs is called so in each room
TELEMETRY = PACKAGE / "ops/telemetry.py"  # it defines them, and logs the lines of jobs
HEAD = '{"timestamp":"2026-01-01T00:00:00.0Z","level":"warning",'


def _called(node: ast.expr) -> str:
    """The last name of what is called or handed on."""
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _logging(tree: ast.AST) -> Iterator[tuple[ast.Call, list[ast.expr], str]]:
    """The calls that log an event, by themselves or later: what is called, and the arguments."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            args, name = node.args, _called(node.func)
            if name == "partial" and args:
                args, name = args[1:], _called(args[0])
            if name in LOGS and args:
                yield node, args, name


def sites() -> dict[str, list[set[str]]]:
    """The names of the fields at each place that logs an event."""
    found: dict[str, list[set[str]]] = defaultdict(list)
    for path in PACKAGE.rglob("*.py"):
        for node, (first, *_), name in _logging(ast.parse(path.read_text())):
            where = f"{path}:{node.lineno}"
            assert isinstance(first, ast.Constant), f"{where}: the event is not a plain text"
            names = [keyword.arg for keyword in node.keywords]
            assert None not in names, f"{where}: a field is not named (**)"
            fields = {str(it) for it in names} | ({"exception"} if name == "trouble" else set())
            found[str(first.value)].append(fields)
    return found


def test_each_place_logs_an_event_of_the_table_with_its_fields() -> None:
    """Events, fields that all places give, and fields that some give, are those of the code."""
    found = sites()
    assert {*found, "job"} == {*EVENTS}
    for name, places in found.items():
        always, ever = set.intersection(*places), set.union(*places)
        assert always == {*EVENTS[name].fields}, name
        assert ever - always == {*EVENTS[name].at_times}, name


def test_each_field_is_of_an_event() -> None:
    """No field is left over, none is missing, and no event has one twice."""
    used = [(*event.fields, *event.at_times) for event in EVENTS.values()]
    assert {*FIELDS} == {field for fields in used for field in fields}
    assert all(len(fields) == len({*fields}) for fields in used)


def records() -> Iterator[Record]:
    """Jobs that end in all ways, with all that a result can have, and with nothing."""
    timings = Timings(total=1.5, wait=0.25, fetch=1.0, extract=0.125)
    url = "http://a.b/c"
    ok = Result(id="7", url=url, status="ok", attempt=1, http_status=200, size=5, timings=timings)
    failed = Result(
        id="7", url=url, status="failed", attempt=1, error=Failure("dns", "x"), timings=timings
    )
    for result, verdict in (
        *((ok, Done()), (failed, Done()), (failed, Retry(1.0)), (failed, Dead("dns"))),
        *((None, Snooze("a.b", 1.0)), (None, Requeue(Into(Source.SOLO)))),
    ):
        for settled in (True, False):
            yield Record("7", url, "a.b", 1, result, verdict, settled, 0.25, snoozes=1, strikes=2)
    bare = Result(id="", url=UNSET, status="failed", attempt=1, error=Failure("invalid_job", "x"))
    yield Record("", UNSET, None, 1, bare, Dead("invalid_job"), True, 0.0)


@pytest.fixture
def stream() -> Iterator[io.TextIOWrapper]:
    """What stands for standard output; structlog is put back as it was."""
    yield io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    structlog.reset_defaults()


def test_the_line_of_a_job_has_the_fields_of_the_table(stream: io.TextIOWrapper) -> None:
    """Of jobs that end in all ways: what each line has, and what some have, with their types."""
    configure(LogSettings(level="debug"), stream)
    observer = Observer()
    for entry in records():
        observer.record(entry)
    buffer: Any = stream.buffer
    texts = buffer.getvalue().decode().splitlines()
    assert list(faults(texts)) == []
    found = [{*json.loads(text)} - {"timestamp", "level", "event"} for text in texts]
    job = EVENTS["job"]
    assert set.intersection(*found) == {*job.fields}
    assert set.union(*found) == {*job.fields, *job.at_times}
    assert {json.loads(text)["level"] for text in texts} == {*job.levels}


@pytest.mark.parametrize(
    ("rest", "fault"),
    [
        ('"event":"broker_lost","broker":"b","reason":"r"}', None),
        ('"event":"broker_unblocked","seconds":1}', "Invalid enum value 'warning'"),
        ('"event":"broker_lost","broker":"b"}', "missing required field `reason`"),
        ('"event":"broker_lost","broker":"b","reason":"r","jobs":1}', "unknown field `jobs`"),
        ('"event":"broker_lost","broker":"b","reason":1}', "Expected `str`, got `int`"),
        ('"event":"broker_left","broker":"b","reason":"r"}', "Invalid value 'broker_left'"),
        ('"event":"broker_lost","brok', None),
    ],
)
def test_a_line_that_is_not_of_the_table_is_found(rest: str, fault: str | None) -> None:
    """Another event, level or field, a field that lacks, a value of another type."""
    found = list(faults([HEAD + rest, "Traceback"]))
    assert len(found) == (fault is not None)
    assert fault is None or fault in found[0]
