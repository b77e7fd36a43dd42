"""What the dashboard's paths answer, and to whom: by plain requests.

May touch: the gateway as a subprocess, a private broker.
Must never: need a browser.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from scraperd.broker.rabbitmq.inquiry.copies import AT_ONCE
from tests.dashboard.conftest import ADMIN, PREFIX, READ, SUBMIT, gateway_of
from tests.rig.daemon import until
from tests.rig.ports import HOST
from tests.server.running import Gateway, following

if TYPE_CHECKING:
    from pathlib import Path

    from tests.dashboard.conftest import House
    from tests.rig.brokers.node import Node
    from tests.rig.daemon import Dispatcher

NOWHERE = f"amqp://{HOST}:1/"


def test_each_path_needs_its_role(house: House) -> None:
    """Files are for anybody, data for `read`, and dead letters are changed by `admin` only."""
    gateway = house.gateway
    assert gateway.ask("GET", "/").status == 200
    for path in ("/v1/events", "/v1/me", "/v1/config", "/v1/dead"):
        assert gateway.ask("GET", path).status == 401
    for path in ("/v1/dead/requeue", "/v1/dead/purge"):
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
            body = json.dumps({"id": f"n{number}", "status": "ok", "attempt": 1}).encode()
            desk.channel.basic_publish(f"{PREFIX}.results", "ok.200", body)
        last = json.dumps({"id": "last", "status": "ok", "attempt": 1}).encode()
        while not seen or seen[-1]["id"] != "last":  # a copy is made of what comes after a look
            desk.channel.basic_publish(f"{PREFIX}.results", "ok.200", last)
            found = events.next()["results"]
            assert len(found) <= AT_ONCE
            seen += found
        assert len(seen) < 100
    until(lambda: own_queues(node) == [])
