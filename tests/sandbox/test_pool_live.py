"""The daemon from outside while the worst pages come: its loop turns, each job has an ending.

May touch: a private broker, a site and the daemon as processes, some seconds of processor time.
Must never: take the time that other processes need for time that the loop was held.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from tests.rig.clocks.effort import scaled
from tests.rig.daemon import LOOPBACK, variables
from tests.rig.ports import free_port
from tests.rig.process import Process
from tests.rig.sites.extraction_pages import jobs
from tests.rig.watched import holds

if TYPE_CHECKING:
    from pathlib import Path

    from tests.rig.daemon import Dispatcher
    from tests.rig.sites.hostel import Hostel

FREE = 0.1  # seconds of its own processor time that the loop may be held
TIMEOUT = "the page took over 0.3 s of CPU (sandbox.timeout)"
ENDINGS = {
    "10 MB of nested <b>": TIMEOUT,
    "five million reopened": TIMEOUT,
    "a million attributes": TIMEOUT,
    "chain of x * * *": TIMEOUT,
    ":nth-last-child": TIMEOUT,
    "JSON, nested": "the response is application/json, not JSON: nested too deeply",
    "a million, as a list": None,  # two bounds are near each other
}


def test_the_loop_turns_beside_the_worst_pages(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel, tmp_path: Path
) -> None:
    """No page holds the loop over 0.1 s, each ends as `extract` and says why, others are scraped.

    The loop's own processor time counts, while a heartbeat of a millisecond was late.
    """
    port, file = free_port(), tmp_path / "holds"
    settings = {
        **LOOPBACK,
        "broker_url": broker_url,
        "broker__prefix": prefix,
        "log__format": "json",
    }
    settings |= {"sandbox__timeout": 0.3, "sandbox__processes": 2}
    watched = [sys.executable, "-m", "tests.rig.watched", str(file)]
    site = [sys.executable, "-m", "tests.rig.sites.extraction_pages", str(port)]
    with Process(site) as hostile, Process(watched, env=variables(settings)) as daemon:
        hostile.wait_for_line("ready")
        daemon.wait_for_line('"event":"ready"')
        for name in ENDINGS:
            dispatcher.publish(next(jobs(name, port)))
        urls = [hostel.url(f"/page/{n}") for n in range(50)]
        ordinary = dispatcher.publish_many(urls, extract={"title": "title"})
        results = {one["id"]: one for one in dispatcher.results(len(ENDINGS) + len(urls))}
    assert {results[ident]["status"] for ident in ordinary} == {"ok"}
    for name, message in ENDINGS.items():
        error: Any = results[f"{name}/0"]["error"]
        assert error["kind"] == "extract"
        assert message in {None, error["message"]}, f"{name}: {error['message']}"
    held = [(min(hold.late, hold.cpu), hold.stack) for hold in holds(file)]
    longest, stack = max(held, default=(0.0, ""))
    assert longest < scaled(FREE), f"the loop was held for {longest:.3f} s at {stack}"
