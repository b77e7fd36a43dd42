"""What the dashboard's paths answer, and to whom: by plain requests.

May touch: the gateway as a subprocess, a private broker.
Must never: need a browser.
"""

from __future__ import annotations

import json
import resource
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scraperd.broker.rabbitmq.inquiry.copies import AT_ONCE
from tests.dashboard.conftest import ADMIN, PREFIX, READ, SUBMIT, gateway_of
from tests.rig.daemon import until
from tests.rig.ports import HOST
from tests.server.running import Gateway, following

if TYPE_CHECKING:
    from tests.dashboard.conftest import House
    from tests.rig.brokers.node import Node
    from tests.rig.daemon import Dispatcher

NOWHERE = f"amqp://{HOST}:1/"


def test_each_path_needs_its_role(house: House) -> None:
    """Files are for anybody, data for `read`, and dead letters are changed by `admin` only."""
    gateway = house.gateway
    assert gateway.ask("GET", "/").status == 200
    for path in (
        *("/v1/events", "/v1/me", "/v1/config", "/v1/config/daemons"),
        *("/v1/dead", "/v1/callbacks/dead"),
    ):
        assert gateway.ask("GET", path).status == 401
    for path in (
        *("/v1/dead/requeue", "/v1/dead/purge"),
        *("/v1/callbacks/dead/replay", "/v1/callbacks/dead/purge"),
    ):
        assert gateway.ask("POST", path, {"all": True}).status == 401
        for token in (READ, SUBMIT):
            got = gateway.ask("POST", path, {"all": True}, token=token)
            assert (got.status, "this needs admin" in got.json["detail"]) == (403, True)
    assert gateway.ask("GET", "/v1/me", token=ADMIN).json["role"] == "admin"
    settings = gateway.ask("GET", "/v1/config", token=READ).json["settings"]
    url = next(it["value"] for it in settings if it["name"] == "broker_url")
    assert "@" not in url


def test_without_tokens_nobody_changes_dead_letters() -> None:
    """The page is for the users of this machine, and its actions need an admin's token."""
    with Gateway(NOWHERE, "t") as gateway:
        gateway.listening()
        assert gateway.ask("GET", "/v1/me").json["role"] == "submit"
        got = gateway.ask("POST", "/v1/dead/purge", {"all": True, "expected": 1})
        assert (got.status, "set http.tokens_file" in got.json["detail"]) == (403, True)
        got = gateway.ask("GET", "/v1/events", headers={"Host": "rebound.example"})
        assert got.status == 403
        assert gateway.ask("GET", "/v1/callbacks/dead").status == 404  # none are configured
        got = gateway.ask("GET", "/v1/config/daemons")
        assert (got.status, "no broker at" in got.json["detail"]) == (503, True)


def test_it_can_be_switched_off() -> None:
    """With http.dashboard = false there is no such path."""
    with Gateway(NOWHERE, "t", http__dashboard=False) as gateway:
        gateway.listening()
        assert {gateway.ask("GET", path).status for path in ("/", "/v1/events")} == {404}


def test_wrong_wishes_are_told(house: House) -> None:
    """400 says what is wrong, before the broker is asked."""
    wrong: list[tuple[dict[str, Any], str]] = [
        ({}, "all: give a filter, or all: true without filters"),
        ({"all": True, "kind": ["dns"]}, "all: give a filter"),
        ({"reason": ["odd"]}, "reason: odd is not one of"),
        ({"host": ["http://h/"]}, "host: write www.example.com"),
        ({"kind": ["dns"], "expected": 0}, "Expected `int` >= 1"),
        ({"older_than": -1}, "Expected `float` > 0"),
        ({"odd": 1}, "Object contains unknown field `odd`"),
    ]
    gateway = house.gateway
    for body, words in wrong:
        got = gateway.ask("POST", "/v1/dead/purge", body, token=ADMIN)
        assert got.status == 400
        assert got.json["detail"].startswith(words)
    got = gateway.ask("GET", "/v1/callbacks/dead?kind=dns", token=READ)
    assert (got.status, got.json["field"]) == (400, "kind")
    plain = {"Content-Type": "text/plain"}  # as a form of another site sends
    assert gateway.ask("POST", "/v1/dead/purge", b"{}", plain, ADMIN).status == 415


def test_viewers_share_looks_and_come_back(node: Node, house: House, tmp_path: Path) -> None:
    """Each look goes to all; who comes back with an id gets what is new; one too many gets 503; and
    a stop of the gateway ends each stream.
    """
    with gateway_of(node.url, PREFIX, tmp_path, http__max_viewers=2) as gateway:
        with following(gateway, READ) as one, following(gateway, READ) as two:
            first = one.next()
            while not (first["fleet"] and first["fleet"]["answer"]):
                first = one.next()
            at = first["points"][-1][0]
            seen = two.next()
            while not any(point[0] == at for point in seen["points"]):
                seen = two.next()
            assert gateway.ask("GET", "/v1/events", token=READ).status == 503
            last = one.id
        with following(gateway, READ, last) as again:
            assert all(point[0] > at for point in again.next()["points"])
            assert gateway.drain() == 0
            again.end()
    lines = [it for it in gateway.logged("request") if it["path"] == "/v1/events"]
    assert [it["http_status"] for it in lines].count(200) == 3


def own_queues(node: Node) -> list[str]:
    """The kinds of queues that the gateway has for its viewers."""
    ends = [it.rpartition(".")[2] for it in node.counts() if it.startswith(f"{PREFIX}.reply.")]
    return sorted(end.partition("-")[0] for end in ends if "-" in end)


def test_it_looks_only_while_there_is_a_viewer(node: Node, house: House, desk: Dispatcher) -> None:
    """Two queues for results and one for answers are there with a viewer, and gone without; of a
    flood of results a few are seen in each look, and what comes later is seen too.
    """
    seen = list[dict[str, Any]]()
    until(lambda: own_queues(node) == [])
    with following(house.gateway, READ) as events:
        while not events.next()["fleet"]:
            pass
        assert own_queues(node) == ["copies", "copies", "status"]
        for number in range(300):
            publish(desk, "ok.200", {"id": f"n{number}", "status": "ok", "attempt": 1})
        last = {"id": "last", "status": "ok", "attempt": 1}
        while not seen or seen[-1]["id"] != "last":  # a copy is made of what comes after a look
            publish(desk, "ok.200", last)
            found = events.next()["results"]
            assert len(found) <= AT_ONCE
            seen += found
        assert len(seen) < 100
    until(lambda: own_queues(node) == [])


def test_viewers_that_never_read_are_ended_and_harm_nobody(
    node: Node, house: House, desk: Dispatcher, tmp_path: Path
) -> None:
    """Beside two of them another viewer hears each look, and jobs are taken; then both are cut off,
    and the gateway has kept little more than one event for each.
    """
    attempts = [{"kind": "x" * 500, "at": "y" * 500, "worker": "z" * 500}] * 20
    large = {"id": "large", "status": "failed", "attempt": 1, "attempts": attempts}
    ask = f"GET /v1/events HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {READ}\r\n\r\n"
    settings = {"http__request_timeout": 3, "http__max_viewers": 3}
    with (
        gateway_of(node.url, PREFIX, tmp_path, **settings) as gateway,
        socket.socket() as one,
        socket.socket() as two,
    ):
        job = {"url": f"http://{HOST}:1/", "max_retries": 0}
        for it in (one, two):
            it.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            it.connect((HOST, gateway.port))
            it.sendall(ask.encode())
        with following(gateway, READ) as events:
            events.next()
            before = memory(gateway.pid)
            while len(seen_off(gateway)) < 2:
                for _ in range(AT_ONCE):
                    publish(desk, "failed.dns", large)
                assert events.next()["points"]
                assert gateway.ask("POST", "/v1/jobs", job, token=SUBMIT).status == 202
            assert memory(gateway.pid) - before < 30
        for it in (one, two):
            with suppress(ConnectionResetError):
                while it.recv(65536):
                    pass


def memory(pid: int) -> float:
    """The resident memory of a process, in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1024**2


def seen_off(gateway: Gateway) -> list[dict[str, Any]]:
    """The log's lines of streams that have ended."""
    return [it for it in gateway.logged("request") if it["path"] == "/v1/events"]


def publish(desk: Dispatcher, key: str, result: dict[str, Any]) -> None:
    """Publish a result as whoever may write to the results exchange can."""
    desk.channel.basic_publish(f"{PREFIX}.results", key, json.dumps(result).encode())
