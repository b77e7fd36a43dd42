"""The headers of ours: what is written is read again, and nothing else is believed.

May touch: headers in memory.
Must never: need a broker.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from scraperd.contract import Attempt, Failure, Result
from scraperd.jobs.envelope import (
    Envelope,
    Obituary,
    Turn,
    foreign,
    obituary,
    reason_for,
    told,
)
from scraperd.jobs.signing import Keys

BODY = b'{"url": "http://a.example/"}'
KEYS = Keys([b"k" * 32], "team", time.time)
COUNTS = st.integers(0, 1_000_000)
HOSTS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=255)
MILLISECONDS = st.integers(0, 9_999_999_999).map(lambda ms: ms / 1000)
TURNS = st.builds(Turn, HOSTS, MILLISECONDS, MILLISECONDS | st.just(inf))
ENVELOPES = st.builds(
    lambda back, **known: Envelope(**known, **back),
    attempt=st.integers(1, 1_000_000),
    snoozes=COUNTS,
    strikes=COUNTS,
    back=st.fixed_dictionaries({})
    | st.fixed_dictionaries({"turn": TURNS})
    | st.fixed_dictionaries({"due": MILLISECONDS}),
    ident=st.none() | st.text(st.characters(codec="utf-8"), max_size=50),
    reply_to=st.none() | st.text(st.characters(codec="utf-8"), max_size=60),
    tries=COUNTS,
    waits=COUNTS,
    undelivered=st.sampled_from([None, "expired", "delivery_limit", "unknown"]),
)


def unsigned(name: str, value: Any) -> Envelope:
    """An envelope of the dead queue, where claims are read without a signature."""
    return Envelope.of({name: value}, BODY, None)


@given(envelope=ENVELOPES, theirs=st.dictionaries(st.text(max_size=9), st.integers(), max_size=3))
def test_what_is_written_is_read_again(envelope: Envelope, theirs: dict[str, Any]) -> None:
    """Beside any headers of a publisher: the same values, verified, with the time of signing."""
    headers = {**foreign(theirs), **envelope.headers(KEYS, BODY)}
    read = Envelope.of(headers, BODY, KEYS)
    assert read.signed_at is not None
    assert abs(read.signed_at - time.time()) < 60
    assert replace(read, signed_at=None) == envelope
    assert foreign(headers) == foreign(theirs)


@given(envelope=ENVELOPES)
def test_headers_of_another_key_are_not_read(envelope: Envelope) -> None:
    """Id, reply address and the counts that end the job itself are read all the same."""
    headers = envelope.headers(Keys([b"x" * 32], "team", time.time), BODY)
    read = Envelope.of(headers, BODY, KEYS)
    assert read.unverified
    claims = {"attempt": 1, "snoozes": 0, "strikes": 0, "turn": None, "due": None}
    assert read == replace(envelope, unverified=True, **claims)


def test_headers_without_a_claim_are_no_reason_for_doubt() -> None:
    """A publisher may name its job by our header."""
    read = Envelope.of({"x-scraperd-job-id": "a", "traceparent": "t"}, BODY, KEYS)
    assert (read.ident, read.unverified) == ("a", False)


@pytest.mark.parametrize(
    ("value", "attempt"),
    [(1, 1), (2, 2), (1_000_000, 1_000_000)]
    + [(value, 1) for value in (0, -5, 1_000_001, 2**62, True, "3", 2.0, None, [3], {"a": 3})],
)
def test_the_attempt_is_a_small_number_or_the_first(value: Any, attempt: int) -> None:
    """A header that no retry of ours would carry makes a first attempt, and raises nothing."""
    assert unsigned("x-scraperd-attempt", value).attempt == attempt


@pytest.mark.parametrize(
    ("value", "snoozes"),
    [(1, 1), (0, 0), (1_000_000, 1_000_000)]
    + [(value, 0) for value in (-5, 1_000_001, 2**62, True, "3", 2.0, None, [3], {"a": 3})],
)
def test_a_count_is_a_small_number_or_zero(value: Any, snoozes: int) -> None:
    """A header that we would not write means never snoozed, and raises nothing."""
    assert unsigned("x-scraperd-snoozes", value).snoozes == snoozes


@pytest.mark.parametrize(
    ("value", "turn"),
    [
        ("1700000000.125 www.example.com", Turn("www.example.com", 1700000000.125)),
        ("1700000000.125 a.b 12.500", Turn("a.b", 1700000000.125, 12.5)),
        ("0.000 ::1", Turn("::1", 0.0)),
    ]
    + [
        (value, None)
        for value in (
            "1700000000.125 a.b -1.000",
            "1700000000.125 a.b inf",
            "1700000000.125  a.b",
            "1700000000.125 a b",
            "1700000000.125 a\n",
            "1700000000.125 \u00e4",
            "1700000000.125 " + "a" * 256,
            "1700000000 a.b",
            "17000000000.000 a.b",
            "-170000000.000 a.b",
            "inf a.b",
            "nan a.b",
            "1e5.000 a.b",
            "\u0661.000 a.b",
            "",
            1700000000,
            None,
            ["1700000000.125 a.b"],
        )
    ],
)
def test_a_turn_is_as_we_write_it_or_absent(value: Any, turn: Turn | None) -> None:
    """A time to the millisecond, a host, what can be left; nothing else is a promise."""
    assert Turn.decode(value) == turn


@pytest.mark.parametrize(
    ("value", "due"),
    [("1700000000.125", 1700000000.125), ("0.000", 0.0)]
    + [
        (value, None)
        for value in (
            "1700000000.125 a.b",
            "1700000000.125 ",
            "1700000000.125\n",
            "1700000000",
            "17000000000.000",
            "-1.000",
            "inf",
            "nan",
            "\u0661.000",
            "",
            1700000000,
            1700000000.125,
            None,
            ["1700000000.125"],
        )
    ],
)
def test_a_retry_is_due_as_we_write_it_or_not_known(value: Any, due: float | None) -> None:
    """A time to the millisecond and nothing else; with a host it is a turn."""
    assert unsigned("x-scraperd-turn", value).due == due


OLDER = {  # what version 0.1.0 wrote before it noted when a retry is due
    "retry": {
        "x-scraperd-attempt": 2,
        "x-scraperd-job-id": "id-1",
        "x-scraperd-signature": "1 1700000000 "
        "d01e2763079007ed46bcf8eef5a6ffd62b47d713a3e10a7e6ab096306ecda3f7",
        "x-scraperd-total-retries": 1,
    },
    "snooze": {
        "x-scraperd-attempt": 3,
        "x-scraperd-snoozes": 2,
        "x-scraperd-strikes": 1,
        "x-scraperd-turn": "1700000060.125 a.b 12.500",
        "x-scraperd-job-id": "id-1",
        "x-scraperd-reply-to": "q",
        "x-scraperd-signature": "1 1700000000 "
        "2ad7daa547b280f73907ca5f37d572a3096d575c15b0f898e01a13b7b9bf6606",
        "x-scraperd-total-retries": 2,
        "x-scraperd-total-snoozes": 2,
    },
}


def test_what_an_earlier_version_signed_is_believed() -> None:
    """A job that waited in a delay queue during the upgrade keeps its attempt and its turn."""
    keys = Keys([b"a" * 32], "team", time.time)
    found = {kind: Envelope.of(headers, BODY, keys) for kind, headers in OLDER.items()}
    retry = Envelope(attempt=2, ident="id-1", tries=1, signed_at=1_700_000_000)
    snoozed = replace(retry, attempt=3, snoozes=2, strikes=1, tries=2, waits=2, reply_to="q")
    turn = Turn("a.b", 1700000060.125, 12.5)
    assert found == {"retry": retry, "snooze": replace(snoozed, turn=turn)}


def test_a_retry_begins_anew_and_a_snooze_goes_on() -> None:
    """A snooze keeps attempt and strikes; a retry keeps what the job has waited for in all."""
    turn = Turn("a", 5.0)
    counts = {"attempt": 3, "snoozes": 2, "strikes": 1, "tries": 4, "waits": 6}
    now = Envelope(**counts, turn=Turn("b", 1.0), undelivered="expired")
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    first = Attempt("dns", "2026-01-02T03:04:05.000+00:00", "w" * 100)
    retried = Envelope(
        attempt=4, snoozes=2, tries=5, waits=6, due=at.timestamp() + 6, earlier=(first,)
    )
    assert now.retried("dns", "w" * 101, at, 6.0) == retried
    assert now.snoozed(turn) == replace(now, snoozes=3, waits=7, turn=turn, undelivered=None)
    assert retried.snoozed(turn) == replace(retried, snoozes=3, waits=7, turn=turn, due=None)


def test_a_header_of_another_type_or_size_is_as_if_absent() -> None:
    """An id is a text, a reply address a text of 255 bytes at most."""
    assert unsigned("x-scraperd-job-id", 7).ident is None
    assert unsigned("x-scraperd-reply-to", 7).reply_to is None
    for size, kept in ((255, True), (256, False)):
        found = unsigned("x-scraperd-reply-to", "a" * size).reply_to
        assert found == ("a" * size if kept else None)
    assert unsigned("x-scraperd-reply-to", "\u00e9" * 128).reply_to is None


def test_nothing_is_doubted_where_a_claim_leads_to_nothing() -> None:
    """In the dead queue claims are read without a key, and so without a doubt."""
    assert not unsigned("x-scraperd-attempt", 3).unverified


NAIVE = datetime(2026, 1, 2, 3, 4, 5)  # noqa: DTZ001 - as AMQP gives it
EAST = timezone(timedelta(hours=3))


@pytest.mark.parametrize(
    ("value", "at"),
    [
        (NAIVE, NAIVE.replace(tzinfo=UTC)),
        (NAIVE.replace(tzinfo=EAST), NAIVE.replace(tzinfo=EAST)),
        ("2026-01-02T03:04:05", NAIVE.replace(tzinfo=UTC)),
        ("2026-01-02T03:04:05+03:00", NAIVE.replace(tzinfo=EAST)),
        ("soon", None),
        (7, None),
    ],
)
def test_a_time_of_death_has_a_zone(value: Any, at: datetime | None) -> None:
    """Its own, or UTC; it can be compared with any other, whoever wrote it."""
    found = Obituary.of({"x-scraperd-dead-at": value}).at
    assert found == at
    assert (found and found.utcoffset()) == (at and at.utcoffset())


def test_a_dead_letter_says_what_its_job_died_of() -> None:
    """What is noted on it is read again, fit to be seen; a stranger's values are as if absent."""
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    result = Result(id="a", status="failed", attempt=2, worker="w")
    failure = Failure("dns", "no such \x1b[2Jhost", field="url")
    envelope = Envelope(strikes=3, undelivered="expired", reply_to="q")
    headers = obituary(result, "dns", failure, envelope, now)
    assert headers["x-scraperd-dead-reason"] == "expired"
    assert headers["x-scraperd-dead-kind"] == "dns"
    assert Obituary.of(headers) == Obituary("dns", "no such \ufffd[2Jhost", now, 3, "expired")
    assert headers["x-scraperd-reply-to"] == "q"
    assert headers["x-scraperd-worker"] == "w"
    assert headers["x-scraperd-dead-field"] == "url"
    whole = obituary(result, "invalid_job", Failure("invalid_job", "", field=""), envelope, now)
    assert whole["x-scraperd-dead-field"] == ""  # the job itself, and no field of it
    nameless = Result(id="a", status="failed", attempt=2)
    long = obituary(nameless, "dns", Failure("dns", "x" * 501), envelope, now)
    assert len(long["x-scraperd-dead-message"]) == 500
    assert long["x-scraperd-worker"] == ""
    strange = {name: [7] for name in headers}
    assert Obituary.of(strange) == Obituary(undelivered="unknown")
    assert Obituary.of({}) == Obituary()


def test_a_result_tells_its_job_without_being_opened() -> None:
    """Id, run, attempt, status; how often it was snoozed and what headers it lost, if it did."""
    result = Result(id="a", status="ok", attempt=2, run=3)
    assert told(result) == {
        "x-scraperd-job-id": "a",
        "x-scraperd-run": 3,
        "x-scraperd-attempt": 2,
        "x-scraperd-status": "ok",
    }
    more = told(result, Envelope(snoozes=4, dropped=5))
    assert (more["x-scraperd-snoozes"], more["x-scraperd-dropped-headers"]) == (4, 5)


def test_the_story_of_a_job_travels_with_it() -> None:
    """Its run, the attempts that failed, and how many headers it lost; the newest 20 attempts."""
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    envelope = Envelope(run=2, dropped=7)
    for number in range(25):
        envelope = envelope.retried("timeout", f"w{number}", at, 1.0)
    read = Envelope.of(envelope.headers(KEYS, BODY), BODY, KEYS)
    assert (read.run, read.dropped, read.attempt) == (2, 7, 26)
    assert read.earlier == envelope.earlier
    assert [one.worker for one in read.earlier] == [f"w{n}" for n in range(5, 25)]


@pytest.mark.parametrize(
    "value",
    [
        7,
        "",
        "[",
        "[[]]",
        '[{"kind": "dns"}]',
        '[{"kind": 7, "at": "", "worker": ""}]',
        '[{"kind": "dns", "at": "", "worker": "\u00e9"}]',
        "[" + " " * 8192 + "]",
    ],
)
def test_a_story_that_we_did_not_write_is_as_if_absent(value: Any) -> None:
    """A publisher's header of that name neither raises nor is told on."""
    assert unsigned("x-scraperd-attempts", value).earlier == ()


def test_a_dead_letter_that_is_moved_by_hand_begins_its_next_run() -> None:
    """A shovel or the management page keeps the headers; the next result must not look the same."""
    result = Result(id="a", status="failed", attempt=4, run=2, worker="w")
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    old = Envelope(run=2, attempt=4).retried("dns", "w", at, 1.0)
    headers = obituary(result, "dns", Failure("dns", ""), old, at)
    moved = Envelope.of(headers, BODY, KEYS)
    assert (moved.run, moved.attempt, moved.earlier) == (3, 1, ())
    assert Envelope.of(headers, BODY, None).run == 2  # in the dead queue it is what it was


@pytest.mark.parametrize(
    ("kind", "undelivered", "strikes", "reason"),
    [
        ("timeout", None, 0, "exhausted"),
        ("invalid_job", None, 0, "invalid"),
        ("internal", None, 0, "internal"),
        ("internal", None, 5, "poisonous"),
        ("expired", "expired", 0, "expired"),
    ],
)
def test_a_reason_is_one_word(
    kind: str, undelivered: str | None, strikes: int, reason: str
) -> None:
    """The header and the commands say the same."""
    assert reason_for(kind, undelivered, strikes) == reason


def test_no_header_that_begins_like_ours_travels_on_as_the_publishers() -> None:
    """In any case, as a consumer may look for it in any case."""
    theirs = {"traceparent": "t", "Xx-scraperd-": 1}
    assert foreign({**theirs, "X-Scraperd-Attempt": 2, "x-scraperd-signature": "1"}) == theirs
