"""What the page is told: rates between two looks, results in bounds, settings without passwords.

May touch: values.
Must never: need a broker.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from scraperd.batches.progress import Progress
from scraperd.config.masked import MAX_TOLD, changed, masked
from scraperd.config.tables import EndpointSettings
from scraperd.dashboard.shape import (
    MAX_BATCHES,
    MAX_DATA,
    MAX_PROCESSES,
    MAX_RESULT_BYTES,
    Rates,
    batches_shown,
    fleet_shown,
    point,
    result_shown,
    settings_shown,
)
from scraperd.ops.fleet.answer import Latency, Status
from scraperd.ops.fleet.asked import Fleet
from tests.rig.settings import configured


def status(name: str, done: int, **more: Any) -> Status:
    """An answer of a process that has counted `done` pages."""
    return Status(name, "h", 1, "1.0", 9.0, "consuming", totals={"done": done}, **more)


def test_rates_are_those_between_two_looks() -> None:
    """A process that is new has the rates of its last minute; one that counts anew has none."""
    rates = Rates()
    rates.note([status("a", 100, rates={"done": 5.0})], 10.0)
    fleet = Fleet("broker", [status("a", 120), status("b", 7, rates={"done": 1.0})])
    rates.note(fleet.statuses, 12.0)
    assert point(fleet, rates, 99.0)[:3] == [99.0, 11.0, 0.0]
    dead = Status("a", "h", 1, "1.0", 9.0, "consuming", totals={"done": 120, "dead": 4})
    rates.note([dead], 14.0)
    assert rates.of == {("a", "h", 1): (0.0, 2.0)}
    rates.note([status("a", 3)], 13.0)
    assert point(Fleet("broker", [status("a", 3)]), rates, 99.0)[1] == 0.0
    rates.note([], 14.0)
    assert point(Fleet("broker", []), rates, 99.0)[1:3] == [0, 0]


def test_the_worst_latency_counts_and_rows_are_bounded() -> None:
    """Of many processes those with the most pages a second are shown, and all are counted."""
    latency = {"job": Latency(0.5, 2.0)}
    many = [status(f"p{n}", 0, rates={"done": n}, in_flight=1) for n in range(300)]
    fleet = Fleet("broker", [*many, status("slow", 0, latency=latency)])
    rates = Rates()
    rates.note(fleet.statuses, 1.0)
    shown = fleet_shown(fleet, rates)
    assert [it["name"] for it in shown["processes"]][:2] == ["p299", "p298"]
    assert (len(shown["processes"]), shown["answer"]) == (MAX_PROCESSES, 301)
    assert point(fleet, rates, 1.0)[3:] == [300, 0, 0, 0.5, 2.0]
    assert shown["steps"] == {"job": (0.5, 2.0)}


def test_a_result_is_told_in_short() -> None:
    """No body, header, cookie or userinfo; long texts are cut, and none has a control character."""
    result = {
        "id": "a\u202eb",
        "status": "ok",
        "url": "https://user:secret@example.com/?q=1",
        "http_status": 200,
        "attempt": 2,
        "attempts": [{"kind": "dns", "at": "2026-11-28T00:00:00Z", "worker": "w"}],
        "body": "secret",
        "headers": {"set-cookie": ["secret"]},
        "cookies": [{"name": "secret"}],
        "metadata": {"title": "T"},
        "data": {"x": "y" * 9000},
    }
    shown = result_shown(json.dumps(result).encode())
    assert shown is not None
    assert "secret" not in json.dumps(shown)
    assert (shown["id"], shown["title"], len(shown["data"])) == ("a\ufffdb", "T", MAX_DATA)
    assert shown["attempts"][0]["kind"] == "dns"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"id": 1, "status": "ok"}',
        b'{"id": "a", "status": "ok", "attempts": {}}',
        b"[" * 100_000,
        b'{"id": "a", "status": "ok", "data": "' + b"x" * MAX_RESULT_BYTES + b'"}',
    ],
)
def test_what_is_not_a_result_is_passed_over(body: bytes) -> None:
    """Whoever may publish to the results exchange can send anything."""
    assert result_shown(body) is None


def test_settings_are_shown_without_passwords() -> None:
    """Of a URL neither userinfo nor query; all else as it is."""
    config = configured(
        broker_url="amqp://user:hunter2@h:5672/v?heartbeat=3",
        proxies={"office": "http://user:hunter2@proxy.example:3128"},
        hosts={"*.example.com": {"per_host_delay": 2.0}},
        callback_endpoints={
            "billing": EndpointSettings(url="https://u:hunter2@hooks.example:444/hunter2?x=1")
        },
    )
    found = {it["name"]: it for it in masked(config)}
    assert "hunter2" not in json.dumps(list(found.values()))
    assert found["broker_url"]["value"] == "amqp://h:5672/v?..."
    assert found["proxies"]["value"] == "office: http://proxy.example:3128"
    assert found["hosts"]["value"] == "*.example.com: per_host_delay: 2.0"
    assert found["callback_endpoints"]["value"] == "billing: url = https://hooks.example:444/..."
    assert (found["concurrency"]["value"], found["concurrency"]["default"]) == ("100", "yes")
    told = changed(config)
    assert told == {name: it["value"] for name, it in found.items() if it["default"] == "no"}
    many = configured(proxies={f"p{n}": "http://proxy.example:3128" for n in range(99)})
    assert len(changed(many)["proxies"]) == MAX_TOLD


def test_settings_are_shown_by_who_has_them() -> None:
    """What all have is told once; where values differ, each has its processes."""
    statuses = [
        status("a", 0, settings={"concurrency": "9", "metrics.listen": "h:1"}),
        status("b", 0, settings={"concurrency": "9", "log.level": "debug"}),
        status("old", 0),
    ]
    assert settings_shown(Fleet("broker", statuses, silent=1)) == {
        "answer": ["a", "b"],
        "silent": 1,
        "settings": [
            {"name": "concurrency", "value": "9", "processes": []},
            {"name": "metrics.listen", "value": "h:1", "processes": ["a"]},
            {"name": "metrics.listen", "value": None, "processes": ["b"]},
            {"name": "log.level", "value": None, "processes": ["a"]},
            {"name": "log.level", "value": "debug", "processes": ["b"]},
        ],
    }


def test_many_open_batches_do_not_hide_those_that_ended() -> None:
    """Some of each kind, with ages that are never negative."""
    opened = [
        Progress(f"o{n}", "open", 3, 1, {"ok": 1}, started_at=90, last_at=95) for n in range(50)
    ]
    ended = Progress("e", "expired", 3, 1, {}, started_at=50, ended_at=80, reason="idle")
    shown = batches_shown([*opened, ended], 100.0)
    assert [it["id"] for it in shown] == [*(f"o{n}" for n in range(MAX_BATCHES)), "e"]
    assert (shown[0]["age"], shown[0]["news"]) == (10, 5)
    assert (shown[-1]["age"], shown[-1]["news"], shown[-1]["reason"]) == (30, 20, "idle")
    assert batches_shown([ended], 0.0)[0]["news"] == 0
