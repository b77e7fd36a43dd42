"""The log: one well-formed line a record or event, readable on a terminal, and never a secret.

May touch: structlog's global configuration, which it puts back.
Must never: write to the real standard output.
"""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import structlog
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scraperd.base.text import text_without_queries
from scraperd.base.urls import check_url, host_of, shown, without_credentials
from scraperd.broker.ports import Into, Source
from scraperd.config.tables import LogSettings
from scraperd.contract import Failure, Result, Timings
from scraperd.jobs.record import Record
from scraperd.jobs.verdict import Dead, Done, Requeue, Retry, Snooze, Verdict
from scraperd.ops.log import configure
from scraperd.ops.repeats import MAX_CAUSES, REPEAT_INTERVAL, Cause, Repeats
from scraperd.ops.telemetry import Observer, Tally

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "hunter2"


class Log:
    """A log of its own, in memory, set up as the daemon sets up standard output's."""

    def __init__(self) -> None:
        self.stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)

    def open(self, **changes: Any) -> Observer:
        """An observer that writes here, by a configuration with these changes."""
        configure(LogSettings(**changes), self.stream)
        return Observer(settings=LogSettings(**changes))

    @property
    def text(self) -> str:
        self.stream.flush()
        buffer = self.stream.buffer
        assert isinstance(buffer, io.BytesIO)
        return buffer.getvalue().decode()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Each line as JSON."""
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture
def log() -> Iterator[Log]:
    """A log in memory; structlog is put back as it was."""
    yield Log()
    structlog.reset_defaults()


def record(verdict: Verdict | None = None, *, settled: bool = True, **fields: Any) -> Record:
    """A record of a job that ended well, but for what is given."""
    found = Result(**{"id": "7", "url": "http://a.b/c", "status": "ok", "attempt": 1, **fields})
    host = host_of(found.url)
    return Record(found.id, found.url, host, found.attempt, found, verdict or Done(), settled, 0.25)


def test_a_job_is_one_line(log: Log) -> None:
    """Everything an operator asks of a job stands in its one line, each time by its name."""
    log.open().record(
        record(
            http_status=200,
            size=5,
            timings=Timings(total=1.5, wait=0.25, fetch=1.0, extract=0.125),
            body="not in the log",
            headers={"set-cookie": [SECRET]},
            data={"a": SECRET},
        )
    )
    [line] = log.lines
    assert datetime.fromisoformat(line.pop("timestamp")).tzinfo is not None
    assert line == {
        "level": "info",
        "event": "job",
        "id": "7",
        "url": "http://a.b/c",
        "host": "a.b",
        "status": "ok",
        "verdict": "done",
        "attempt": 1,
        "http_status": 200,
        "bytes": 5,
        "total": 1.5,
        "wait": 0.25,
        "fetch": 1.0,
        "extract": 0.125,
        "publish": 0.25,
    }


@pytest.mark.parametrize(
    ("entry", "fields"),
    [
        (
            record(status="failed", error=Failure("dns", "no address for a.b")),
            {
                "level": "warning",
                "status": "failed",
                "kind": "dns",
                "error": "no address for a.b",
                "verdict": "done",
                "next": "nothing, the failed result is published",
            },
        ),
        (
            record(Retry(1.23456), status="failed", error=Failure("timeout", "t"), attempt=2),
            {
                "level": "info",
                "verdict": "retry",
                "retry_in": 1.235,
                "attempt": 2,
                "kind": "timeout",
                "next": "attempt 3 in 1.23456 s",
            },
        ),
        (
            record(Dead("internal"), status="failed", error=Failure("internal", "x")),
            {
                "level": "warning",
                "verdict": "dead",
                "kind": "internal",
                "next": "the job is in the dead queue",
            },
        ),
        (record(settled=False), {"settled": False, "verdict": "done"}),
        (record(url=msgspec.UNSET), {"url": None, "host": None}),
    ],
)
def test_a_job_that_did_not_end_well_says_so(
    log: Log, entry: Record, fields: dict[str, Any]
) -> None:
    """Failure, retry, dead letter and an ack that came too late are each told in the same line."""
    log.open().record(entry)
    [line] = log.lines
    assert {name: line[name] for name in fields} == fields


def test_a_snoozed_job_is_a_line_for_debugging_only(log: Log) -> None:
    """It says whose turn is waited for and how long, and has no status: there is no result yet."""
    verdict = Snooze("x.y", 12.34567)
    snoozed = Record("7", "http://a.b/c", "a.b", 2, None, verdict, True, 0.25, snoozes=3)
    log.open(level="info").record(snoozed)
    assert log.lines == []
    structlog.reset_defaults()
    log.open(level="debug").record(snoozed)
    [line] = log.lines
    assert (line["level"], line["event"], line["verdict"]) == ("debug", "job", "snooze")
    assert (line["turn_of"], line["turn_in"], line["snoozes"]) == ("x.y", 12.346, 3)
    assert (line["id"], line["attempt"]) == ("7", 2)
    assert "status" not in line


def test_a_job_that_was_snoozed_before_says_how_often(log: Log) -> None:
    """In its one line; a job that never was has no such field."""
    observer = log.open()
    result = Result(id="7", url="http://a.b/c", status="ok", attempt=1)
    for snoozes in (2, 0):
        observer.record(
            Record("7", result.url, "a.b", 1, result, Done(), True, 0.25, snoozes=snoozes)
        )
    first, other = log.lines
    assert first["snoozes"] == 2
    assert "snoozes" not in other


def test_what_is_counted() -> None:
    """The status line's counts follow from the records and from nothing else."""
    observer = Observer(
        log=structlog.wrap_logger(structlog.testing.CapturingLogger(), processors=[])
    )
    failed: dict[str, Any] = {"status": "failed", "error": Failure("dns", "")}
    for entry in (
        *(record(), record(), record(**failed)),
        *(record(Retry(1.0), **failed), record(Dead("dns"), settled=False, **failed)),
        *(record(Snooze("a.b", 1.0)), record(Snooze("a.b", 2.0), **failed)),
    ):
        observer.record(entry)
    assert observer.tally == Tally(done=3, failed=1, retried=1, snoozed=2, dead=1, lost=1)


@pytest.mark.parametrize(
    ("event", "level"),
    [("start", "info"), ("ready", "info"), ("broker_lost", "warning"), ("config", "error")],
)
def test_an_event_has_its_level(log: Log, event: str, level: str) -> None:
    """What wants an operator's eye is a warning; what ends the start is an error."""
    log.open().event(event, worker="w", reason="r")
    [line] = log.lines
    assert (line["event"], line["level"]) == (event, level)
    assert (line["worker"], line["reason"]) == ("w", "r")


@pytest.mark.parametrize(
    ("level", "events"),
    [
        ("debug", ["job", "start", "broker_lost", "config", "internal_error"]),
        ("info", ["job", "start", "broker_lost", "config", "internal_error"]),
        ("warning", ["broker_lost", "config", "internal_error"]),
        ("error", ["config", "internal_error"]),
    ],
)
def test_a_level_drops_what_is_below_it(log: Log, level: str, events: list[str]) -> None:
    """With `warning` the log has no line a job, as the example configuration says."""
    observer = log.open(level=level)
    observer.record(record())
    observer.event("start")
    observer.event("broker_lost")
    observer.event("config")
    observer.trouble("internal_error", ValueError("x"))
    assert [line["event"] for line in log.lines] == events


def test_an_error_of_ours_has_its_traceback(log: Log) -> None:
    """It is one line, with the traceback in it, so that a collector keeps it together."""
    observer = log.open()
    try:
        int("x")
    except ValueError as error:
        observer.trouble("internal_error", error, id="7")
    [line] = log.lines
    assert (line["event"], line["level"], line["id"]) == ("internal_error", "error", "7")
    assert "Traceback (most recent call last)" in line["exception"]
    assert "invalid literal for int()" in line["exception"]


def test_when_how_grave_and_what_come_first(log: Log) -> None:
    """A line is read from the left."""
    observer = log.open()
    observer.record(record())
    observer.event("ready", broker="b")
    observer.trouble("died", ValueError("x"))
    for line in log.lines:
        assert list(line)[:3] == ["timestamp", "level", "event"]


def test_values_that_json_lacks_are_still_a_line(log: Log) -> None:
    """NaN, bytes, sets, exceptions and objects do not break the log."""
    log.open().event("x", a=float("nan"), b=b"\xff", c={1}, d=ValueError("e"), e=object(), f={1: 2})
    [line] = log.lines
    assert line["a"] is None
    assert line["c"] == [1]
    assert line["d"] == "ValueError('e')"


TEXT = st.text(st.characters(codec="utf-8"), max_size=20)


@given(ident=TEXT, url=TEXT, message=TEXT)
@settings(max_examples=100, deadline=None)
@example(ident="\x1b[31m\r\n", url="http://\u2028\x85@/", message='"}\n{"')
def test_whatever_a_stranger_writes_is_one_json_line(ident: str, url: str, message: str) -> None:
    """No id, URL or message can start a second line, break the first, or steer a terminal; and the
    line says what was written, character by character.
    """
    log = Log()
    entry = record(
        Dead("invalid_job"),
        id=ident,
        url=url,
        status="failed",
        error=Failure("invalid_job", message),
    )
    log.open().record(entry)
    structlog.reset_defaults()
    assert log.text.count("\n") == 1
    [line] = [json.loads(line) for line in log.text.split("\n") if line]
    assert (line["id"], line["error"]) == (ident, text_without_queries(message))
    assert log.text.removesuffix("\n").isprintable()


@given(ident=TEXT, message=TEXT)
@settings(max_examples=100, deadline=None)
@example(ident="\x1b[31m\r\n\x9b\u202e", message="x\n2026-01-01 [info] job id=forged\x1b[2J")
def test_whatever_a_stranger_writes_is_harmless_on_the_console(ident: str, message: str) -> None:
    """There it is one line too, and no line of a traceback can pass for one of the log."""
    log = Log()
    observer = log.open(format="console")
    observer.event("broker_lost", id=ident, values=[ident], reason=message)
    assert log.text.removesuffix("\n").isprintable()
    observer.trouble("internal_error", ValueError(message), id=ident)
    structlog.reset_defaults()
    assert all(it.isprintable() or it == "\n" for it in log.text)
    assert all(line.startswith("  ") for line in log.text.rstrip("\n").split("\n")[2:])


def test_half_a_character_is_logged(log: Log) -> None:
    """A text that UTF-8 can't hold, of a file's name say, does not cost its line."""
    log.open().event("x", a="b\udcff\x9b")
    assert log.lines[0]["a"] == "b\udcff\x9b"
    assert log.text.isascii()


def test_a_line_does_not_grow_with_what_it_quotes(log: Log) -> None:
    """A page that an exception quotes, or a site's endless words, are cut."""
    observer = log.open()
    observer.event("broker_lost", reason="r" * 10**6)
    observer.trouble("internal_error", ValueError("a" * 10**6), id="7")
    first, other = log.lines
    assert len(first["reason"]) == 8192
    assert len(other["exception"]) < 17_000
    assert other["exception"].startswith("ValueError: aaa")
    assert "characters left out" in other["exception"]


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://user:hunter2@h/p?q", "http://h/p"),
        ("http://hunter2@h/", "http://h/"),
        ("http://:hunter2@h/", "http://h/"),
        ("ftp://u:hunter2@h/", "ftp://h/"),
        ("//u:hunter2@h/", "//h/"),
        ("u:hunter2@h", "(not a URL)"),
        ("http://u:hunter2@[", "(not a URL)"),
        ("http://u:hunter2@h:99999/", "(not a URL)"),
        ("http:\\\\u:hunter2@h", "(not a URL)"),
        ("http://h/a@b?c=d@e", "http://h/a@b"),
        ("http://h/", "http://h/"),
        ("", ""),
    ],
)
def test_a_url_is_logged_without_credentials(log: Log, url: str, told: str) -> None:
    """Userinfo never reaches the log, in whatever kind of URL it stood."""
    assert without_credentials(url).partition("?")[0] == told
    log.open().record(record(url=url))
    assert log.lines[0]["url"] == told
    assert SECRET not in log.text


@given(
    user=st.text(st.characters(exclude_characters="/?#"), max_size=5),
    host=st.sampled_from(["h", "h:80", "[::1]", "[", "", "h:x", "h\n"]),
    start=st.sampled_from(["http://", "HTTPS://", "ftp://", "//", "http:/", "http:", ""]),
)
@settings(max_examples=200, deadline=None)
@example(user="\udcff", host="h", start="http://")
def test_no_spelling_of_userinfo_reaches_the_log(user: str, host: str, start: str) -> None:
    """Whatever is put before an `@` in the authority, what is logged holds no password."""
    url = f"{start}{user}:{SECRET}@{host}/x"
    assert check_url(url) is not None
    assert SECRET not in without_credentials(url)


@pytest.mark.parametrize("log_format", ["json", "auto"])
def test_what_is_no_terminal_gets_json(log: Log, log_format: str) -> None:
    """Under systemd, and in a pipe, the log is JSON lines without being told to."""
    log.open(format=log_format).event("ready", broker="b")
    assert log.lines[0]["event"] == "ready"


def test_the_console_is_for_people(log: Log) -> None:
    """On the console the same record is one readable line, without colours where there are none."""
    observer = log.open(format="console")
    observer.record(record(url=f"http://u:{SECRET}@a.b/"))
    [line] = log.text.splitlines()
    for part in ("[info", "job", "id=7", "url=http://a.b/", "host=a.b", "status=ok"):
        assert part in line
    assert "\x1b" not in line
    assert SECRET not in line


@pytest.mark.parametrize(
    ("urls", "told", "error"),
    [
        ("full", "http://h/p?t=1#f", "to ftp://h/p?t=1: refused (/q?t=1)"),
        ("no-query", "http://h/p", "to ftp://h/p: refused (/q)"),
        ("host", "http://h", "to ftp://h/: refused (/q)"),
    ],
)
def test_urls_are_shown_as_the_settings_say(log: Log, urls: str, told: str, error: str) -> None:
    """In the URL of a job, its error and the text of an event; never with userinfo."""
    observer = log.open(urls=urls)
    text = f"to ftp://u:{SECRET}@h/p?t=1: refused (/q?t=1)"
    url = f"http://u:{SECRET}@h/p?t=1#f"
    observer.record(record(url=url, status="failed", error=Failure("protocol", text)))
    observer.event("broker_lost", reason=text, others=[text])
    job, event = log.lines
    assert (job["url"], job["error"]) == (told, error)
    assert (event["reason"], event["others"]) == (error, [error])
    assert SECRET not in log.text


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_traceback_shows_no_query(log: Log, log_format: str) -> None:
    """Whatever log.urls says: an exception can quote the data of others."""
    observer = log.open(urls="full", format=log_format)
    try:
        int(f"http://u:{SECRET}@h/p?token={SECRET}")
    except ValueError as error:
        observer.trouble("internal_error", error)
    assert "http://h/p" in log.text
    assert SECRET not in log.text


@pytest.mark.parametrize(
    ("text", "told", "host"),
    [
        ("<URL('http://u:p@h/p?t=1')>", "<URL('http://h/p')>", "<URL('http://h/')>"),
        ("to=http://h?t=1", "to=http://h", "to=http://h"),
        ("GET,http://h/p?t,http://i/q?u", "GET,http://h/p", "GET,http://h/"),
        ("h.example/p?a&t=1: refused", "h.example/p: refused", "h.example/p: refused"),
    ],
)
def test_a_url_inside_a_word_has_no_query(text: str, told: str, host: str) -> None:
    """Libraries quote URLs within other text, and messages name hosts without a scheme."""
    assert text_without_queries(text) == told
    assert text_without_queries(text, only_hosts=True) == host


@pytest.mark.parametrize(
    "text",
    [
        *("a(?<=b)c", "a(?P<n>b)=c", "a(?=b)"),
        "what? a#b",
        "pattern 'a?b+' is invalid",
        "see docs/x.md#y",
        "line #5",
        "#",
        "is it? ",
    ],
)
def test_other_texts_stay(text: str) -> None:
    """A question mark or a # that is not in a URL or a path is left alone."""
    assert text_without_queries(text) == text


def test_a_url_without_an_origin_is_not_shown_as_a_host() -> None:
    """With log.urls = "host" a text that is not a URL tells nothing."""
    assert shown("token", "host") == "(not a URL)"


def test_one_cause_is_told_some_times_and_then_counted(log: Log) -> None:
    """The first lines of a minute are written, and the others become one count at the end."""
    observer = log.open(failure_lines=2)
    for _ in range(5):
        observer.record(record(status="failed", error=Failure("dns", "x")))
    observer.record(record(status="failed", error=Failure("timeout", "x")))
    observer.event("stop")
    assert [line["event"] for line in log.lines] == [*["job"] * 3, "failures_repeated", "stop"]
    counted = log.lines[3]
    assert (counted["host"], counted["kind"], counted["jobs"]) == ("a.b", "dns", 3)


def test_causes_are_bounded_and_counted_by_the_minute() -> None:
    """After a minute a cause is told again; the oldest of too many causes is counted early."""
    now = [0.0]
    repeats = Repeats(lambda: now[0])
    assert [repeats.take(Cause("a", "dns"), 1) for _ in range(3)] == [True, False, False]
    assert list(repeats.over()) == []
    now[0] = REPEAT_INTERVAL
    assert list(repeats.over()) == [(Cause("a", "dns"), 2)]
    assert repeats.take(Cause("a", "dns"), 1)
    assert not repeats.take(Cause("a", "dns"), 1)
    for number in range(MAX_CAUSES):
        repeats.take(Cause(str(number), "dns"), 1)
    assert list(repeats.over()) == [(Cause("a", "dns"), 1)]


def test_jobs_that_end_well_can_be_sampled_and_failures_are_not(log: Log) -> None:
    """Of job_sample jobs that end well one has a line; a failure always has one."""
    observer = log.open(job_sample=3)
    for _ in range(6):
        observer.record(record())
    observer.record(record(status="failed", error=Failure("dns", "x")))
    assert [line["status"] for line in log.lines] == ["ok", "ok", "failed"]


def test_the_lines_of_jobs_that_end_well_can_be_for_debugging(log: Log) -> None:
    """With job_level = "debug" a log of level info has failures and retries only."""
    observer = log.open(job_level="debug")
    observer.record(record())
    observer.record(record(Retry(1.0), status="failed", error=Failure("dns", "x")))
    assert [line["verdict"] for line in log.lines] == ["retry"]


def test_the_lines_of_jobs_that_end_well_can_be_switched_off(log: Log) -> None:
    """With job_level = "off" they are not written at any level; failures, retries, snoozes are."""
    observer = log.open(level="debug", job_level="off")
    failed: dict[str, Any] = {"status": "failed", "error": Failure("dns", "x")}
    for entry in (
        *(record(), record(Requeue(Into(Source.SOLO))), record(**failed)),
        *(record(Retry(1.0), **failed), record(Dead("dns"), **failed), record(Snooze("a.b", 1.0))),
    ):
        observer.record(entry)
    assert [(line["level"], line["verdict"]) for line in log.lines] == [
        ("warning", "done"),
        ("info", "retry"),
        ("warning", "dead"),
        ("debug", "snooze"),
    ]


@pytest.mark.parametrize("job_level", ["info", "debug", "off"])
def test_a_job_without_a_line_lets_the_failures_before_it_be_counted(
    log: Log, job_level: str
) -> None:
    """After the minute of a cause the next job says how many lines it lacked."""
    now = [0.0]
    observer = log.open(failure_lines=1, job_level=job_level)
    observer = replace(observer, _repeats=Repeats(lambda: now[0]))
    for _ in range(3):
        observer.record(record(status="failed", error=Failure("dns", "x")))
    now[0] = REPEAT_INTERVAL
    observer.record(record())
    told = [(line["event"], line.get("jobs")) for line in log.lines]
    assert told[:2] == [("job", None), ("failures_repeated", 2)]
