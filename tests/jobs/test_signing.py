"""Signed headers: which signatures are valid, with which keys, and what a forger can make of them.

May touch: headers in memory.
Must never: need a broker.
"""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from scraperd.jobs.signing import (
    ATTEMPT,
    JOB_ID,
    REPLY_TO,
    SIGNATURE,
    SNOOZES,
    STRIKES,
    TRIES,
    TURN,
    WAITS,
    Keys,
    claimed,
    secret_of,
)

BODY = b'{"url": "http://a.example/"}'
NOTES = {ATTEMPT: 3, JOB_ID: "id-1", SNOOZES: 2, TURN: "1700000000.125 a.b", STRIKES: 1}
A, B = b"a" * 32, b"b" * 32
KEYS = Keys([A], "team", time.time)
SIGNED = KEYS.sign(BODY, NOTES)
NAMES = (ATTEMPT, JOB_ID, SNOOZES, TURN, STRIKES, REPLY_TO)
UNCLAIMED = {JOB_ID: "id-1"}


def verified(headers: dict[str, Any], body: bytes = BODY, keys: Keys = KEYS) -> dict[str, Any]:
    return keys.verified(body, headers)[0]


def test_signed_headers_are_read() -> None:
    """With the time at which they were signed; the publisher's headers beside them stay."""
    signed = KEYS.sign(BODY, NOTES)
    headers, at = KEYS.verified(BODY, {**signed, "traceparent": "t", TRIES: 9, WAITS: 8})
    assert headers == {**NOTES, "traceparent": "t", TRIES: 9, WAITS: 8}
    assert at is not None
    assert abs(at - time.time()) < 60


def test_headers_without_a_signature_are_not_there() -> None:
    """But for the id, which any publisher can choose by a property, and the unsigned counts."""
    headers, at = KEYS.verified(BODY, {**NOTES, "traceparent": "t", TRIES: 9})
    assert (headers, at) == ({**UNCLAIMED, "traceparent": "t", TRIES: 9}, None)
    assert claimed(NOTES)
    assert not claimed({JOB_ID: "x", TRIES: 5, "a": 1})


@pytest.mark.parametrize("name", NAMES)
def test_no_header_can_be_changed_added_or_taken_off(name: str) -> None:
    """The signature covers each of them, and that it is absent."""
    for value in (7, "7", "", None, True, 3.0, [3], {"a": 3}, b"3", 2**80, "\ud800"):
        if SIGNED.get(name) != value:
            assert ATTEMPT not in verified({**SIGNED, name: value}), value
    if name in SIGNED:
        rest = {key: value for key, value in SIGNED.items() if key != name}
        assert not {ATTEMPT, STRIKES, TURN, SNOOZES} & verified(rest).keys()


def test_a_signature_is_of_one_job_one_prefix_and_one_key() -> None:
    """Moved to another body, another prefix, or by someone with another key it is worth nothing."""
    assert verified(SIGNED, BODY + b" ") == UNCLAIMED
    assert verified(SIGNED, b"") == UNCLAIMED
    assert verified(SIGNED, keys=Keys([A], "teams", time.time)) == UNCLAIMED
    assert verified(SIGNED, keys=Keys([B], "team", time.time)) == UNCLAIMED


def test_a_new_key_signs_and_an_old_one_is_valid() -> None:
    """How a fleet changes its key: first all accept it, then all sign by it."""
    old, both, new = (Keys(secrets, "team", time.time) for secrets in ([A], [B, A], [B]))
    assert verified(old.sign(BODY, NOTES), keys=both) == NOTES
    assert verified(both.sign(BODY, NOTES), keys=new) == NOTES
    assert verified(both.sign(BODY, NOTES), keys=old) == UNCLAIMED


@pytest.mark.parametrize(
    "signature",
    [
        *("", "1", "x" * 10_000, None, 5, True, [SIGNED[SIGNATURE]], {"a": 1}, b"1"),
        SIGNED[SIGNATURE] + "\n",
        SIGNED[SIGNATURE].upper(),
        SIGNED[SIGNATURE][:-1],
        "2" + SIGNED[SIGNATURE][1:],
        "1 99999999999 " + SIGNED[SIGNATURE].rpartition(" ")[2],
        "1 \u0661 " + "a" * 64,
    ],
    ids=itertools.count(),  # the signatures hold the time, and all test processes must agree
)
def test_what_is_no_signature_is_none(signature: Any) -> None:
    """Of whatever type; the time in it is signed too."""
    assert verified({**SIGNED, SIGNATURE: signature}) == UNCLAIMED


VALUES = st.integers() | st.text(max_size=5) | st.sampled_from(["", "-", "i1", "s", 1, "1", "3:"])
SOME = st.dictionaries(st.sampled_from(NAMES), VALUES)


@given(one=SOME, other=SOME, bodies=st.tuples(st.binary(max_size=9), st.binary(max_size=9)))
def test_no_two_jobs_share_a_signature(
    one: dict[str, Any], other: dict[str, Any], bodies: tuple[bytes, bytes]
) -> None:
    """What is signed can be read in one way only, wherever a value ends and the next begins."""
    assume((one, bodies[0]) != (other, bodies[1]))
    signature = KEYS.sign(bodies[0], one)[SIGNATURE]
    assert KEYS.verified(bodies[0], {**one, SIGNATURE: signature})[1] is not None
    assert KEYS.verified(bodies[1], {**other, SIGNATURE: signature})[1] is None


HEADERS = st.dictionaries(
    st.sampled_from([*NAMES, SIGNATURE, "a"]),
    st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.lists(st.text()),
)


@given(headers=HEADERS, body=st.binary(max_size=9))
def test_a_forger_gets_nowhere(headers: dict[str, Any], body: bytes) -> None:
    """Whatever is in the table, nothing is raised and no header that counts is left."""
    left, at = KEYS.verified(body, headers)
    assert at is None
    assert left.keys() <= {JOB_ID, REPLY_TO, "a"}


def test_a_key_of_the_broker_s_user() -> None:
    """Two spellings of one user, password and vhost make one key; any other makes another."""
    same = {
        secret_of(url)
        for url in (
            "amqp://guest:guest@a.example:5672/",
            "amqps://guest:guest@b.example",
            "amqp://c.example/%2F?heartbeat=3",
            "amqp://%67uest:gues%74@c.example/%2f",
        )
    }
    others = {
        secret_of(f"amqp://{text}")
        for text in ("guest:guest@a/v", "guest:other@a/", "other:guest@a/", "gue:stguest@a/")
    }
    assert len(same) == 1
    assert len(others) == 4
    assert not same & others


def test_keys_are_not_shown() -> None:
    """In a traceback or a log."""
    assert "aaaa" not in f"{KEYS!r} {KEYS}"
    assert A.decode() not in repr(vars(KEYS))
