"""The example dispatcher does what it says, with a real daemon and broker.

May touch: examples/dispatcher.py, run as a user runs it.
Must never: import the daemon.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.rig.daemon import Daemon
from tests.rig.process import Process

if TYPE_CHECKING:
    from tests.rig.daemon import Dispatcher
    from tests.rig.hostel import Hostel

DISPATCHER = Path(__file__).parents[1] / "examples" / "dispatcher.py"


def test_the_dispatcher_matches_results_by_id(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """Each URL comes back once, ok or failed, though a duplicate and a stranger's result lie in
    the queue; the queue is empty afterwards.
    """
    urls = [hostel.url("/page/1"), hostel.url("/page/2"), hostel.url("/status/404")]
    call = f"import dispatcher; dispatcher.dispatch({broker_url!r}, {urls!r}, {prefix!r})"
    with Daemon(broker_url, prefix).ready():
        dispatcher.publish({"url": urls[0], "id": "a stranger's"})
        with Process([sys.executable, "-c", call], cwd=DISPATCHER.parent) as example:
            assert example.wait() == 0, example.stderr
    lines = sorted(example.stdout.splitlines())
    assert [line.split()[0] for line in lines] == ["failed", "ok", "ok"]
    assert lines[0].endswith("http_status: the site answered 404")
    assert lines[1].endswith("/page/1")
    assert dispatcher.depth("results") == 0


def test_the_dispatcher_is_about_fifty_lines() -> None:
    """It stays something to copy, not a framework."""
    assert len(DISPATCHER.read_text().splitlines()) <= 60
