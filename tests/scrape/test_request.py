"""A job as its first request, and that request after a redirect: method, body, headers, secrets.

May touch: values.
Must never: need a site, or wait.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import UNSET
from yarl import URL

from scraperd.base.clocks import SYSTEM
from scraperd.contract import Failure, Job, decode_job
from scraperd.fetch.message import Request
from scraperd.scrape.request import (
    Target,
    first_request,
    redirect,
    redirect_target,
    tightest,
)

if TYPE_CHECKING:
    from scraperd.scrape.cookies.jar import Cookies

SITE = "http://x.example/a"
TAG = '"v1"'
DATE = "Sat, 01 Nov 2025 10:00:00 GMT"
TEXT = "text/plain; charset=utf-8"
FORM = "application/x-www-form-urlencoded"


def job(**fields: Any) -> Job:
    found = decode_job(json.dumps({"url": SITE, **fields}).encode())
    assert isinstance(found, Job), found
    return found


def first(**fields: Any) -> tuple[Request, Cookies]:
    return asyncio.run(first_request(Target.of(job(**fields)), 1000, SYSTEM))


def sent(headers: dict[str, str], method: str = "GET", body: bytes | None = None) -> Request:
    return Request(method, URL(SITE), headers, body, 1.0, 1000)


def test_a_target_is_its_jobs_url() -> None:
    """It is parsed without another meaning; the scheduler knows the host without its final dot."""
    wanted = job(url="http://X.example.:8080/a%2Fb?q=%41#there")
    target = Target.of(wanted)
    assert target.job is wanted
    assert str(target.url) == "http://x.example.:8080/a%2Fb?q=%41"
    assert target.host == "x.example"


@pytest.mark.parametrize(
    ("fields", "repeatable"),
    [
        ({}, True),
        ({"method": "HEAD"}, True),
        ({"method": "OPTIONS"}, True),
        ({"method": "POST"}, False),
        ({"method": "PUT"}, False),
        ({"method": "DELETE"}, False),
        ({"body": "x"}, False),
    ],
)
def test_which_requests_a_site_has_to_bear_twice(
    fields: dict[str, Any],
    repeatable: bool,  # noqa: FBT001 - a column
) -> None:
    """The safe methods of RFC 9110 section 9.2.1, and no other."""
    assert Target.of(job(**fields)).repeatable is repeatable


@pytest.mark.parametrize(
    ("fields", "conditional"),
    [
        ({}, False),
        ({"headers": {"Accept": "text/html"}}, False),
        ({"etag": TAG}, True),
        ({"last_modified": DATE}, True),
        ({"etag": TAG, "last_modified": DATE}, True),
        ({"headers": {"Accept": "text/html", "IF-None-Match": TAG}}, True),
        ({"headers": {"if-Modified-SINCE": DATE}}, True),
    ],
)
def test_which_jobs_want_another_page_only(
    fields: dict[str, Any],
    conditional: bool,  # noqa: FBT001 - a column
) -> None:
    """Those with a validator, as a field of theirs or as a header in any spelling."""
    assert Target.of(job(**fields)).conditional is conditional


@pytest.mark.parametrize(
    ("fields", "method", "body", "headers"),
    [
        ({}, "GET", None, {}),
        ({"method": "PUT", "body": "é"}, "PUT", "é".encode(), {"Content-Type": TEXT}),
        ({"body": ""}, "POST", b"", {"Content-Type": TEXT}),
        ({"form": {"a": "b c"}}, "POST", b"a=b+c", {"Content-Type": FORM}),
        ({"etag": TAG}, "GET", None, {"If-None-Match": TAG}),
        ({"last_modified": DATE}, "GET", None, {"If-Modified-Since": DATE}),
        (
            {"body": "x", "headers": {"content-TYPE": "a/b", "Accept": "c/d"}},
            "POST",
            b"x",
            {"content-TYPE": "a/b", "Accept": "c/d"},
        ),
    ],
)
def test_the_first_request_is_what_the_job_says(
    fields: dict[str, Any], method: str, body: bytes | None, headers: dict[str, str]
) -> None:
    """Its method, body and headers; a Content-Type is added to a body that the job gave none."""
    request, cookies = first(**fields)
    assert request == Request(method, URL(SITE), headers, body, 0.0, 1000)
    assert cookies.header(URL(SITE)) == ""


def test_json_is_sent_as_it_was_written() -> None:
    """Its bytes are not written anew."""
    raw = b'{"url": "http://x.example/a", "json": {"a":  1.0}}'
    found = decode_job(raw)
    assert isinstance(found, Job)
    request, _ = asyncio.run(first_request(Target.of(found), 1000, SYSTEM))
    assert (request.body, request.headers) == (b'{"a":  1.0}', {"Content-Type": "application/json"})


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"cookies": {"a": "1", "b": "2"}}, "a=1; b=2"),
        ({"headers": {"COOKIE": "c=3;d=4"}}, "c=3; d=4"),
        ({"headers": {"cookie": "c=3", "Accept": "c/d"}}, "c=3"),
    ],
)
def test_cookies_travel_apart(fields: dict[str, Any], line: str) -> None:
    """The job's own, or those of its Cookie header, go to the first origin; they are no header."""
    request, cookies = first(**fields)
    assert {name.lower() for name in request.headers} <= {"accept"}
    assert cookies.header(URL(SITE)) == line
    assert cookies.header(URL("http://y.example/a")) == ""


def test_where_a_redirect_leads() -> None:
    """To a page relative to the last; else it is a failure that shows no password."""
    assert redirect_target(URL(SITE), "b?c#d") == URL("http://x.example/b?c")
    failure = redirect_target(URL(SITE), "ftp://me:secret@y.example/\x1b")
    assert isinstance(failure, Failure)
    assert failure == Failure("protocol", failure.message)
    assert failure.message.startswith("redirected to ftp://y.example/\N{REPLACEMENT CHARACTER}: ")
    assert ": must start with http:// or https://; userinfo" in failure.message


@pytest.mark.parametrize(
    ("status", "method", "becomes"),
    [
        (301, "POST", "GET"),
        (302, "POST", "GET"),
        (303, "POST", "GET"),
        (303, "PUT", "GET"),
        (303, "DELETE", "GET"),
        (301, "PUT", "PUT"),
        (302, "PUT", "PUT"),
        (307, "POST", "POST"),
        (308, "POST", "POST"),
        (303, "GET", "GET"),
        (303, "HEAD", "HEAD"),
        (301, "GET", "GET"),
    ],
)
def test_a_redirect_changes_the_method_by_rfc_9110(status: int, method: str, becomes: str) -> None:
    """Where the method becomes GET, the body and what is said of it are dropped; else all stays."""
    headers = {"CONTENT-Type": "a/b", "Content-Language": "en", "Accept": "c/d"}
    request = sent(headers, method, b"x")
    target = URL("http://x.example/b")
    redirect(request, status, target)
    dropped = (method, becomes) in (("POST", "GET"), ("PUT", "GET"), ("DELETE", "GET"))
    kept = {"Accept": "c/d"} if dropped else headers
    assert (request.method, request.body) == (becomes, None if dropped else b"x")
    assert (request.headers, request.url) == (kept, target)


@pytest.mark.parametrize(
    ("target", "same"),
    [
        ("http://x.example:80/b", True),
        ("https://x.example/b", False),
        ("http://x.example:81/b", False),
        ("http://www.x.example/b", False),
    ],
)
def test_secrets_stay_in_their_origin(target: str, same: bool) -> None:  # noqa: FBT001 - a column
    """In every spelling; scheme, host and port are the origin, and other headers travel on."""
    secrets = {"AUTHORIZATION": "1", "Cookie": "2", "cookie2": "3", "WWW_Authenticate": "4"}
    harmless = {"Accept": "c/d", "Authorization-Not": "5"}
    request = sent(secrets | harmless)
    redirect(request, 307, URL(target))
    assert request.headers == (secrets | harmless if same else harmless)
    assert str(request.url) == str(URL(target))


def test_a_jobs_limit_only_tightens() -> None:
    """The smaller of the two holds; a job without one has the configured limit, also if it is 0."""
    assert [tightest(5, 3), tightest(3, 5), tightest(5, UNSET), tightest(0, 3)] == [3, 3, 5, 0]
