"""What a job asks of a page, and the fields that a response's headers give.

May touch: values.
Must never: need a site, or look into a body.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from scraperd.contract import Failure, Job, decode_job
from scraperd.extract.document import ExtractRequest
from scraperd.fetch.message import Response, http_date
from scraperd.scrape.content import (
    MAX_VALIDATOR,
    described,
    extract_request,
    media_of,
    sniffing_of,
    unavailable,
    unchanged,
)

PARTS = ("body", "links", "metadata", "text", "feed")
AGAIN = "Sat, 01 Nov 2025 10:00:00 GMT"


def job(**fields: Any) -> Job:
    found = decode_job(json.dumps({"url": "http://x/", **fields}).encode())
    assert isinstance(found, Job), found
    return found


def response(*headers: tuple[str, str], body: bytes = b"", trouble: bool = False) -> Response:
    failure = Failure("connect", "cut") if trouble else None
    proxy = CIMultiDictProxy(CIMultiDict(headers))
    return Response(200, URL("http://x/"), proxy, body, failure)


def asked(*parts: str, digest: bool = True, rules: bytes | None = None) -> ExtractRequest:
    wanted = {part: part in parts for part in PARTS}
    return ExtractRequest("http://x/p", "text/html", digest=digest, rules=rules, **wanted)


@pytest.mark.parametrize("part", PARTS)
def test_each_part_is_asked_for_by_its_name(part: str) -> None:
    """Of a page that failed only the body is."""
    wanted = job(include=[part])
    assert extract_request(wanted, "http://x/p", "text/html") == asked(part)
    only = ("body",) if part == "body" else ()
    assert extract_request(wanted, "http://x/p", "text/html", ok=False) == asked(*only)


def test_rules_are_asked_for_as_they_came() -> None:
    """They take the body's place; a page that failed is not searched."""
    raw = b'{"url": "http://x/", "extract": {"a":  "h1"}}'
    wanted = decode_job(raw)
    assert isinstance(wanted, Job)
    found = extract_request(wanted, "http://x/p", "text/html")
    assert found == asked(rules=b'{"a":  "h1"}')
    assert extract_request(wanted, "http://x/p", "text/html", ok=False) == asked()


def test_a_page_without_a_body_has_no_digest() -> None:
    """That is the answer to HEAD, and to no other method."""
    head, options = job(method="HEAD", include=[]), job(method="OPTIONS", include=[])
    assert extract_request(head, "http://x/p", "text/html") == asked(digest=False)
    assert extract_request(options, "http://x/p", "text/html") == asked()


def test_text_needs_an_extra() -> None:
    """Without it a job that wants text is told what to install; any other job misses nothing."""
    missing = "text needs the extra 'readable': pip install '.[readable]' in scraperd's checkout"
    assert unavailable(job(include=["text"]), readable=False) == missing
    assert unavailable(job(include=["text"]), readable=True) is None
    assert unavailable(job(include=["body"]), readable=False) is None


@pytest.mark.parametrize(
    ("value", "told", "read"),
    [
        ("text/html; charset=utf-8", "text/html; charset=utf-8", "text/html; charset=utf-8"),
        ("text/é", "text/é", "text/Ã©"),
        ("text/\udce9", "text/é", "text/é"),
        ("text/é\udce9", "text/Ã©é", "text/Ã©é"),
        ("text/ł", "text/ł", "text/Å\x82"),
    ],
)
def test_odd_bytes_of_a_header(value: str, told: str, read: str) -> None:
    """A type is told as UTF-8 where it is that, else as Latin-1, and read as Latin-1 (Fetch)."""
    answer = response(("content-type", value))
    assert described(job(), answer)["content_type"] == told
    assert media_of(answer) == read
    assert media_of(response()) == ""
    assert "content_type" not in described(job(), response())


@pytest.mark.parametrize(
    ("headers", "media", "sniffing"),
    [
        ([], "", ""),
        ([""], "", ""),
        (["text/html", "text/plain"], "text/html, text/plain", "apache"),
        (["text/html, text/plain"], "text/html, text/plain", ""),
        (["text/plain", "text/html"], "text/plain, text/html", ""),
        (["", "text/plain"], "text/plain", "apache"),
        (['text/html;x="', "text/plain"], 'text/html;x=", text/plain', ""),
        (["text/plain"], "text/plain", "apache"),
        (["text/plain; charset=ISO-8859-1"], "text/plain; charset=ISO-8859-1", "apache"),
        (["text/plain; charset=iso-8859-1"], "text/plain; charset=iso-8859-1", "apache"),
        (["text/plain; charset=UTF-8"], "text/plain; charset=UTF-8", "apache"),
        (["text/plain; charset=utf-8"], "text/plain; charset=utf-8", ""),
        (["text/plain;charset=UTF-8"], "text/plain;charset=UTF-8", ""),
        (["Text/Plain"], "Text/Plain", ""),
    ],
)
def test_all_headers_of_a_type_are_one_list(headers: list[str], media: str, sniffing: str) -> None:
    """A text is doubted if the last header is one of the four of Apache's bug, byte by byte."""
    answer = response(*(("Content-Type", value) for value in headers))
    assert (media_of(answer), sniffing_of(answer, media)) == (media, sniffing)
    assert described(job(), answer).get("content_type", "") == media


@pytest.mark.parametrize(
    ("options", "is_set"),
    [
        (["nosniff"], True),
        (["NoSniff"], True),
        (["nosniff, x"], True),
        (["nosniff", "x"], True),
        (["x, nosniff"], False),
        (["x", "nosniff"], False),
        (["", "nosniff"], False),
        ([""], False),
        (["no-sniff"], False),
        (['"nosniff"'], False),
        ([], False),
    ],
)
def test_the_first_option_may_forbid_to_sniff(options: list[str], is_set: bool) -> None:  # noqa: FBT001
    """As in Fetch's "determine nosniff"; a known type is not asked."""
    named = [("X-Content-Type-Options", value) for value in options]

    def sniffing(*types: str) -> str:
        answer = response(*named, *(("Content-Type", value) for value in types))
        return sniffing_of(answer, media_of(answer))

    for types in ((), ("unknown/unknown",), ("html",)):
        assert (sniffing(*types) == "nosniff") is is_set
    assert sniffing("text/plain") == ("nosniff" if is_set else "apache")
    assert sniffing("text/html") == ""


def test_a_page_is_described_by_its_headers() -> None:
    """Its size, media type and validators; what it does not say is absent."""
    headers = [("CONTENT-TYPE", "text/html\x1b"), ("ETAG", '"v1"'), ("LAST-MODIFIED", AGAIN)]
    described_so = {
        "etag": '"v1"',
        "last_modified": AGAIN,
        "size": 3,
        "content_type": "text/html\N{REPLACEMENT CHARACTER}",
    }
    assert described(job(), response(*headers, body=b"abc")) == described_so
    assert described(job(), response()) == {"size": 0}
    assert described(job(), response(trouble=True)) == {}


def test_headers_come_back_where_a_job_wants_them() -> None:
    """By lower-case name, with all the values of each name in their order."""
    answer = response(("Set-Cookie", "a=1"), ("X-Name", "\udce9"), ("set-cookie", "b=2"))
    found = described(job(include=["headers"]), answer)
    assert found == {"size": 0, "headers": {"set-cookie": ["a=1", "b=2"], "x-name": ["é"]}}


def test_an_unchanged_page_has_its_validators_and_nothing_else() -> None:
    """A 304 says that there is nothing new."""
    headers = [("Content-Type", "text/html"), ("ETag", '"v1"'), ("Last-Modified", AGAIN)]
    found = unchanged(response(*headers))
    assert found == {"not_modified": True, "etag": '"v1"', "last_modified": AGAIN}
    assert unchanged(response()) == {"not_modified": True}


def test_a_date_is_told_in_gmt_by_a_machine_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The local time zone of the process makes no difference."""
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("TZ", "EAST-9")
        time.tzset()
        found = unchanged(response(("Last-Modified", AGAIN)))
    time.tzset()
    assert found["last_modified"] == AGAIN


LONGEST = f'"{"x" * (MAX_VALIDATOR - 2)}"'


@pytest.mark.parametrize(
    ("tag", "kept"),
    [
        ('W/"v1"', True),
        ('"\udcc3\udca9"', True),
        ("v1", False),
        ('"v1" or so', False),
        (LONGEST, True),
        (f'W/"{LONGEST[3:]}', True),
        (f"W{LONGEST}", False),
        (f"W/{LONGEST}", False),
    ],
)
def test_only_what_a_job_can_send_back_is_an_entity_tag(tag: str, kept: bool) -> None:  # noqa: FBT001
    """By its form (RFC 9110 section 8.8.3) and its length."""
    found = unchanged(response(("ETag", tag)))
    assert found.get("etag") == (tag.replace("\udcc3\udca9", "é") if kept else None)


@pytest.mark.parametrize(
    ("when", "told"),
    [
        ("Sat, 01 Nov 2025 11:00:00 +0100", AGAIN),
        ("Sat, 01-Nov-2025 10:00:00 GMT", AGAIN),
        ("Fri, 01 Nov 2025 10:00:00 GMT", AGAIN),
        ("Sat, 31 Feb 2025 10:00:00 GMT", None),
        ("long ago", None),
        ("", None),
    ],
)
def test_a_date_is_told_as_a_job_may_send_it(when: str, told: str | None) -> None:
    """In GMT, whatever its zone was; what is no date is left out."""
    assert unchanged(response(("Last-Modified", when))).get("last_modified") == told


@given(
    st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)),  # noqa: DTZ001 - GMT is written
    st.sampled_from(["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%d %b %Y %H:%M"]),
    st.sampled_from(["", "Mon", "Thu"]),
)
def test_the_usual_date_is_told_as_any_other(when: datetime, form: str, weekday: str) -> None:
    """What most sites send is told as the standard library reads and writes it."""
    text = when.strftime(form)
    text = weekday + text[3:] if weekday else text
    read = http_date(text)
    told = unchanged(response(("Last-Modified", text))).get("last_modified")
    assert told == (read and format_datetime(read.astimezone(UTC), usegmt=True))
