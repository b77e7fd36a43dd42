"""A body as a job that can be run: what names it, and why it is refused or has to come back.

May touch: values, and a compiler of rules that answers as the test says.
Must never: fetch anything, or start a helper process.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from dataclasses import dataclass, field
from typing import Any

import brotli  # type: ignore[import-untyped]
import pytest
from msgspec import UNSET, Raw

from scraperd.base.fd_limits import OutOfDescriptors
from scraperd.broker.ports import Delivery, Own, Source
from scraperd.contract import Failure, Invalid, Job
from scraperd.extract.rules import RuleError
from scraperd.jobs.decode import Decoder, Prepared, Undecoded
from scraperd.jobs.envelope import Envelope
from scraperd.jobs.received import Received
from scraperd.sandbox.extractor import Crowded, Unchecked
from scraperd.scrape.request import Target
from tests.rig.clocks import hours
from tests.rig.deliveries import acked

MAX_SIZE = 500
OURS = Failure("internal", "an error of ours")
RULES = object()


@dataclass
class Compiles:
    """A compiler of rules that gives them, raises, or takes some seconds."""

    error: Exception | None = None
    seconds: float = 0.0
    asked: list[bytes] = field(default_factory=list)

    def known_rules(self, _raw: bytes) -> None:
        """None are compiled before a job asks for them."""

    async def rules(self, raw: bytes) -> object:
        self.asked.append(raw)
        await asyncio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return RULES


def decoded(
    body: bytes | dict[str, Any],
    scraper: Any = None,
    seconds: float = 1.0,
    told: list[tuple[Exception, str | None]] | None = None,
    **properties: Any,
) -> Prepared | Undecoded:
    """What `body` is found to be; errors of ours go to `told`."""

    def on_error(error: Exception, ident: str | None) -> Failure:
        assert told is not None, error
        told.append((error, ident))
        return OURS

    async def life() -> Prepared | Undecoded:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        epoch: Any = None
        delivery = Delivery(raw, {}, Source.JOBS, epoch, acked, **properties)
        decoder = Decoder(MAX_SIZE, ("p",), scraper or Compiles(), on_error)
        return await decoder.decode(Received(delivery, Envelope()), seconds)

    return hours.run(life())


def prepared(*args: Any, **more: Any) -> Prepared:
    found = decoded(*args, **more)
    assert isinstance(found, Prepared)
    return found


def refused(*args: Any, **more: Any) -> Invalid:
    found = decoded(*args, **more)
    assert isinstance(found, Undecoded)
    return found.seen


def test_a_job_without_rules_is_not_compiled() -> None:
    """It has its target and no rules, and says itself what names it and how often it is tried."""
    compiler = Compiles()
    job = {"url": "http://www.X.example:8080/p", "id": "7", "max_retries": 2}
    found = prepared(job, compiler)
    assert found == Prepared(Target.of(Job(**job)), None)
    assert found.names == ("7", "http://www.X.example:8080/p", "www.x.example")
    assert found.max_retries == 2
    assert compiler.asked == []
    bare = prepared({"url": "http://x/"})
    assert (bare.names, bare.max_retries) == ((UNSET, "http://x/", "x"), UNSET)


PLAIN = b'{"url": "http://x/", "id": "7"}'


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(PLAIN, mtime=0)),
        (" X-GZIP", gzip.compress(PLAIN, mtime=0)),
        ("deflate", zlib.compress(PLAIN)),
        ("br", brotli.compress(PLAIN)),
        ("utf-8", PLAIN),  # Celery says so
        ("identity", PLAIN),
        ("gzip", PLAIN),  # said, and not done
        ("br", PLAIN),
    ],
)
def test_a_packed_job_is_unpacked(coding: str, body: bytes) -> None:
    """By the property content_encoding; one that names no coding is passed over."""
    assert prepared(body, own=Own(content_encoding=coding)).target.job.id == "7"


@pytest.mark.parametrize(
    ("coding", "body", "reason"),
    [
        ("gzip", b" " + PLAIN, "content_encoding gzip: "),
        ("gzip", gzip.compress(PLAIN, mtime=0)[:-9], "content_encoding gzip: it ends early"),
        ("deflate", gzip.compress(PLAIN, mtime=0), "content_encoding deflate: "),
        (
            "gzip",
            gzip.compress(b" " * (MAX_SIZE + 1), mtime=0),
            "content_encoding gzip: more than 500 bytes when unpacked",
        ),
        ("gzip", b" " * (MAX_SIZE + 1), "the job has 501 bytes, more than 500 (jobs.max_size)"),
    ],
)
def test_a_packed_job_that_is_broken_or_too_large(coding: str, body: bytes, reason: str) -> None:
    """It is no job, and the reason names the property; jobs.max_size counts on both sides."""
    found = refused(body, own=Own(content_encoding=coding))
    assert (found.field, found.reason[: len(reason)]) == ("", reason)


def test_rules_are_compiled_as_they_came() -> None:
    """The compiler gets the bytes of `extract`, and the job gets what it made of them."""
    compiler = Compiles()
    found = prepared(b'{"url": "http://x/", "extract": {"a":  "h1"}}', compiler)
    assert found.rules is RULES
    assert compiler.asked == [b'{"a":  "h1"}']
    assert found.target.url.raw_host == "x"


def test_what_is_no_job_keeps_what_names_it() -> None:
    """The failure says which field and why; id, URL and meta come back; it is never retried."""
    found = decoded({"url": "http://x/p", "id": "7", "meta": 1, "method": "BREW"})
    assert isinstance(found, Undecoded)
    assert found.names == ("7", "http://x/p", "x")
    assert found.seen.meta == Raw(b"1")
    assert found.max_retries is UNSET
    message = f"method: {found.seen.reason}"
    assert found.failure == Failure("invalid_job", message, field="method")
    assert decoded(b"[").names == (UNSET, UNSET, None)


def test_a_job_may_be_as_large_as_configured() -> None:
    """At `max_size` bytes it is read; one more byte, and not even its id is."""
    body = json.dumps({"url": "http://x/", "id": "7"}).encode()
    assert prepared(body.ljust(MAX_SIZE)).names[0] == "7"
    large = refused(body.ljust(MAX_SIZE + 1))
    assert large.id is UNSET
    assert large.reason.startswith(f"the job has {MAX_SIZE + 1} bytes, more than {MAX_SIZE}")


def test_a_message_with_too_many_headers_is_refused() -> None:
    """With the number that the transport takes, and no field; the job keeps its names."""
    seen = refused({"url": "http://x/", "id": "7"}, overfull=100)
    assert seen == Invalid("", "the message has more than 100 headers", "7", "http://x/")


def test_a_body_that_the_transport_could_not_read_is_refused() -> None:
    """In the transport's words, and without a look at the body."""
    seen = refused({"url": "http://x/", "id": "7"}, unreadable="is a map: send JSON")
    assert seen == Invalid("", "the body is a map: send JSON")


def test_a_proxy_must_be_configured() -> None:
    """A name that is known is taken; another is refused, in letters that a terminal bears."""
    assert prepared({"url": "http://x/", "proxy": "p"}).target.job.proxy == "p"
    seen = refused({"url": "http://x/", "proxy": "q"})
    assert seen == Invalid("proxy", "no proxy is named q here", url="http://x/")


def test_rules_that_are_wrong_are_refused_by_their_path() -> None:
    """What the compiler says of them is the field and the reason."""
    seen = refused(
        {"url": "http://x/", "id": "7", "extract": {"a": "!"}},
        Compiles(RuleError("extract.a", "not a selector")),
    )
    assert seen == Invalid("extract.a", "not a selector", "7", "http://x/")


@pytest.mark.parametrize("lack", [OutOfDescriptors(), Crowded()])
def test_what_this_process_lacks_is_handed_on(lack: Exception) -> None:
    """The job is one that can come back: it is told of by what was lacking."""
    found = prepared({"url": "http://x/", "extract": {"a": "h1"}}, Compiles(lack))
    assert found.rules is lack
    assert found.target.host == "x"


def test_rules_that_could_not_be_checked_fail_the_job() -> None:
    """With the failure that the helpers gave."""
    failure = Failure("timeout", "the helper ended", retryable=True)
    lack = Unchecked(failure)
    found = prepared({"url": "http://x/", "extract": {"a": "h1"}}, Compiles(lack))
    assert found.rules is failure
    assert found.names == (UNSET, "http://x/", "x")


def test_compiling_ends_with_the_jobs_time() -> None:
    """Within it the rules are had; beyond it is a timeout that says so, and is retried."""
    body = {"url": "http://x/", "id": "7", "extract": {"a": "h1"}}
    assert prepared(body, Compiles(seconds=9), seconds=10).rules is RULES
    found = prepared(body, Compiles(seconds=11), seconds=10)
    over = "extract took over 10 s to be compiled (jobs.timeout)"
    assert found.rules == Failure("timeout", over, retryable=True)
    assert found.names == ("7", "http://x/", "x")


def test_an_error_of_ours_is_told_with_the_jobs_id() -> None:
    """The job's own id, or else its message id; the failure is what the one who is told says."""
    error = ZeroDivisionError()
    for own, ident in (({"id": "7"}, "7"), ({}, "m1")):
        told: list[tuple[Exception, str | None]] = []
        body = {"url": "http://x/", "extract": {"a": "h1"}, **own}
        found = prepared(body, Compiles(error), told=told, message_id="m1")
        assert found.rules is OURS
        assert found.target.job.url == "http://x/"
        assert told == [(error, ident)]
