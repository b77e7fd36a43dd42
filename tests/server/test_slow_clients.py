"""Clients that are slow on purpose: they end, and others are served meanwhile.

May touch: the gateway as a subprocess, without a broker.
Must never: sleep; what takes time is waited for by its end.
"""

from __future__ import annotations

import json
import operator
import os
import socket
import subprocess
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import pytest

from scraperd.server.listener import SPARE
from tests.rig.daemon import until
from tests.rig.debs import debs, libraries
from tests.rig.ports import HOST, free_port
from tests.rig.process import end, spawn
from tests.server.running import JSON, LINES, Gateway, answer_on

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MOST = 20  # connections
TOKEN = "0123456789abcdef"
HEAD = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/jsonl\r\n"
BODY = HEAD + b"Content-Length: 1000\r\n\r\n"


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    """A gateway that waits for its broker, with short patience for its clients."""
    settings = {"http__request_timeout": 4, "http__max_connections": MOST}
    with Gateway(f"amqp://{HOST}:{free_port()}/", "t", **settings) as found:
        yield found.listening()


def is_served(gateway: Gateway, *request: Any, status: int = 200) -> bool:
    """Whether another client gets its answer, at a further try if its connection is reset."""
    for _ in range(5):
        with suppress(ConnectionError):
            return gateway.ask(*(request or ("GET", "/health/live"))).status == status
    return False


def test_heads_that_never_end_hold_up_nobody(gateway: Gateway) -> None:
    """Three times as many as connections are allowed: others are served, and all of these end."""
    with ExitStack() as stack:
        slow = [stack.enter_context(gateway.connect()) for _ in range(3 * MOST)]
        for connection in slow:
            try:
                connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
            except OSError:  # it had to make room already
                continue
            assert is_served(gateway)
        for connection in slow:
            with suppress(ConnectionResetError):
                assert connection.recv(1) == b""


def test_a_body_that_does_not_come_is_408(gateway: Gateway) -> None:
    """The time for the body is counted as a whole, so bytes that drip do not lengthen it."""
    with gateway.connect() as connection:
        connection.sendall(BODY)
        connection.settimeout(0.2)
        for _ in range(500):  # 100 s
            connection.sendall(b"\n")
            try:
                connection.recv(1, socket.MSG_PEEK)
                break
            except TimeoutError:
                continue
        connection.settimeout(60)
        got = answer_on(connection)
    assert (got.status, "http.request_timeout" in got.json["detail"]) == (408, True)
    assert got.headers["Connection"] == "close"


def test_bodies_that_do_not_come_are_bounded_in_number(gateway: Gateway) -> None:
    """With as many as are allowed, one more gets 503 at once; when they are over, others go on.

    A probe gets its answer all the same, also if others are connected that send nothing.
    """
    with ExitStack() as stack:
        slow = [stack.enter_context(gateway.connect()) for _ in range(MOST)]
        for connection in slow:
            connection.sendall(HEAD + b"Expect: 100-continue\r\nContent-Length: 1000\r\n\r\n")
            assert connection.recv(12, socket.MSG_WAITALL) == b"HTTP/1.1 100"  # it is being read
        got = gateway.ask("POST", "/v1/jobs", {})
        assert (got.status, got.headers["Retry-After"]) == (503, "1")
        assert got.headers["Connection"] == "close"
        assert "http.max_connections" in got.json["detail"]
        for _ in range(2 * SPARE):
            silent = stack.enter_context(gateway.connect())
            silent.sendall(b"GET / HTTP/1.1\r\nHost: ")
            assert is_served(gateway)
            assert is_served(gateway, "GET", "/health/ready", status=503)  # without a broker
            assert is_served(gateway, "GET", "/metrics", status=200)
        assert gateway.ask("GET", "/v1/openapi.json").status == 503
    while gateway.ask("GET", "/v1/openapi.json").status == 503:  # until it saw that they closed
        pass
    assert is_served(gateway)


def test_an_answer_that_is_not_read_is_cut_off(gateway: Gateway) -> None:
    """A client that sends bad lines and reads nothing of the long answer loses its connection."""
    lines = b"x\n" * 9000
    start = len(gateway.lines)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.settimeout(60)
        connection.connect((HOST, gateway.port))
        for _ in range(20):  # pipelined: more than the kernel takes for a reader that rests
            try:
                connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(lines) + lines)
            except OSError:  # it was cut off already
                break
            assert is_served(gateway)
        gateway.wait_for_line('"http_status":499', start=start)
    assert is_served(gateway)


def test_pages_in_a_browser_cannot_reach_it(gateway: Gateway) -> None:
    """Without tokens another Host is refused, and no answer invites another origin."""
    got = gateway.ask("GET", "/v1/openapi.json", headers={"Host": "evil.example"})
    assert (got.status, "loopback address" in got.json["detail"]) == (403, True)
    for target in ("http://evil.example/v1/openapi.json", "//evil.example/v1/openapi.json"):
        assert gateway.ask("GET", target, headers={"Host": "localhost"}).status in {403, 404}
    for host in ("localhost", "127.0.0.1:8080", "[::1]"):
        own = gateway.ask("GET", f"http://{host}/health/live", headers={"Host": "localhost"})
        assert own.status == 200
    asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    got = gateway.ask("OPTIONS", "/v1/jobs", headers=asked)
    assert got.status == 405
    assert not [name for name in got.headers if name.lower().startswith("access-control-")]


def test_without_a_broker_jobs_are_503_and_not_told_as_arrived(gateway: Gateway) -> None:
    """503 with Retry-After; bad lines are named all the same; readiness says no, health yes."""
    body = b'{"url": "https://example.com/"}\n{}\n'
    got = gateway.ask("POST", "/v1/jobs", body, LINES)
    assert (got.status, got.headers["Retry-After"]) == (503, "5")
    assert (got.json["accepted"], "unconfirmed" in got.json) == ([], False)
    assert gateway.ask("POST", "/v1/jobs?wait=1", json.loads(body.split(b"\n")[0])).status == 503
    assert gateway.ask("GET", "/health/ready").status == 503
    assert is_served(gateway)


ATTACKS = {  # of slowhttptest: heads, bodies and reading that take for ever
    "head": ["-H", "-i", "1", "-u", "{url}/health/live"],
    "body": ["-B", "-i", "1", "-s", "8192", "-f", "application/jsonl", "-u", "{url}/v1/jobs"],
    "read": ["-X", "-w", "1", "-y", "2", "-n", "1", "-z", "1", "-u", "{url}/v1/openapi.json"],
}


def test_slowhttptest_does_not_hold_up_others(tmp_path: Path) -> None:
    """Its three attacks at once, with more connections than are allowed: others are all served.

    The attacker has no token; the other client asks for health and submits, which needs one.
    """
    (tmp_path / "tokens").write_text(f"shop submit {TOKEN}\n")
    settings = {
        "http__request_timeout": 10,
        "http__max_connections": 150,
        "http__tokens_file": str(tmp_path / "tokens"),
    }
    root = debs("slowhttptest")
    env = {**os.environ, "LD_LIBRARY_PATH": libraries(root)}
    many = ["-c", "300", "-r", "40", "-l", "5", "-p", "3"]
    known = {**JSON, "Authorization": f"Bearer {TOKEN}"}
    with Gateway(f"amqp://{HOST}:{free_port()}/", "t", **settings) as gateway, ExitStack() as stack:
        gateway.listening()
        url = f"http://{HOST}:{gateway.port}"
        attacks = [
            spawn(
                [root / "usr/bin/slowhttptest", *many, *(it.format(url=url) for it in own)], env=env
            )
            for own in ATTACKS.values()
        ]
        for attack in attacks:
            stack.callback(end, attack, 5)
        served = 0
        while any(attack.poll() is None for attack in attacks):
            assert is_served(gateway)
            assert is_served(gateway, "POST", "/v1/jobs", b"{}", known, status=400)
            served += 1
            with suppress(subprocess.TimeoutExpired):
                attacks[0].wait(0.1)
        assert served > 3
        attacked = {("/v1/jobs", 401), ("/v1/openapi.json", 200)}
        seen = operator.itemgetter("path", "http_status")
        until(lambda: attacked <= {*map(seen, gateway.logged("request"))})
