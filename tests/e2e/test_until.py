"""`scraperd run` that ends by itself: when nothing is left to do, or after so many jobs.

May touch: a private broker, a site in a thread, the daemon as a subprocess.
Must never: sleep for luck; each wait is for something that is seen.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.rig.daemon import Daemon, Dispatcher, environment
from tests.rig.process import Process

if TYPE_CHECKING:
    from tests.rig.brokers.node import Node
    from tests.rig.sites.hostel import Hostel


def test_it_ends_when_nothing_is_left(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """All jobs that were there get their results, those that are retried soon too; then 0."""
    with Daemon(broker_url, prefix).ready():
        pass  # the queues exist from here on
    idents = dispatcher.publish_many([hostel.url(f"/flaky/1/{n}") for n in range(30)])
    with Daemon(broker_url, prefix, options=("--until-idle", "3")) as daemon:
        assert daemon.wait(60) == 0
        (drain,) = daemon.logged("drain")
        assert (drain["why"], drain["in_flight"]) == ("idle", 0)
    results = dispatcher.results(30)
    assert sorted(it["id"] for it in results if it["status"] == "ok") == sorted(idents)
    assert dispatcher.depth("jobs") == 0


def test_a_job_that_takes_long_is_waited_for(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """A page that hangs for longer than the idle time keeps the daemon; its result is published."""
    with Daemon(broker_url, prefix, options=("--until-idle", "0.5")).ready() as daemon:
        dispatcher.publish({"url": hostel.url("/hold/1"), "id": "a"})
        hostel.wait_for(lambda hits: len(hits) == 1)
        with pytest.raises(AssertionError, match="still runs after 2 s"):
            daemon.wait(2)
        hostel.release()
        assert daemon.wait(30) == 0
    assert dispatcher.results(1)[0]["status"] == "ok"


def test_it_does_not_end_without_a_broker(node: Node, prefix: str) -> None:
    """A broker that is away says nothing of its queues: it is waited for."""
    node.stop()
    with Daemon(node.url, prefix, options=("--until-idle", "0.5")) as daemon:
        daemon.wait_for_line("broker_unreachable")
        node.start()
        daemon.wait_for_line('"event":"ready"')
        assert daemon.wait(60) == 0


def test_it_begins_so_many_jobs(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """Ten of thirty; the others stay in the queue, and nothing is held against them."""
    with Daemon(broker_url, prefix).ready():
        pass
    dispatcher.publish_many([hostel.url(f"/page/{n}") for n in range(30)])
    with Daemon(broker_url, prefix, options=("--max-jobs", "10")) as daemon:
        assert daemon.wait(60) == 0
        assert daemon.logged("drain")[0]["why"] == "max_jobs"
    assert len(dispatcher.results(10)) == 10
    assert sum(hostel.hits.values()) == 10
    assert dispatcher.depth("jobs") == 20


def test_values_that_make_no_sense_are_refused() -> None:
    """A negative number, no number, and nan are wrong usage: 2, with the option's name."""
    for option, value in (("--until-idle", "-1"), ("--until-idle", "nan"), ("--max-jobs", "0")):
        argv = [sys.executable, "-m", "scraperd", "run", option, value]
        with Process(argv, env=environment({})) as daemon:
            assert daemon.wait(30) == 2
            assert option in "".join(line.text for line in daemon.lines)
