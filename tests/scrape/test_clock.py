"""A wall clock that jumps by an hour while the daemon runs, forward and back: nothing waits longer.

May touch: a private broker, sites of its own, the daemon as a subprocess under libfaketime.
Must never: fake the monotonic clock, which no correction of the time of day moves.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.rig.clocks.faketime import Clock
from tests.rig.daemon import Daemon
from tests.rig.sites.hostel import Hostel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.rig.daemon import Dispatcher

HOUR = 3600
DELAY = 0.4  # seconds between two fetches from PACED, on average
PACED = "127.0.0.2"
SLACK = 60.0  # seconds that a busy machine may take on top; an hour would be plain to see
LATE = 0.15  # seconds that a request may need to be seen by the site, on a busy machine
TICK = 0.01  # seconds a timer of the loop may be early: libuv counts in milliseconds


class Dated(Hostel):
    """/later/N answers 503 once, with a date two seconds off by this machine's clock."""

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        answer = super().answer(path)
        if path.startswith("/later") and self.hits[path] == 1:
            then = datetime.now(UTC) + timedelta(seconds=2)
            return 503, {"Retry-After": format_datetime(then, usegmt=True)}, b""
        return answer


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    """The daemon's wall clock."""
    return Clock(tmp_path)


@pytest.fixture
def daemon(broker_url: str, prefix: str, dispatcher: Dispatcher, clock: Clock) -> Iterator[Daemon]:
    """The daemon under that clock; PACED is fetched from slowly, and nothing is snoozed."""
    hosts = {PACED: {"per_host_concurrency": 1, "per_host_delay": DELAY}}
    limits = {
        "fetch__download_timeout": 1,
        "fetch__connect_timeout": 1,
        "jobs__retry_after_max": 60,
        "politeness__snooze_after": 60,
    }
    with Daemon(broker_url, prefix, clock.env, hosts=hosts, **limits).ready() as daemon:
        yield daemon


def ahead(line: dict[str, str]) -> float:
    """By how many seconds a log line is ahead of this process's clock, about."""
    return (datetime.fromisoformat(line["timestamp"]) - datetime.now(UTC)).total_seconds()


def jumps(clock: Clock) -> Iterator[Callable[[], None]]:
    """No jump, one forward and one back; each is made in the middle of something."""
    for seconds in (0, HOUR, -2 * HOUR):
        yield lambda seconds=seconds: clock.jump(seconds)


def test_the_clock_of_a_running_daemon_jumps(
    daemon: Daemon, clock: Clock, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """The log's timestamps follow each jump at once, and its durations show none of it."""
    for number, jump in enumerate(jumps(clock)):
        jump()
        dispatcher.publish({"url": hostel.url(f"/page/{number}"), "id": str(number)})
        [result] = dispatcher.results(1)
        daemon.wait_for_line(f'"id":"{number}"')
        assert abs(ahead(daemon.logged("job")[-1]) - clock.ahead) < 60
        assert abs(ahead({"timestamp": result["fetched_at"]}) - clock.ahead) < 60
        assert 0 <= result["timings"]["total"] < SLACK


def test_a_date_in_retry_after_means_the_same(
    daemon: Daemon, clock: Clock, dispatcher: Dispatcher
) -> None:
    """A site that asks for two seconds by a date gets two, not an hour and not none."""
    for number, jump in enumerate(jumps(clock)):
        jump()
        with Dated(f"127.0.0.{10 + number}") as site:
            dispatcher.publish({"url": site.url("/later/1"), "id": str(number)})
            [result] = dispatcher.results(1)
            first, second = site.times("/later")
        assert (result["status"], result["attempt"]) == ("ok", 2)
        assert 0.9 < second - first < 2 + 4 + SLACK  # a delay queue may be the next longer one


def is_paced(times: list[float], delay: float) -> bool:
    """Whether nobody was hurried, and nobody held up.

    The shortest delays together: a request that reaches the site late on a busy machine shortens
    the gap behind it. Two that came at once would be missing in the sum.
    """
    in_all = (len(times) - 1) * delay / 2 - LATE
    return times[-1] - times[0] > in_all and all(
        b - a < delay * 1.5 + SLACK for a, b in pairwise(times)
    )


def test_a_hosts_pace_stays(daemon: Daemon, clock: Clock, dispatcher: Dispatcher) -> None:
    """A jump while jobs wait for their host's turn neither hurries them nor holds them up."""
    for number, jump in enumerate(jumps(clock)):
        with Hostel(PACED) as site:
            dispatcher.publish_many([site.url(f"/page/{number}/{n}") for n in range(5)])
            site.wait_for(lambda hits: hits.total() >= 2)
            jump()
            dispatcher.results(5)
            times = site.times()
        assert is_paced(times, DELAY)


def test_a_timeout_is_as_long_as_it_was(
    daemon: Daemon, clock: Clock, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """A site that is silent is left after `fetch.download_timeout`, jump or not."""
    for number, jump in enumerate(jumps(clock)):
        began = time.monotonic()
        job = {"url": hostel.url(f"/hold/{number}"), "id": str(number), "max_retries": 0}
        dispatcher.publish(job)
        hostel.wait_for(lambda hits, number=number: hits[f"/hold/{number}"] == 1)
        jump()
        [result] = dispatcher.results(1)
        assert result["error"]["kind"] == "timeout"
        assert 1 - TICK <= result["timings"]["fetch"] < 1 + SLACK
        assert 1 - TICK <= time.monotonic() - began < 1 + SLACK


def test_a_snoozed_job_comes_back_in_time(
    broker_url: str, prefix: str, dispatcher: Dispatcher, clock: Clock
) -> None:
    """The turns that jobs were promised, which travel as times of day, are not an hour later
    though their host is busy when they come back, and its pace is kept.
    """
    pace = {
        "politeness__per_host_delay": 0.5,
        "politeness__per_host_concurrency": 1,
        "politeness__snooze_after": 0.1,
    }
    with Daemon(broker_url, prefix, clock.env, log__level="debug", **pace).ready() as daemon:
        for number, seconds in enumerate((HOUR, -2 * HOUR)):
            start = len(daemon.lines)
            with Hostel(f"127.0.0.{20 + number}") as site:
                dispatcher.publish_many([site.url(f"/page/{n}") for n in range(6)])
                daemon.wait_for_line('"verdict":"snooze"', start=start)
                clock.jump(seconds)
                dispatcher.results(6, 30)
                times = site.times()
            assert is_paced(times, 0.5)
