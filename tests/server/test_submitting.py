"""Jobs over HTTP: what is answered, and what is then in the queue.

May touch: the gateway as a subprocess, a private broker.
Must never: take a job for published that the queue does not have.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.rig.daemon import until
from tests.server.conftest import OTHER, READ, SLOW, SUBMIT
from tests.server.running import JSON, LINES, answer_on, taken

if TYPE_CHECKING:
    from tests.rig.daemon import Dispatcher
    from tests.server.running import Gateway

URL = "https://example.com/"
MANY = 1500  # more than are published at a time
FIRST = b"POST /v1/jobs HTTP/1.1\r\nHost: h\r\n"


def test_one_job_is_published_as_it_was_sent(gateway: Gateway, desk: Dispatcher) -> None:
    """202 and the id; the queue has the job, persistent, with the id as correlation id."""
    job = {"url": URL, "id": "a-1", "meta": {"n": 1}, "extract": {"title": "h1"}}
    got = gateway.ask("POST", "/v1/jobs", job, token=SUBMIT)
    assert (got.status, got.json) == (202, {"id": "a-1"})
    ((properties, found),) = taken(desk, 1)
    assert found == job
    assert (properties.delivery_mode, properties.correlation_id) == (2, "a-1")
    assert (properties.content_type, properties.reply_to) == ("application/json", None)


def test_a_job_without_an_id_gets_one(gateway: Gateway, desk: Dispatcher) -> None:
    """The answer's id is that of the job in the queue."""
    got = gateway.ask("POST", "/v1/jobs", {"url": URL}, token=SUBMIT)
    ((_, found),) = taken(desk, 1)
    assert got.json == {"id": found["id"]}


def test_good_lines_are_taken_and_bad_ones_are_named(gateway: Gateway, desk: Dispatcher) -> None:
    """202 lists each line: its id, or the field and the reason; empty lines are passed over."""
    lines = [
        b'{"url": "https://example.com/1", "id": "one"}\r',
        b'{"url": "ftp://example.com/"}',
        b"",
        b'{"url": "https://example.com/4", "extract": {"t": "h1["}}',
        b'{"url": "https://example.com/5", "id": "five"}',
        b'{"url": "' + b"a" * 600_000 + b'"}',
        b"{",
        b'{"url": "https://example.com/8", "proxy": "none"}',
        b'{"url": "https://example.com/9", "id": "nine"}',
    ]
    got = gateway.ask("POST", "/v1/jobs", b"\n".join(lines), LINES, SUBMIT)
    assert got.status == 202
    assert got.json["accepted"] == [
        {"line": 1, "id": "one"},
        {"line": 5, "id": "five"},
        {"line": 9, "id": "nine"},
    ]
    rejected = [(it["line"], it.get("field")) for it in got.json["rejected"]]
    assert rejected == [(2, "url"), (4, "extract.t.selector"), (6, None), (7, None), (8, "proxy")]
    assert "more than 524288 bytes (jobs.max_size)" in got.json["rejected"][2]["reason"]
    assert [job["id"] for _, job in taken(desk, 3)] == ["one", "five", "nine"]


def test_lines_without_a_good_one_are_400(gateway: Gateway, desk: Dispatcher) -> None:
    """The problem has the same lists."""
    got = gateway.ask("POST", "/v1/jobs", b'{"url": 1}\n', LINES, SUBMIT)
    assert (got.status, got.json["accepted"], len(got.json["rejected"])) == (400, [], 1)
    assert desk.depth("jobs") == 0


def test_many_lines_are_streamed(gateway: Gateway, desk: Dispatcher) -> None:
    """A chunked body of more lines than are published at a time: all are confirmed, in order."""
    lines = (json.dumps({"url": f"{URL}{n}", "id": f"n{n}"}).encode() + b"\n" for n in range(MANY))
    got = gateway.ask("POST", "/v1/jobs", lines, LINES, SUBMIT)
    expected = [{"line": n + 1, "id": f"n{n}"} for n in range(MANY)]
    assert (got.status, got.json) == (202, {"accepted": expected, "rejected": []})
    assert [job["id"] for _, job in taken(desk, MANY)] == [f"n{n}" for n in range(MANY)]


def test_too_many_lines_are_413_and_say_what_was_taken(gateway: Gateway, desk: Dispatcher) -> None:
    """The lines before http.max_jobs are published, and the problem lists them."""
    got = gateway.ask("POST", "/v1/jobs", b'{"url": "https://e.org/"}\n' * 2001, LINES, SUBMIT)
    assert (got.status, len(got.json["accepted"])) == (413, 2000)
    assert "2000 lines (http.max_jobs)" in got.json["detail"]
    assert len(taken(desk, 2000)) == 2000


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "words"),
    [
        ("POST", "/v1/jobs", b"{}", JSON, 400, "url: is required"),
        ("POST", "/v1/jobs", b"[]", JSON, 400, "a job is a JSON object, not array"),
        ("POST", "/v1/jobs", b"", JSON, 400, "not JSON"),
        ("POST", "/v1/jobs?wait=61", b"{}", JSON, 400, "at most 60 (http.max_wait)"),
        ("POST", "/v1/jobs?wait=nan", b"{}", JSON, 400, "one number of seconds"),
        ("POST", "/v1/jobs?wait=1&wait=2", b"{}", JSON, 400, "one number of seconds"),
        ("POST", "/v1/jobs?weit=1", b"{}", JSON, 400, "unknown query parameter 'weit'"),
        ("POST", "/v1/jobs?wait=1", b"{}", LINES, 400, "wait goes with one job"),
        ("POST", "/v1/jobs", b"{}", {}, 415, "application/x-ndjson"),
        ("POST", "/v1/jobs", b"{}", {"Content-Type": "text/plain"}, 415, "application/json"),
        (
            *("POST", "/v1/jobs", b"{}", {"Content-Type": "application/json; charset=latin-1"}),
            *(415, "in UTF-8"),
        ),
        ("POST", "/v1/jobs", b"{}", {**JSON, "Content-Encoding": "gzip"}, 415, "compressed"),
        ("POST", "/v1/jobs", b"x" * 600_000, JSON, 413, "524288 bytes (jobs.max_size)"),
        (
            *("POST", "/v1/jobs", b"{}", {**LINES, "Content-Length": "99999999"}),
            *(413, "16777216 bytes (http.max_body)"),
        ),
        ("POST", "/v1/jobs", b"{}", {**JSON, "Idempotency-Key": '""'}, 400, "Idempotency-Key is"),
        ("GET", "/v1/jobs", None, {}, 405, "this path is for POST"),
        ("PUT", "/health/live", None, {}, 405, "this path is for GET and HEAD"),
        ("GET", "/v1/results/", None, {}, 404, "nothing is at this path"),
        ("GET", "/v1/results/abc", None, {}, 404, "no result is kept here"),
        ("GET", "/%2e%2e/etc/passwd", None, {}, 404, "nothing is at this path"),
    ],
)
def test_what_is_wrong_is_a_problem_in_words(  # noqa: PLR0917 - a case
    gateway: Gateway,
    desk: Dispatcher,
    method: str,
    path: str,
    body: bytes | None,
    headers: dict[str, str],
    status: int,
    words: str,
) -> None:
    """The status, RFC 9457's media type and members, and words that name the limit."""
    got = gateway.ask(method, path, body, headers, SUBMIT)
    assert got.status == status, got.body
    assert words in got.json["detail"]
    assert {"type", "title", "status", "detail"} <= {*got.json}
    if status == 405:
        assert got.headers["Allow"] == ("POST" if path == "/v1/jobs" else "GET, HEAD")
    assert desk.depth("jobs") == 0


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"a" * 9000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: h\r\n" + b"X: 1\r\n" * 70 + b"\r\n", 431),
        (FIRST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    ],
)
def test_what_is_not_http_is_a_problem_too(gateway: Gateway, raw: bytes, status: int) -> None:
    """Bytes that no request can be made of get an answer, and the connection ends."""
    with gateway.connect() as connection:
        connection.sendall(raw)
        got = answer_on(connection)
        assert (got.status, got.json["status"]) == (status, status)
        assert connection.recv(1) == b""


def test_a_body_that_breaks_off_publishes_no_half_job(gateway: Gateway, desk: Dispatcher) -> None:
    """The lines that were whole are published; the log says so, and how many they were."""
    start = len(gateway.lines)
    with gateway.connect() as connection:
        head = FIRST + b"Content-Type: application/jsonl\r\nContent-Length: 999\r\n"
        connection.sendall(head + f"Authorization: Bearer {SUBMIT}\r\n\r\n".encode())
        connection.sendall(b'{"url": "https://example.com/", "id": "whole"}\n{"url": "https://e')
        assert [job["id"] for _, job in taken(desk, 1)] == ["whole"]
    gateway.wait_for_line('"http_status":499', start=start)
    assert gateway.logged("request")[-1]["jobs"] == 1
    assert desk.depth("jobs") == 0


def test_a_large_body_is_refused_before_it_is_sent(gateway: Gateway) -> None:
    """With Expect: 100-continue the answer is 413, not 100, so nothing is uploaded in vain."""
    with gateway.connect() as connection:
        head = FIRST + b"Content-Type: application/json\r\nContent-Length: 99999999\r\n"
        head += f"Authorization: Bearer {SUBMIT}\r\n".encode()
        connection.sendall(head + b"Expect: 100-continue\r\n\r\n")
        assert answer_on(connection).status == 413


def test_a_body_that_is_expected_is_asked_for(gateway: Gateway, desk: Dispatcher) -> None:
    """With Expect: 100-continue and all else right, 100 comes before the body, then 202."""
    body = b'{"url": "https://example.com/"}'
    with gateway.connect() as connection:
        head = FIRST + b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
        head += f"Authorization: Bearer {SUBMIT}\r\n".encode()
        connection.sendall(head + b"Expect: 100-continue\r\n\r\n")
        interim = b"HTTP/1.1 100 Continue\r\n\r\n"
        assert connection.recv(len(interim), 0x100) == interim  # MSG_WAITALL
        connection.sendall(body)
        assert answer_on(connection).status == 202
    assert len(taken(desk, 1)) == 1


@pytest.mark.parametrize(
    ("header", "status", "error"),
    [
        ("", 401, ""),
        ("Bearer wrong-wrong-wrong", 401, "invalid_token"),
        (f"Basic {SUBMIT}", 401, "invalid_token"),
        (f"Bearer {READ}", 403, "insufficient_scope"),
        (f"bearer {SUBMIT}", 400, ""),
    ],
)
def test_who_asks_is_looked_at_before_what(
    gateway: Gateway, header: str, status: int, error: str
) -> None:
    """Only a token that may submit comes to the body; the challenge says what is wrong."""
    headers = {**JSON, **({"Authorization": header} if header else {})}
    got = gateway.ask("POST", "/v1/jobs", b"not a job", headers)
    assert got.status == status
    challenge = got.headers.get("WWW-Authenticate", "")
    assert challenge.startswith("Bearer") == (status != 400)
    assert error in challenge


def test_a_token_has_its_rate(gateway: Gateway) -> None:
    """The second request of one in 100 s is 429, and says when to come again."""
    assert gateway.ask("GET", "/v1/results/x", token=SLOW).status == 404
    got = gateway.ask("GET", "/v1/results/x", token=SLOW)
    assert (got.status, "0.01 requests a second" in got.json["detail"]) == (429, True)
    assert 1 <= int(got.headers["Retry-After"]) <= 100


def test_probes_and_the_document_need_no_token(gateway: Gateway) -> None:
    """Health and OpenAPI are for anybody; HEAD has the length and no body."""
    assert gateway.ask("GET", "/health/live").body == b"ok\n"
    assert gateway.ask("GET", "/health/ready").body == b"ready\n"
    head = gateway.ask("HEAD", "/v1/openapi.json")
    assert (head.status, head.body) == (200, b"")
    whole = gateway.ask("GET", "/v1/openapi.json")
    assert len(whole.body) == int(head.headers["Content-Length"])
    assert whole.json["openapi"] == "3.1.0"


def test_a_key_makes_a_request_happen_once(gateway: Gateway, desk: Dispatcher) -> None:
    """The same key and body: the same answer, one job. Another body: 422. Another holder: new."""
    key = {"Idempotency-Key": '"k-1"'}
    first = gateway.ask("POST", "/v1/jobs", {"url": URL}, key, SUBMIT)
    again = gateway.ask("POST", "/v1/jobs", {"url": URL}, key, SUBMIT)
    assert (first.status, again.status, again.body) == (202, 202, first.body)
    bare = gateway.ask("POST", "/v1/jobs", {"url": URL}, {"Idempotency-Key": "k-1"}, SUBMIT)
    assert bare.body == first.body
    other = gateway.ask("POST", "/v1/jobs", {"url": URL, "id": "x"}, key, SUBMIT)
    assert (other.status, "another request" in other.json["detail"]) == (422, True)
    stranger = gateway.ask("POST", "/v1/jobs", {"url": URL}, key, OTHER)
    assert (stranger.status, stranger.body != first.body) == (202, True)
    assert len(taken(desk, 2)) == 2


def test_a_key_that_is_in_use_is_409(gateway: Gateway, desk: Dispatcher) -> None:
    """While the first request is still being sent, a second one with its key has to wait."""
    body = b'{"url": "https://example.com/"}\n'
    with gateway.connect() as connection:
        head = FIRST + b'Content-Type: application/jsonl\r\nIdempotency-Key: "k-2"\r\n'
        head += f"Authorization: Bearer {SUBMIT}\r\n".encode()
        connection.sendall(head + b"Content-Length: %d\r\n\r\n%s" % (2 * len(body), body))
        taken(desk, 1)  # so its head has been read
        got = gateway.ask("POST", "/v1/jobs", body, {**LINES, "Idempotency-Key": "k-2"}, SUBMIT)
        assert (got.status, got.headers["Retry-After"]) == (409, "1")
        connection.sendall(body)
        assert answer_on(connection).status == 202
    taken(desk, 1)


def test_a_refused_request_does_not_use_its_key(gateway: Gateway, desk: Dispatcher) -> None:
    """After 400 the key can be sent with the mended body."""
    key = {"Idempotency-Key": '"k-3"'}
    assert gateway.ask("POST", "/v1/jobs", {"url": 1}, key, SUBMIT).status == 400
    assert gateway.ask("POST", "/v1/jobs", {"url": URL}, key, SUBMIT).status == 202
    taken(desk, 1)


def test_each_request_has_one_line_in_the_log(gateway: Gateway, desk: Dispatcher) -> None:
    """Method, path without query, status, holder and the number of jobs."""
    gateway.ask("POST", "/v1/jobs?secret=1", b"{}", JSON, SUBMIT)
    gateway.ask("POST", "/v1/jobs", {"url": URL}, token=OTHER)
    gateway.ask("GET", "/v1/results/some-handle", token=READ)
    taken(desk, 1)
    expected = [
        ("POST", "/v1/jobs", 400, "shop", 0),
        ("POST", "/v1/jobs", 202, "other", 1),
        ("GET", "/v1/results/HANDLE", 404, "eyes", 0),
    ]
    keys = ("method", "path", "http_status", "holder", "jobs")
    until(lambda: [tuple(it[k] for k in keys) for it in gateway.logged("request")[-3:]] == expected)


def test_metrics_are_those_of_the_page(gateway: Gateway, desk: Dispatcher) -> None:
    """Each family of the page is there with its type, and no other; counts rise with requests."""
    page = (Path(__file__).parents[2] / "docs/http.md").read_text()
    listed = dict(re.findall(r"^\| `(scraperd_gateway_\w+)` \| (\w+) \|", page, re.MULTILINE))
    before = values(gateway)
    gateway.ask("POST", "/v1/jobs", b'{"url": "https://e.org/"}\n' * 3, LINES, SUBMIT)
    gateway.ask("POST", "/v1/jobs", b"{}", JSON)
    taken(desk, 3)
    got = gateway.ask("GET", "/metrics", token=READ)
    families = list(text_string_to_metric_families(got.body.decode()))
    there = {it.name + ("_total" if it.type == "counter" else ""): it.type for it in families}
    assert there == listed
    after = values(gateway)
    assert after["scraperd_gateway_jobs_total"] == before["scraperd_gateway_jobs_total"] + 3
    assert after["scraperd_gateway_broker_up"] == 1
    refused = "scraperd_gateway_requests_total", "401"
    assert after[refused] == before.get(refused, 0) + 1
    assert gateway.ask("GET", "/metrics").status == 401


def values(gateway: Gateway) -> dict[Any, float]:
    """The samples, by name, and by status where they have one."""
    text = gateway.ask("GET", "/metrics", token=READ).body.decode()
    return {
        (it.name, it.labels["status"]) if "status" in it.labels else it.name: it.value
        for family in text_string_to_metric_families(text)
        for it in family.samples
    }
