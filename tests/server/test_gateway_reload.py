"""A reload of the gateway by SIGHUP: tokens that come and go, settings that change, broken files.

May touch: the gateway as a subprocess, its files, a private broker.
Must never: take a request for ended that only was over by itself.
"""

from __future__ import annotations

import operator
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.rig.daemon import until
from tests.server.running import Gateway, answer_on, declare_jobs, following

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.rig.daemon import Dispatcher
    from tests.server.running import Got

SHOP, EYES, KEPT, NEW = (f"{name}-0123456789abcdef" for name in ("shop", "eyes", "kept", "new"))
ALL = f"shop submit {SHOP}\neyes read {EYES}\nkept submit {KEPT} 0.001\n"
URL = "https://example.com/"
SOON = 20.0  # seconds, of the 60 that the requests would wait: it is a second on an idle machine


class Reloaded:
    """A gateway whose settings and tokens stand in files that the test rewrites."""

    def __init__(self, folder: Path, broker_url: str, prefix: str) -> None:
        self.config, self.tokens = folder / "config.toml", folder / "tokens"
        self.config.write_text("[http]\nmax_wait = 61\n")
        self.tokens.write_text(ALL)
        self.gateway = Gateway(
            broker_url,
            prefix,
            {"SCRAPERD_CONFIG": str(self.config)},
            http__tokens_file=str(self.tokens),
            jobs__shutdown_timeout=0.1,
        )

    def reload(self, event: str = "reloaded") -> dict[str, Any]:
        """Send SIGHUP, and return what is logged of the reload."""
        before = len(self.gateway.logged(event))
        self.gateway.send_signal(signal.SIGHUP)
        until(lambda: len(self.gateway.logged(event)) > before, f"no {event}")
        return self.gateway.logged(event)[-1]


@pytest.fixture
def running(tmp_path: Path, broker_url: str, dispatcher: Dispatcher) -> Iterator[Reloaded]:
    """A gateway that has reached the broker; nobody runs its jobs."""
    declare_jobs(dispatcher.channel, dispatcher.prefix)
    it = Reloaded(tmp_path, broker_url, dispatcher.prefix)
    with it.gateway as gateway:
        gateway.ready()
        yield it
        assert (gateway.drain() if gateway.returncode is None else gateway.returncode) == 0
        log = gateway.stdout + gateway.stderr
        assert not any(token in log for token in (SHOP, EYES, KEPT, NEW))


def waiting(gateway: Gateway, token: str, ident: str) -> tuple[threading.Thread, list[Got]]:
    """A request that waits a minute for a result that does not come."""
    answers: list[Got] = []
    asked = ("POST", "/v1/jobs?wait=60", {"url": URL, "id": ident}, None, token)
    thread = threading.Thread(target=lambda: answers.append(gateway.ask(*asked)))
    thread.start()
    return thread, answers


def test_a_token_that_is_taken_away_ends_what_it_began(
    running: Reloaded, dispatcher: Dispatcher
) -> None:
    """Its event stream, its wait and its upload end at once; what was confirmed is told.

    The requests of other tokens go on, and the counts of their rates too.
    """
    gateway = running.gateway
    head = b"POST /v1/jobs HTTP/1.1\r\nHost: h\r\nContent-Type: application/jsonl\r\n"
    head += f"Authorization: Bearer {SHOP}\r\nContent-Length: 9999\r\n\r\n".encode()
    with following(gateway, EYES) as events, gateway.connect() as upload:
        upload.sendall(head + b'{"url": "https://example.com/", "id": "line"}\n{"url"')
        ended, told = waiting(gateway, SHOP, "ended")
        going, later = waiting(gateway, KEPT, "going")
        until(lambda: dispatcher.depth("jobs") == 3)
        running.tokens.write_text(f"kept submit {KEPT} 0.001\nshop submit {NEW}\n")
        began = time.monotonic()
        assert running.reload()["changed"] == ["http.tokens_file: other lines for eyes, shop"]
        events.end()
        got = answer_on(upload)
        ended.join()
        assert time.monotonic() - began < SOON
    assert (got.status, got.json["accepted"]) == (401, [{"line": 1, "id": "line"}])
    assert [(it.status, it.json["accepted"]) for it in told] == [
        (401, [{"line": 1, "id": "ended"}])
    ]
    assert "was taken away" in got.json["detail"]
    assert got.headers["Connection"] == "close"
    assert [gateway.ask("GET", "/v1/me", token=it).status for it in (SHOP, EYES, NEW, KEPT)] == [
        *(401, 401, 200, 429)
    ]
    assert going.is_alive()
    seen = operator.itemgetter("holder", "http_status", "jobs")
    ends = {("shop", 401, 1), ("eyes", 200, 0)}
    until(lambda: ends <= {*map(seen, gateway.logged("request"))})
    assert gateway.drain() == 0
    going.join()
    assert [it.status for it in later] == [202]


def test_a_role_that_is_made_less_ends_what_needs_more(running: Reloaded) -> None:
    """A submitter who may only read now: the wait for the new job ends, and reading goes on."""
    gateway = running.gateway
    with following(gateway, SHOP) as events:
        ended, told = waiting(gateway, SHOP, "ended")
        until(lambda: b'results{state="pending"} 1' in metrics(gateway))
        running.tokens.write_text(ALL.replace("shop submit", "shop read"))
        running.reload()
        ended.join()
        assert [it.status for it in told] == [401]
        assert events.next()
    assert gateway.ask("POST", "/v1/jobs", {"url": URL}, token=SHOP).status == 403


def metrics(gateway: Gateway) -> bytes:
    """What Prometheus would get."""
    return gateway.ask("GET", "/metrics", token=EYES).body


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{ALL}{NEW}\n", "line 4: write NAME ROLE TOKEN"),
        ("", "is empty; write NAME ROLE TOKEN a line"),
        (None, "No such file or directory"),
    ],
)
def test_a_broken_file_keeps_the_tokens(running: Reloaded, text: str | None, words: str) -> None:
    """The error line says which file and line, and nothing changes; so for a broken setting."""
    running.tokens.unlink()
    if text is not None:
        running.tokens.write_text(text)
    running.config.write_text("[http]\nmax_wait = 7\n")
    error = running.reload("reload_failed")["error"]
    assert error.startswith(f"http.tokens_file: {running.tokens}")
    assert words in error
    running.tokens.write_text(ALL)
    running.config.write_text("[http]\nmax_wait = -7\n")
    assert "http.max_wait" in running.reload("reload_failed")["error"]
    assert running.gateway.ask("GET", "/v1/me", token=EYES).status == 200
    got = running.gateway.ask("POST", "/v1/jobs?wait=62", {"url": URL}, token=SHOP)
    assert "at most 61" in got.json["detail"]


def test_settings_change_without_a_restart(running: Reloaded) -> None:
    """What can change holds at once, in answers, in the document and in the dashboard.

    What cannot is named as by a daemon.
    """
    running.config.write_text(
        '[http]\nmax_wait = 5\nmax_jobs = 1\nlisten = "127.0.0.1:1"\nmax_viewers = 1\n'
        "[jobs]\nmax_size = 1024\n"
    )
    told = running.reload()
    assert told["changed"] == [
        "jobs.max_size: 524288 -> 1024",
        "http.max_jobs: 10000 -> 1",
        "http.max_wait: 61.0 -> 5.0",
    ]
    assert told["needs_restart"] == ["http.max_viewers"]  # a variable sets http.listen
    gateway, lines = running.gateway, {"Content-Type": "application/jsonl"}
    got = gateway.ask("POST", "/v1/jobs?wait=6", {"url": URL}, token=SHOP)
    assert "at most 5 (http.max_wait)" in got.json["detail"]
    got = gateway.ask("POST", "/v1/jobs", b"{}\n{}\n", lines, SHOP)
    assert "more than 1 lines (http.max_jobs)" in got.json["detail"]
    got = gateway.ask("POST", "/v1/jobs", {"url": URL, "meta": "a" * 1024}, token=SHOP)
    assert "1024 bytes (jobs.max_size)" in got.json["detail"]
    document = gateway.ask("GET", "/v1/openapi.json").json
    assert document["paths"]["/v1/jobs"]["post"]["parameters"][0]["schema"]["maximum"] == 5
    shown = {it["name"]: it for it in gateway.ask("GET", "/v1/config", token=EYES).json["settings"]}
    assert shown["http.max_wait"]["value"] in ("5", "5.0")
