"""Jobs that are far too large, and many that are as large as they may be, beside another tenant's.

May touch: a private broker, a site in a thread, the daemon as a subprocess, /proc of it.
Must never: take a busy machine for a held loop: what counts is the loop's own processor time.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from scraperd.broker.rabbitmq.topology import DELAYS
from tests.rig.clocks.effort import scaled
from tests.rig.daemon import LOOPBACK, Daemon, Dispatcher, variables
from tests.rig.process import Process
from tests.rig.watched import holds

if TYPE_CHECKING:
    from tests.rig.brokers.node import Node
    from tests.rig.sites.hostel import Hostel

MIB = 1024 * 1024
PROCESS = 150  # MiB of resident memory that the daemon may take beside its budget
HELD = 0.1  # seconds of processor: 9 ms were measured, 3.9 s before jobs were bounded


class Watched(Process):
    """The real daemon, with its loop's pulse taken."""

    def __init__(self, url: str, prefix: str, file: Path, **settings: Any) -> None:
        values = {
            **LOOPBACK,
            "log__format": "json",
            "broker_url": url,
            "broker__prefix": prefix,
            **settings,
        }
        argv = [sys.executable, "-m", "tests.rig.watched", str(file)]
        super().__init__(argv, env=variables(values))
        self.file = file

    def ready(self) -> Self:
        self.wait_for_line('"event":"ready"')
        return self

    @property
    def peak(self) -> float:
        """Peak of resident memory, in MiB."""
        match = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text())
        assert match
        return int(match[1]) / 1024

    @property
    def longest(self) -> float:
        """Seconds of processor in the longest hold of the loop."""
        return max((hold.cpu for hold in holds(self.file)), default=0.0)


def declared(url: str, prefix: str) -> None:
    """The queues exist from here on."""
    with Daemon(url, prefix).ready() as daemon:
        daemon.drain()


def test_a_job_of_a_million_form_fields_holds_nobody_up(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel, tmp_path: Path
) -> None:
    """It is refused unread: the failed result has the id that the message says, and no url or meta;
    the dead letter is its body to the byte. Jobs of others beside it have their results, and the
    loop was never held.
    """
    declared(broker_url, prefix)
    form = {f"field-{n}": "x" for n in range(1_000_000)}
    job = {"url": hostel.url("/page/form"), "id": "in the body", "form": form, "meta": 1}
    raw = json.dumps(job).encode()
    dispatcher.publish(raw, message_id="its message id")
    dispatcher.publish(raw + b" ")  # nobody could be told of this one
    idents = dispatcher.publish_many([hostel.url(f"/page/{n}") for n in range(20)])
    with Watched(broker_url, prefix, tmp_path / "holds").ready() as daemon:
        found = {result["id"]: result for result in dispatcher.results(21)}
        refused = found.pop("its message id")
        assert refused["error"] == {
            "kind": "invalid_job",
            "message": f"the job has {len(raw)} bytes, more than 524288 (jobs.max_size)",
            "field": "",
        }
        assert not {"url", "meta"} & refused.keys()
        assert found.keys() == set(idents)
        assert {result["status"] for result in found.values()} == {"ok"}
        letters = dict(reversed(dispatcher.take("dead")) for _ in range(2))
        assert letters.keys() == {raw, raw + b" "}
        assert letters[raw].headers["x-scraperd-dead-kind"] == "invalid_job"
        assert letters[raw].headers["x-scraperd-job-id"] == "its message id"
        assert daemon.longest < scaled(HELD)
    assert not hostel.hits["/page/form"]


def test_many_huge_jobs_stay_within_memory(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel, tmp_path: Path
) -> None:
    """10 of 20 MB, all of them ready when the daemon starts and fewer than its prefetch: each is
    dead, whole, and the jobs between them have their results; 200 MB were never here at once.
    """
    declared(broker_url, prefix)
    sent = set()
    for n in range(10):
        raw = hashlib.shake_128(bytes([n])).digest(20_000_000)
        sent.add(hashlib.sha256(raw).digest())
        dispatcher.publish(raw, correlation_id=f"huge {n}")
        dispatcher.publish_many([hostel.url(f"/page/{n}")])
    settings = {"fetch__memory_budget": 64 * MIB}
    with Watched(broker_url, prefix, tmp_path / "holds", **settings).ready() as daemon:
        results = dispatcher.results(20, timeout=100)
        kinds = [result.get("error", {}).get("kind", "ok") for result in results]
        assert (kinds.count("ok"), kinds.count("invalid_job")) == (10, 10)
        dead = {hashlib.sha256(dispatcher.take("dead")[1]).digest() for _ in range(10)}
        assert dead == sent
        assert daemon.peak < 64 + PROCESS
        assert daemon.longest < scaled(HELD)


def test_large_jobs_make_room_for_others(
    node: Node, prefix: str, dispatcher: Dispatcher, hostel: Hostel, tmp_path: Path
) -> None:
    """16 jobs of 240 kB, on a site that does not answer: those for which there is no room
    wait in delay queues, in the same attempt, and small jobs run meanwhile. None is lost.

    So few come back at once that none is sent away again.
    """
    declared(node.url, prefix)
    node.hurry(prefix, 12)  # instead of up to a minute; long enough to be counted there
    rules = {f"r{n}": {"selector": "h1", "default": "x" * 900} for n in range(250)}
    urls = [hostel.url(f"/hold/{n}") for n in range(16)]
    large = dispatcher.publish_many(urls, extract=rules)
    small = dispatcher.publish_many([hostel.url(f"/page/{n}") for n in range(20)])
    settings = {"fetch__memory_budget": 16 * MIB}  # an eighth of it for large jobs: eight of these
    with Watched(node.url, prefix, tmp_path / "holds", **settings).ready() as daemon:
        found = {result["id"] for result in dispatcher.results(20)}
        assert found == set(small)
        waiting = sum(dispatcher.depth(f"delay.{seconds}") for seconds in DELAYS)
        assert 6 <= waiting <= 9
        hostel.release()
        results = dispatcher.results(16, timeout=100)
        assert {result["id"] for result in results} == set(large)
        assert {(result["status"], result["attempt"]) for result in results} == {("ok", 1)}
        assert daemon.longest < scaled(HELD)
