"""What the dashboard's paths answer, and to whom: by plain requests.

May touch: the gateway as a subprocess, a private broker.
Must never: need a browser.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.dashboard.conftest import ADMIN, READ, SUBMIT
from tests.rig.daemon import Daemon
from tests.server.running import Gateway, following

if TYPE_CHECKING:
    from tests.dashboard.conftest import Started
    from tests.rig.daemon import Dispatcher


def test_each_path_needs_its_role(started: Started, dispatcher: Dispatcher) -> None:
    """Files are for anybody, data for `read`, and dead letters are changed by `admin` only."""
    with started() as gateway:
        gateway.listening()
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


def test_without_tokens_nobody_changes_dead_letters(broker_url: str, prefix: str) -> None:
    """The page is for the users of this machine, and its actions need an admin's token."""
    with Gateway(broker_url, prefix) as gateway:
        gateway.listening()
        assert gateway.ask("GET", "/v1/me").json["role"] == "submit"
        got = gateway.ask("POST", "/v1/dead/purge", {"all": True, "expected": 1})
        assert (got.status, "set http.tokens_file" in got.json["detail"]) == (403, True)
        got = gateway.ask("GET", "/v1/events", headers={"Host": "rebound.example"})
        assert got.status == 403


def test_it_can_be_switched_off(broker_url: str, prefix: str) -> None:
    """With http.dashboard = false there is no such path."""
    with Gateway(broker_url, prefix, http__dashboard=False) as gateway:
        gateway.listening()
        assert {gateway.ask("GET", path).status for path in ("/", "/v1/events")} == {404}


def test_wrong_wishes_are_told(started: Started, dispatcher: Dispatcher) -> None:
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
    with started() as gateway:
        for body, words in wrong:
            got = gateway.ask("POST", "/v1/dead/purge", body, token=ADMIN)
            assert got.status == 400
            assert got.json["detail"].startswith(words)
        plain = {"Content-Type": "text/plain"}  # as a form of another site sends
        assert gateway.ask("POST", "/v1/dead/purge", b"{}", plain, ADMIN).status == 415


def test_viewers_share_looks_and_come_back(
    started: Started, broker_url: str, dispatcher: Dispatcher
) -> None:
    """Each look goes to all; who comes back with an id gets what is new; one too many gets 503; and
    a stop of the gateway ends each stream.
    """
    with Daemon(broker_url, dispatcher.prefix).ready(), started(http__max_viewers=2) as gateway:
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
