"""Batches by real daemons and a real broker: one message at the end, whatever is killed.

May touch: a private broker, daemons, the gateway and the commands as subprocesses.
Must never: wait for luck.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from tests.rig.brokers.wire import Wire, settling
from tests.rig.daemon import Daemon, until
from tests.rig.ports import free_port
from tests.server.running import Gateway

if TYPE_CHECKING:
    from tests.conftest import Command
    from tests.rig.brokers.node import Node
    from tests.rig.daemon import Dispatcher
    from tests.rig.sites.hostel import Hostel

SETTINGS: dict[str, Any] = {"batches__enabled": True, "log__level": "debug"}
TAKEN = '"event":"tally_taken"'


class Readers:
    """Who reads results: those of jobs by id, and messages about batches."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self.results: dict[str, dict[str, Any]] = {}
        self.ends: list[tuple[str, dict[str, Any]]] = []

    def until(self, jobs: int, ends: int) -> None:
        """Read until there are so many."""
        if len(self.results) >= jobs and len(self.ends) >= ends:
            return
        for properties, body in self._dispatcher.stream("results", 60):
            self._read(properties, body)
            if len(self.results) >= jobs and len(self.ends) >= ends:
                return
        raise AssertionError(f"{len(self.results)} results, {len(self.ends)} ends within 60 s")

    def rest(self) -> None:
        """Read what is in the queue, when nobody writes any more."""
        for _ in range(self._dispatcher.depth("results")):
            self._read(*self._dispatcher.take("results"))

    def _read(self, properties: Any, body: bytes) -> None:
        found = json.loads(body)
        if properties.type == "scraperd.batch":
            self.ends.append((properties.message_id, found))
        else:
            self.results[found["id"]] = found


def test_a_batch_is_done_once_through_kills_of_who_tallies(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """Two daemons, duplicates, kill -9 of the holder twice: one message, all counted.

    The kills come while notes are read and not written down, and near the end.
    """
    size = 300
    batch = {"id": "monday", "size": size}
    readers = Readers(dispatcher)
    with ExitStack() as stack:

        def another() -> Daemon:
            daemon = Daemon(broker_url, prefix, **SETTINGS, concurrency=8)
            return stack.enter_context(daemon).ready()

        daemons = [another(), another()]
        for number in range(size):
            job = {"url": hostel.url(f"/page/{number}"), "id": f"job-{number}", "batch": batch}
            for _ in range(1 + (number % 5 == 0)):
                dispatcher.publish(job)
        for some in (100, size - 1):
            readers.until(some, 0)
            holder = holder_of(daemons)
            holder.kill()
            daemons.remove(holder)
            daemons.append(another())
        readers.until(size, 1)
        until(lambda: dispatcher.depth("jobs") == 0)
        assert [daemon.drain() for daemon in daemons] == [0, 0]
    readers.rest()
    (_, end), *copies = readers.ends
    assert all(copy == readers.ends[0] for copy in copies)  # a kill in the gap (decision 60)
    assert (end["event"], end["batch"]) == ("batch.done", batch)
    assert (end["counted"], end["kinds"]) == (size, {"ok": size})


def holder_of(daemons: list[Daemon]) -> Daemon:
    """The daemon that tallies."""
    found: list[Daemon] = []

    def known() -> bool:
        found[:] = [daemon for daemon in daemons if daemon.logged("tally_taken")]
        return bool(found)

    until(known, "no daemon tallies")
    [holder] = found
    return holder


def test_each_kind_of_outcome_is_counted(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """Good, failed, dead and invalid jobs; a result has the batch of its job."""
    batch = {"id": "b", "size": 4}
    away = f"http://127.0.0.1:{free_port()}/"
    page = hostel.url("/page/1")
    readers = Readers(dispatcher)
    with Daemon(broker_url, prefix, **SETTINGS).ready() as daemon:
        for job in (
            {"url": page, "id": "ok"},
            {"url": hostel.url("/status/404"), "id": "gone"},
            {"url": page, "id": "bad", "extract": {"x": "h1["}},
            {"url": away, "id": "away", "max_retries": 1},
        ):
            dispatcher.publish({**job, "batch": batch})
        readers.until(4, 1)
        assert daemon.drain() == 0
    [(_, end)] = readers.ends
    assert end["kinds"] == {"connect": 1, "http_status": 1, "invalid_job": 1, "ok": 1}
    assert "missing" not in end
    assert all(result["batch"] == batch for result in readers.results.values())


def test_progress_is_told_by_the_command_and_the_gateway(  # noqa: PLR0917 - fixtures
    broker_url: str,
    prefix: str,
    dispatcher: Dispatcher,
    hostel: Hostel,
    scraperd: Command,
    env: dict[str, str],
) -> None:
    """Of a batch that is unknown, open, and done; and when no daemon tallies any more."""
    job = {"url": hostel.url("/page/1"), "id": "1", "batch": {"id": "b:1", "size": 2}}
    readers = Readers(dispatcher)
    with (
        Daemon(broker_url, prefix, **SETTINGS).ready() as daemon,
        Gateway(broker_url, prefix, batches__enabled=True).ready() as gateway,
    ):
        daemon.wait_for_line(TAKEN)
        none = scraperd("batches", "b:1", **env)
        assert (none.returncode, none.stdout) == (1, "")
        assert "no batch b:1 is known" in none.stderr
        for path in ("b:1", "%00", "", "b:1/x"):
            assert gateway.ask("GET", f"/v1/batches/{path}").status == 404
        dispatcher.publish(job)
        readers.until(1, 0)
        until(lambda: gateway.ask("GET", "/v1/batches/b%3A1").status == 200)
        told = gateway.ask("GET", "/v1/batches/b:1").json
        assert (told["state"], told["size"], told["kinds"]) == ("open", 2, {"ok": 1})
        assert json.loads(scraperd("batches", "b:1", "--json", **env).stdout) == told
        assert gateway.ask("POST", "/v1/jobs", {**job, "id": "2"}).status == 202
        readers.until(2, 1)
        shown = scraperd("batches", **env).stdout
        assert shown.startswith("b:1: done, 2 of 2, 2 ok, began ")
        assert gateway.ask("GET", "/v1/batches/b:1?x=1").status == 400
        assert daemon.drain() == 0
        assert gateway.ask("GET", "/v1/batches/b:2").headers["Retry-After"] == "2"


def test_a_job_that_the_broker_gives_up_is_counted(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """It expires in the queue before any daemon reads it, and a helper process reads its batch."""
    batch = {"id": "late", "size": 2}
    with Daemon(broker_url, prefix, **SETTINGS).ready() as daemon:
        assert daemon.drain() == 0
    dispatcher.publish({"url": "http://a.example/", "id": "x", "batch": batch}, expiration="1")
    until(lambda: dispatcher.depth("jobs") == 0)
    dispatcher.publish({"url": hostel.url("/page/1"), "id": "y", "batch": batch})
    with Daemon(broker_url, prefix, **SETTINGS).ready() as daemon:
        readers = Readers(dispatcher)
        readers.until(2, 1)
        assert daemon.drain() == 0
    [(_, end)] = readers.ends
    assert end["kinds"] == {"expired": 1, "ok": 1}


def test_an_unfinished_batch_expires_also_across_a_restart(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """The daemon that knew of it is gone; the next one ends it, and forged notes count nothing."""
    batch = {"id": "short", "size": 3}
    with Daemon(broker_url, prefix, **SETTINGS).ready() as daemon:
        dispatcher.publish({"url": hostel.url("/page/1"), "id": "x", "batch": batch})
        readers = Readers(dispatcher)
        readers.until(1, 0)
        until(lambda: bool(daemon.logged("job")))
        daemon.kill()
    for job in range(2):
        note = {"what": "note", "batch": "short", "size": 3, "job": job, "kind": "ok", "at": 1}
        dispatcher.publish(json.dumps(note).encode(), queue="batches")
    with Daemon(broker_url, prefix, **SETTINGS, batches__expire_after=1).ready() as daemon:
        readers.until(1, 1)
        daemon.wait_for_line('"event":"batch_expired"')
        assert len(daemon.logged("batch_note_refused")) == 1
        assert daemon.drain() == 0
    [(_, end)] = readers.ends
    assert (end["event"], end["counted"], end["missing"]) == ("batch.expired", 1, 2)


def test_the_note_is_confirmed_before_the_ack_and_no_other_job_pays(
    node: Node, broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """Off the wire: result, confirm, note, confirm, ack; and without a batch no note."""
    assert broker_url == node.url
    with Wire(node.port) as wire, Daemon(wire.url, prefix, **SETTINGS).ready() as daemon:
        daemon.wait_for_line(TAKEN)
        batch = {"id": "a", "size": 9}
        dispatcher.publish({"url": hostel.url("/page/1"), "id": "a", "batch": batch})
        seen = wire.wait_for(lambda seen: settling(seen).count("ack") == 1)
        result, stored = "publish ok.200.127-0-0-1", f"publish {prefix}.batches"
        own = [stored, "confirm"] * 2  # of the tally itself, when it began
        assert settling(seen) == [*own, result, "confirm", stored, "confirm", "ack"]
        dispatcher.publish({"url": hostel.url("/page/1"), "id": "b"})
        more = wire.wait_for(lambda seen: settling(seen).count("ack") == 2)
        assert settling(more)[len(settling(seen)) :] == [result, "confirm", "ack"]


def test_without_the_setting_a_batch_is_refused_and_no_queue_is_made(
    broker_url: str, prefix: str, dispatcher: Dispatcher
) -> None:
    """In words, by daemon and gateway."""
    job = {"url": "http://a.example/", "id": "x", "batch": {"id": "a", "size": 1}}
    with (
        Daemon(broker_url, prefix).ready() as daemon,
        Gateway(broker_url, prefix).ready() as gateway,
    ):
        dispatcher.publish(job)
        [result] = dispatcher.results(1)
        got = gateway.ask("POST", "/v1/jobs", job)
        assert gateway.ask("GET", "/v1/batches/a").status == 404
        assert daemon.drain() == 0
    assert result["error"]["field"] == got.json["field"] == "batch"
    assert "batches.enabled is false" in result["error"]["message"]
    assert got.status == 400
