"""Requests whose end two servers could see at different places, and other hostile shapes.

May touch: the gateway as a subprocess, bare connections, a private broker.
Must never: accept that a request within another one's body is answered.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from tests.server.conftest import OTHER, READ, SUBMIT
from tests.server.running import LINES, answer_on, taken

if TYPE_CHECKING:
    import socket

    from tests.rig.daemon import Dispatcher
    from tests.server.running import Gateway

INNER = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
POST = (
    b"POST /v1/jobs HTTP/1.1\r\nHost: h\r\nContent-Type: application/jsonl\r\n"
    b"Authorization: Bearer " + SUBMIT.encode() + b"\r\n"
)
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
SIZE = b"%x" % len(INNER)
FRAMINGS = {  # each is sent with INNER behind it, and is answered once
    "both lengths": POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both, other order": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 0\r\nContent-Length: 33\r\n\r\n",
    "a list of lengths": POST + b"Content-Length: 0, 33\r\n\r\n",
    "a signed length": POST + b"Content-Length: +0\r\n\r\n",
    "a negative length": POST + b"Content-Length: -1\r\n\r\n",
    "a hexadecimal length": POST + b"Content-Length: 0x0\r\n\r\n",
    "a length past 64 bits": POST + b"Content-Length: 18446744073709551616\r\n\r\n",
    "a space before the colon": POST + b"Content-Length : 0\r\n\r\n",
    "a folded header": POST + b"X: 1\r\n Content-Length: 33\r\n\r\n",
    "a bare line feed": POST + b"X: 1\nContent-Length: 33\r\n\r\n",
    "a bare carriage return": POST + b"X: 1\rContent-Length: 33\r\n\r\n",
    "a zero byte": POST + b"X: 1\0\r\n\r\n",
    "not chunked": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked, and more": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "chunked twice": POST + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n0\r\n\r\n",
    "chunked after a tab": POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "a prefixed size": CHUNKED + b"0x0\r\n\r\n",
    "a size with a space": CHUNKED + b"0 \r\n\r\n",
    "a negative size": CHUNKED + b"-1\r\n\r\n",
    "a size past 64 bits": CHUNKED + b"10000000000000000\r\n\r\n",
    "a size by a line feed": CHUNKED + b"0\n\n",
    "an extension by a line feed": CHUNKED + b"2;a\nxx\r\n0\r\n\r\n",
    "a chunk that is longer": CHUNKED + b"1\r\nxyz0\r\n\r\n",
    "no method": b" / HTTP/1.1\r\nHost: h\r\n\r\n",
    "another version": b"GET / HTTP/9.9\r\nHost: h\r\n\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n",
    "an invented method": b"BREW / HTTP/1.1\r\nHost: h\r\n\r\n",
    "a small method": b"get / HTTP/1.1\r\nHost: h\r\n\r\n",
    "a tunnel": b"CONNECT example.com:80 HTTP/1.1\r\nHost: h\r\n\r\n",
    "a tunnel with a body": b"CONNECT h:80 HTTP/1.1\r\nHost: h\r\nContent-Length: 33\r\n\r\n",
    "chunks of HTTP/1.0": CHUNKED.replace(b"1.1", b"1.0") + b"0\r\n\r\n",
}


def everything(connection: socket.socket) -> bytes:
    """All that comes until the connection ends."""
    found = b""
    with suppress(ConnectionResetError):
        while data := connection.recv(65536):
            found += data
    return found


def statuses(answers: bytes) -> list[bytes]:
    """The status of each answer."""
    return re.findall(rb"HTTP/[0-9]\.[0-9] ([1-5][0-9][0-9]) ", answers)


@pytest.mark.parametrize("name", FRAMINGS)
@pytest.mark.parametrize("apart", [False, True], ids=["at once", "apart"])
def test_what_is_framed_wrong_is_one_request(
    gateway: Gateway, desk: Dispatcher, name: str, *, apart: bool
) -> None:
    """It is answered once, with an error; the connection ends, and what follows is not read."""
    start = len(gateway.lines)
    with gateway.connect() as connection:
        raw = FRAMINGS[name]
        head, end, body = raw.partition(b"\r\n\r\n")
        if apart:
            connection.sendall(head + end)
            with suppress(ConnectionError):
                connection.sendall(body + INNER)
        else:
            connection.sendall(raw + INNER)
        answers = everything(connection)
    assert [it[:1] for it in statuses(answers)] == [b"4"], answers
    assert gateway.ask("GET", "/after").status == 404
    gateway.wait_for_line('"path":"/after"', start=start)
    assert not [line for line in gateway.lines[start:] if "/smuggled" in line]
    assert desk.depth("jobs") == 0


@pytest.mark.parametrize("version", [b"0.9", b"2.0"])
def test_no_other_version_of_http_is_spoken(gateway: Gateway, version: bytes) -> None:
    """505, and the connection ends."""
    with gateway.connect() as connection:
        connection.sendall(b"GET /health/live HTTP/" + version + b"\r\nHost: h\r\n\r\n" + INNER)
        told = everything(connection)
    assert statuses(told) in ([b"400"], [b"505"]), told


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c", b"TLS/1.0"])
def test_an_upgrade_is_not_taken_and_hides_no_request(gateway: Gateway, protocol: bytes) -> None:
    """The body of a request that asks for another protocol is a body, whoever reads it."""
    start = len(gateway.lines)
    upgrade = POST + b"Connection: Upgrade\r\nUpgrade: " + protocol + b"\r\n"
    for framed in (
        b"Content-Length: %d\r\n\r\n%s" % (len(INNER), INNER),
        b"Transfer-Encoding: chunked\r\n\r\n" + SIZE + b"\r\n" + INNER + b"\r\n0\r\n\r\n",
    ):
        with gateway.connect() as connection:
            connection.sendall(upgrade + framed)
            got = answer_on(connection)
            assert got.status == 400
            connection.sendall(b"GET /next HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            everything(connection)
    assert gateway.ask("GET", "/after").status == 404
    gateway.wait_for_line('"path":"/after"', start=start)
    assert not [line for line in gateway.lines[start:] if "/smuggled" in line]


def test_requests_in_a_row_are_answered_in_a_row(gateway: Gateway, desk: Dispatcher) -> None:
    """Pipelined: each has its own answer, holder and body, also if one before it is refused."""
    job = b'{"url": "https://example.com/", "id": "in-a-row"}'
    head = b"POST /v1/jobs HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
    row = b"".join(
        head
        + (b"Authorization: Bearer " + token.encode() + b"\r\n" if token else b"")
        + b"Content-Length: %d\r\n\r\n%s" % (len(job), job)
        for token in (SUBMIT, "", READ, OTHER)
    )
    last = b"HEAD /health/live HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    with gateway.connect() as connection:
        connection.sendall(row + last)
        told = everything(connection)
    assert statuses(told) == [b"202", b"401", b"403", b"202", b"200"]
    assert told.endswith(b"\r\n\r\n")
    assert [job["id"] for _, job in taken(desk, 2)] == ["in-a-row"] * 2


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/v1/%6Aobs", 404),
        ("GET", "/v1/jobs/%2e%2e/results/x", 404),
        ("GET", "/v1/results/..%2f..%2fhealth%2flive", 404),
        ("GET", "/v1/results/%00", 404),
        ("GET", "/v1/results/%ff%zz", 404),
        ("GET", "/v1/batches/%0d%0aX:1", 404),
        ("GET", "/v1/batches/" + "a" * 8000, 404),
        ("GET", "//health/live", 404),
        ("GET", "/health/live/", 404),
        ("GET", "/HEALTH/LIVE", 404),
        ("GET", "/health/live#x", 200),
        ("GET", "http://other.example/health/live", 200),
        ("HEAD", "/health/live", 200),
        ("OPTIONS", "/v1/jobs", 405),
        ("OPTIONS", "*", 404),
        ("TRACE", "/health/live", 405),
        ("DELETE", "/v1/results/x", 405),
        ("PATCH", "/v1/batches/x", 405),
        ("GET", "/v1/results/x?wait=1e99", 400),
        ("GET", "/v1/results/x?wait=1e-99", 404),
        ("GET", "/v1/results/x?wait=-1", 400),
        ("GET", "/v1/results/x?wait=" + "9" * 5000, 400),
        ("GET", "/v1/results/x?wait=%EF%BC%91", 400),
        ("GET", "/v1/results/x?wait=", 400),
        ("GET", "/v1/results/x?" + "&" * 8000, 404),
    ],
)
def test_targets_and_numbers_mean_what_they_say(
    gateway: Gateway, method: str, target: str, status: int
) -> None:
    """No other spelling of a path is that path, and no odd number is a mistake of the server."""
    head = f"{method} {target} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {READ}\r\n"
    with gateway.connect() as connection:
        connection.sendall(head.encode() + b"Connection: close\r\n\r\n")
        told = everything(connection)
    assert statuses(told) == [b"%d" % status], told


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"callback": "unknown"}, "callback"),
        ({"callback_url": "https://example.com/"}, "callback_url"),
        ({"callback_url": "file:///etc/passwd"}, "callback_url"),
        ({"callback": "a" * 100_000}, "callback"),
        ({"batch": {"id": "a" * 100_000, "size": 1}}, "batch.id"),
        ({"batch": {"id": "a\r\nb", "size": 1}}, "batch.id"),
        ({"batch": {"id": "a", "size": 10**400}}, "batch.size"),
        ({"batch": {"id": "a", "size": 1e9}}, "batch.size"),
        ({"batch": {"id": "a", "size": 1}}, "batch"),
        ({"reply_to": "amq.rabbitmq.trace"}, "reply_to"),
        ({"priority": 255}, "priority"),
    ],
)
def test_a_job_cannot_ask_for_what_is_not_offered(
    gateway: Gateway, desk: Dispatcher, more: dict[str, Any], field: str
) -> None:
    """A good line beside it is taken, the bad one is named with its field, in few bytes."""
    bad = json.dumps({"url": "https://example.com/", **more}).encode()
    good = b'{"url": "https://example.com/", "id": "good"}'
    got = gateway.ask("POST", "/v1/jobs", b"\n".join((bad, good, bad)), LINES, SUBMIT)
    assert (got.status, got.json["accepted"]) == (202, [{"line": 2, "id": "good"}])
    assert [it["line"] for it in got.json["rejected"]] == [1, 3]
    assert {it["field"] for it in got.json["rejected"]} == {field}
    assert len(got.body) < 2000
    taken(desk, 1)


@pytest.mark.parametrize("raw", [b"[" * 200_000, b'{"url": ' * 50_000, b'{"meta": ' + b"9" * 9000])
def test_json_that_is_deep_or_long_is_a_problem(gateway: Gateway, raw: bytes) -> None:
    """400, from a server that goes on."""
    got = gateway.ask("POST", "/v1/jobs", raw, {"Content-Type": "application/json"}, SUBMIT)
    assert got.status == 400
    assert gateway.ask("GET", "/health/live").status == 200


def test_a_key_does_not_mix_waits_of_tokens_or_results(gateway: Gateway, desk: Dispatcher) -> None:
    """The same key by another token is another request; without a result each gets its own URL.

    The same token and key gets the first one's URL again, and no second job.
    """
    job, key = {"url": "https://example.com/", "id": "waits"}, {"Idempotency-Key": '"mixed"'}
    asked = "POST", "/v1/jobs?wait=0.01", job, key
    first, again, other = (gateway.ask(*asked, it) for it in (SUBMIT, SUBMIT, OTHER))
    assert [it.status for it in (first, again, other)] == [202] * 3
    assert first.headers["Location"] == again.headers["Location"] != other.headers["Location"]
    without = gateway.ask("POST", "/v1/jobs", job, key, SUBMIT)
    assert without.status == 422
    taken(desk, 2)
