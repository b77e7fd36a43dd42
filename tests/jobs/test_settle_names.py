"""Routing keys of results, and what is left of a result that is too large to send.

May touch: the pure functions beside the settler.
Must never: need a broker.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from scraperd.base.urls import host_of
from scraperd.contract import (
    Cookie,
    Failure,
    Link,
    Metadata,
    Redirect,
    Result,
    decode_result,
    encode,
)
from scraperd.jobs.outcome import Outcome, too_large
from scraperd.jobs.settle import routing_key

OK: dict[str, Any] = {"id": "1", "status": "ok", "attempt": 1, "http_status": 200}
FAILED: dict[str, Any] = {"id": "1", "status": "failed", "attempt": 1}


def key_of(result: Result) -> str:
    """Its routing key, with the host that its URL names."""
    return routing_key(result, host_of(result.url))


@pytest.mark.parametrize(
    ("result", "key"),
    [
        (Result(**OK, url="https://www.example.com/x.y"), "ok.200.com.example.www"),
        (Result(**OK, url="HTTP://WWW.Example.COM.:8080/"), "ok.200.com.example.www"),
        (Result(**OK, url="http://bücher.example/"), "ok.200.example.xn--bcher-kva"),
        (Result(**OK, url="http://localhost/"), "ok.200.localhost"),
        (Result(**OK, url="http://192.0.2.1/"), "ok.200.192-0-2-1"),
        (Result(**OK, url="http://[2001:db8::1]:80/"), "ok.200.2001:db8::1"),
        (
            Result(**FAILED, url="http://a.b/", error=Failure("dns", "")),
            "failed.dns.b.a",
        ),
        (
            Result(**FAILED, url="http://a.b/", http_status=404, error=Failure("http_status", "")),
            "failed.http_status.b.a",
        ),
        (Result(**FAILED, error=Failure("invalid_job", "")), "failed.invalid_job"),
        (Result(**FAILED, url="nothing", error=Failure("invalid_job", "")), "failed.invalid_job"),
        (Result(**FAILED, url="http://[", error=Failure("invalid_job", "")), "failed.invalid_job"),
        (
            Result(**FAILED, url="http://a..b/", error=Failure("invalid_job", "")),
            "failed.invalid_job.b.a",
        ),
    ],
)
def test_a_result_s_key_of(result: Result, key: str) -> None:
    """Status, what happened, and the host from the top down, so that one domain can be bound."""
    assert key_of(result) == key


@pytest.mark.parametrize("host", ["192.0.2.1", "[2001:db8::1]", "[::ffff:1.2.3.4]", "[::1]"])
def test_an_address_is_one_word(host: str) -> None:
    """A binding counts words, so an address has no dots in a key."""
    assert len(key_of(Result(**OK, url=f"http://{host}/")).split(".")) == 3


@given(
    host=st.text(st.characters(exclude_characters="/?#@:[]\\"), max_size=300),
    scheme=st.text(max_size=5),
)
@settings(max_examples=200, deadline=None)
@example(host="é" * 200, scheme="http")
@example(host=".".join(["a" * 60] * 20), scheme="http")
def test_any_url_makes_a_key_that_amqp_takes(host: str, scheme: str) -> None:
    """Whatever an invalid job has for a URL, the key is a short string that begins as promised."""
    result = Result(**FAILED, url=f"{scheme}://{host}/", error=Failure("invalid_job", ""))
    key = key_of(result)
    assert key.startswith("failed.invalid_job")
    assert len(key.encode()) <= 255


def large(**changes: Any) -> Result:
    """A result that has everything, and all of it large."""
    text = "é" * 5000
    everything: dict[str, Any] = {
        **OK,
        "url": "http://a.b/",
        "final_url": "http://a.b/c",
        "redirects": [Redirect(301, "http://a.b/c", {"x": [text]})],
        "headers": {"x": [text]},
        "content_type": "text/html",
        "charset": "utf-8",
        "size": 99_999,
        "body": text,
        "body_encoding": "base64",
        "data": {"a": text},
        "links": [Link("http://a.b/d", text)],
        "metadata": Metadata(title=text),
        "text": text,
        "feed": {"title": text},
        "cookies": [Cookie("a", text)],
        "worker": "w",
        "meta": msgspec.Raw(b'"%s"' % (b"m" * 5000)),
    }
    return Result(**{**everything, **changes})


def test_what_is_left_of_a_result_that_is_too_large() -> None:
    """It says what failed and by how much, and keeps all that tells which job and page it was."""
    whole = large()
    left = too_large(whole, 40_000, 30_000)
    assert left.status == "failed"
    assert left.error == Failure("too_large", "the result has 40000 bytes, more than 30000")
    gone = {"headers", "body", "body_encoding", "data", "links", "metadata", "text", "feed"}
    gone |= {"cookies", "redirects", "status", "error"}
    assert left.redirects == [Redirect(301, "http://a.b/c")]
    for name in Result.__struct_fields__:
        if name not in gone:
            assert getattr(left, name) == getattr(whole, name)
        elif name not in ("status", "error", "redirects"):
            assert getattr(left, name) is UNSET


@pytest.mark.parametrize(("limit", "kept"), [(12_000, True), (10_004, False), (9_000, False)])
def test_a_large_meta_is_dropped_only_if_it_must_be(limit: int, kept: bool) -> None:  # noqa: FBT001 - a column
    """The dispatcher's own meta comes back unless it alone would fill half of what can be sent."""
    left = too_large(large(), 40_000, limit)
    assert (left.meta is not UNSET) is kept
    assert len(encode(left)) <= limit


@given(size=st.integers(0, 60_000), meta=st.integers(0, 60_000), limit=st.integers(2_000, 50_000))
@settings(max_examples=100, deadline=None)
@example(size=49_000, meta=0, limit=50_000)
def test_no_outcome_is_larger_than_its_limit(size: int, meta: int, limit: int) -> None:
    """Any result is sent as it is where it fits, else as a failed one that fits; what is logged is
    the same result, without its large parts.
    """
    raw = msgspec.Raw(b'"%s"' % (b"m" * meta))
    result = Result(**OK, url="http://a.b/", body="b" * size, meta=raw)
    outcome = Outcome.of(result, limit)
    sent = decode_result(outcome.body)
    assert (sent.status, sent.error) == (outcome.result.status, outcome.result.error)
    assert len(outcome.body) <= limit
    assert (outcome.body == encode(result)) is (len(encode(result)) <= limit)
