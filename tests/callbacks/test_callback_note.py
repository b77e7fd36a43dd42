"""The message of a callback: its body in bounds, and notes that nobody else can write.

May touch: the pure functions.
Must never: need a broker.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from msgspec.structs import replace

from scraperd.callbacks.ladder import ATTEMPTS
from scraperd.contract import Invalid, Job, Peeked, Result, decode_job
from scraperd.extract.document import names
from scraperd.jobs.callback.allowed import NONE, Allowed
from scraperd.jobs.callback.note import Note, Obituary, new_note, payload, webhook_id
from scraperd.jobs.outcome import Outcome
from scraperd.jobs.signing import Keys

NOW = datetime(2026, 11, 28, 12, 0, 0, 5000, tzinfo=UTC)
KEYS = Keys((b"k" * 32,), "p", lambda: 0.0)
OTHERS = Keys((b"o" * 32,), "p", lambda: 0.0)
NOTE = Note("https://x.example/hook", "msg_1", "job 1", 1_700_000_000, 3, 1_700_000_300)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=50)


def result(**more: Any) -> Outcome:
    """A result with its JSON, as the worker has it."""
    found = Result(id="1", status="ok", attempt=1, url="https://x/", http_status=200, **more)
    return Outcome.of(found, 15 * 1024 * 1024)


def test_the_body_is_the_result_in_the_standard_s_form() -> None:
    """Type, time and data; the data is the result that is published, byte for byte."""
    outcome = result(body="x" * 1000)
    body = payload(outcome, NOW, 65_536)
    assert body.endswith(b'"data":' + outcome.body + b"}")
    assert json.loads(body) == {
        "type": "scraperd.result",
        "timestamp": "2026-11-28T12:00:00.005Z",
        "data": json.loads(outcome.body),
    }


@pytest.mark.parametrize("more", [{}, {"meta": Raw(b'"%b"' % (b"m" * 65_000))}])
def test_a_large_body_is_left_out_with_a_flag(more: dict[str, Any]) -> None:
    """What names the job stays, and the whole fits, if need be without `meta`."""
    body = payload(result(body="x" * 70_000, **more), NOW, 65_536)
    told = json.loads(body)
    assert len(body) <= 65_536
    assert told["truncated"] is True
    assert told["data"]["id"] == "1"
    assert told["data"]["http_status"] == 200
    assert "body" not in told["data"]


def test_what_just_fits_is_whole() -> None:
    """The bound counts all bytes of the body that is sent."""
    outcome = result(body="x" * 70_000)
    size = len(payload(outcome, NOW, 1 << 30))
    assert b"truncated" not in payload(outcome, NOW, size)
    assert b"truncated" in payload(outcome, NOW, size - 1)


@given(TEXTS, TEXTS, TEXTS, *[st.integers(0, 1 << 40)] * 3, st.binary(max_size=50))
def test_a_note_comes_back_as_it_was_sealed(  # noqa: PLR0917 - the fields of a note
    to: str, ident: str, job: str, since: int, attempt: int, due: int, body: bytes
) -> None:
    """Any text and any number."""
    note = Note(to, ident, job, since, attempt, due)
    assert Note.of(note.headers(body, KEYS), body, KEYS) == note


@pytest.mark.parametrize("name", list(NOTE.headers(b"", KEYS)))
@pytest.mark.parametrize("value", [None, "", "x", 1, -1, 1 << 60, ["x"], b"x"])
def test_a_changed_note_is_not_believed(name: str, value: Any) -> None:
    """Whichever header is changed or missing, and whatever is written there."""
    headers = NOTE.headers(b"body", KEYS)
    assert Note.of(headers, b"body", KEYS) == NOTE
    changed = headers | {name: value}
    if value is None:
        del changed[name]
    assert Note.of(changed, b"body", KEYS) is None


def test_a_seal_holds_for_one_body_and_for_the_fleet_s_keys() -> None:
    """With an older key among those of now, an older seal is valid."""
    headers = NOTE.headers(b"body", KEYS)
    assert Note.of(headers, b"other", KEYS) is None
    assert Note.of(headers, b"body", OTHERS) is None
    both = Keys((b"o" * 32, b"k" * 32), "p", lambda: 0.0)
    assert Note.of(headers, b"body", both) == NOTE


def test_a_dead_callback_keeps_its_note_and_says_why() -> None:
    """So that it can be replayed; a forged one has no seal of ours."""
    obituary = Obituary("exhausted", "10 attempts failed\x1b[2J", 1_700_000_900)
    dead = NOTE.dead(b"body", KEYS, obituary)
    assert Note.of(dead.headers, b"body", KEYS) == NOTE
    told = Obituary.of(dead.headers)
    assert (told.reason, told.died) == ("exhausted", 1_700_000_900)
    assert "\x1b" not in told.why
    forged = NOTE.forged(b"body", obituary)
    assert Note.of(forged.headers, b"body", KEYS) is None
    assert Note.unsealed(forged.headers).to == NOTE.to


def test_a_callback_of_ours_under_another_key_keeps_its_url() -> None:
    """Also a long one: it is dead as forged, and an operator may have it sent after all."""
    note = replace(NOTE, to="https://x.example/" + "h" * 8000)
    forged = note.forged(b"body", Obituary("forged", "", 1))
    assert Note.unsealed(forged.headers).to == note.to


def test_a_webhook_id_is_that_of_one_run_of_one_job() -> None:
    """By its id, its run and its body, and by nobody without a key of the fleet."""
    ident = webhook_id(KEYS, "job 1", 1, b"{}")
    assert ident.removeprefix("msg_").isalnum()
    assert len(ident) == 36
    assert ident == webhook_id(KEYS, "job 1", 1, b"{}")
    others = [
        webhook_id(KEYS, "job 11", 1, b"{}"),
        webhook_id(KEYS, "job 1", 11, b"{}"),
        webhook_id(KEYS, "job 1", 1, b"{} "),
        webhook_id(OTHERS, "job 1", 1, b"{}"),
    ]
    assert len({ident, *others}) == 5


def test_a_callback_begins_at_its_first_attempt() -> None:
    """It is due at once, and its age counts from now."""
    note = new_note("billing", "msg_1", "1", NOW)
    assert note == Note("billing", "msg_1", "1", int(NOW.timestamp()), attempt=1, due=0)
    assert note.attempt <= ATTEMPTS


def test_a_helper_reads_the_callback_of_a_job_that_is_not_run() -> None:
    """What it cannot vouch for is left out: a name or URL that is not plain, or not valid."""
    job = {"url": "https://x/", "callback_url": "https://x/h", "callback": "billing"}
    parts = names(msgspec.json.encode(job)).parts
    assert (parts["callback_url"], parts["callback"]) == (b"https://x/h", b"billing")
    for callback_url in ("ftp://x/", "https://é/", 7, "https://u:p@x/"):
        odd = {"url": "https://x/", "callback_url": callback_url, "callback": ["x"]}
        assert names(msgspec.json.encode(odd)).parts.keys() == {"url"}


def decoded(**fields: Any) -> Job | Invalid:
    return decode_job(msgspec.json.encode({"url": "https://x/", **fields}))


def test_a_job_asks_for_one_callback_at_most() -> None:
    """By a URL that is one, or by a name that is one."""
    for fields, field in (
        ({"callback_url": "ftp://x/"}, "callback_url"),
        ({"callback_url": "https://u:p@x/"}, "callback_url"),
        ({"callback": "Bill ing"}, "callback"),
        ({"callback": ""}, "callback"),
        ({"callback": "a", "callback_url": "https://x/"}, "callback"),
    ):
        found = decoded(**fields)
        assert isinstance(found, Invalid)
        assert found.field == field


def test_only_what_is_allowed_is_obeyed() -> None:
    """URLs by a setting, endpoints by their names; by default nothing. Refused in words."""
    url, name = decoded(callback_url="https://x/h"), decoded(callback="billing")
    assert isinstance(url, Job)
    assert isinstance(name, Job)
    assert NONE.fault(url) == (
        "callback_url",
        "URLs are not allowed here (callbacks.allow_urls is false)",
    )
    assert NONE.fault(name) == (
        "callback",
        "no endpoint is named billing here (callback_endpoints)",
    )
    assert (NONE.target(url), NONE.target(name)) == (None, None)
    allowed = Allowed(urls=True, names=frozenset({"billing"}))
    assert (allowed.fault(url), allowed.fault(name)) == (None, None)
    assert (allowed.target(url), allowed.target(name)) == ("https://x/h", "billing")


def test_a_job_that_is_invalid_otherwise_still_has_its_callback() -> None:
    """Its dispatcher may look nowhere else; what nobody has checked is checked."""
    allowed = Allowed(urls=True, names=frozenset({"billing"}))
    invalid = decoded(callback_url="https://x/h", timeout="soon")
    assert isinstance(invalid, Invalid)
    assert allowed.target(invalid) == "https://x/h"
    assert allowed.target(Peeked(callback_url="gopher://x/")) is None
    assert allowed.target(Peeked(callback="other")) is None
