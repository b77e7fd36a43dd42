"""The daemon while nobody reads its log: it works on, says what was lost, and ends in time.

May touch: the daemon as a child process, its log as a pipe of the test, the private broker.
Must never: read the log where the test says that nobody does.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from scraperd.ops.sink import MAX_WAIT
from tests.rig.daemon import LOOPBACK, environment
from tests.rig.process import end, spawn
from tests.rig.watched import last_beat

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.rig.daemon import Dispatcher
    from tests.rig.sites.hostel import Hostel

JOBS = 400
LONG = "x" * 4000  # of a URL, which the job's line has too: 1.6 MB of lines, more than are kept
SLOW = 5.0  # seconds; a loop that waits for its reader turns no more at all


def _job_line(line: dict[str, Any]) -> bool:
    return line["event"] == "job"


@contextmanager
def watched(
    file: Path, broker_url: str, prefix: str
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The daemon with a heartbeat, and where its log and its standard error can be read."""
    reading, writing = os.pipe()
    settings = {
        **LOOPBACK,
        "broker_url": broker_url,
        "broker__prefix": prefix,
        "log__format": "json",
        "log__urls": "full",  # long lines fill the pipe
    }
    argv = [sys.executable, "-m", "tests.rig.watched", str(file)]
    with os.fdopen(writing, "wb") as log:
        child = spawn(argv, env=environment(settings), stdout=log, stderr=log)
    try:
        yield child, reading
    finally:
        end(child, 10)
        os.close(reading)


def read_until(descriptor: int, event: str) -> list[dict[str, Any]]:
    """Each line from now on, to the first of this event. A line that is not JSON is an error."""
    rest, found = b"", list[dict[str, Any]]()
    while not any(line["event"] == event for line in found):
        data = os.read(descriptor, 1 << 16)
        assert data, f"the log ends without {event}: {found[-3:]}"
        *lines, rest = (rest + data).split(b"\n")
        found += map(json.loads, lines)
    assert rest == b""
    return found


def test_a_log_that_nobody_reads_holds_no_job_up(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel, tmp_path: Path
) -> None:
    """All results come while the log's pipe is full, and the loop turns. Whoever reads the pipe
    then gets whole lines, and one that says how many jobs' lines are missing.
    """
    file = tmp_path / "holds"
    with watched(file, broker_url, prefix) as (child, log):
        read_until(log, "ready")
        dispatcher.publish_many([hostel.url(f"/page/{n}?{LONG}") for n in range(JOBS)])
        results = dispatcher.results(JOBS)
        assert {result["status"] for result in results} == {"ok"}
        assert time.monotonic() - last_beat(file)[0] < SLOW
        lines = read_until(log, "log_lines_lost")
        lost = lines[-1]["lines"]
        assert lost > 0
        assert sum(map(_job_line, lines)) + lost == JOBS
        dispatcher.publish({"url": hostel.url("/page/1"), "id": "after"})
        assert read_until(log, "job")[-1]["id"] == "after"
        child.send_signal(signal.SIGTERM)
        read_until(log, "stop")
        assert child.wait(30) == 0


def test_a_log_that_nobody_reads_holds_no_end_up(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel, tmp_path: Path
) -> None:
    """SIGTERM while the log's pipe is full: the daemon drains, waits a moment, and exits with 0."""
    with watched(tmp_path / "holds", broker_url, prefix) as (child, log):
        read_until(log, "ready")
        dispatcher.publish_many([hostel.url(f"/page/{n}?{LONG}") for n in range(JOBS)])
        assert len(dispatcher.results(JOBS)) == JOBS
        began = time.monotonic()
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 0
        assert time.monotonic() - began < MAX_WAIT + SLOW
    assert dispatcher.depth("jobs") == 0


@pytest.mark.parametrize(
    ("stream", "settings"),
    [
        ("stdout", {"broker_url": "amqps://127.0.0.1:1/?cafile=/no/such/file"}),
        ("stderr", {"no_such_setting": 1}),
    ],
)
def test_a_start_that_fails_ends_while_nobody_reads(stream: str, settings: dict[str, Any]) -> None:
    """With a wrong configuration, and a full pipe to say so on, `run` ends with 78 all the same."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    os.write(writing, bytes(1 << 20))  # as many as it takes
    os.set_blocking(writing, True)
    streams: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    argv = [sys.executable, "-m", "scraperd", "run"]
    child = spawn(argv, env=environment(settings), **{**streams, stream: writing})
    try:
        assert child.wait(30) == 78
    finally:
        end(child, 1)
        os.close(reading)
        os.close(writing)
