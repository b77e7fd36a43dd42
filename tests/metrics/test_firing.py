"""Each alert fires in a real Prometheus by a real cause, and ends when its cause ends.

May touch: a private broker, a site in a thread, daemons and Debian's Prometheus as subprocesses.
Must never: change the condition of a rule. Only times are shorter: see `hurried`.
"""

from __future__ import annotations

import contextlib
import signal
import time
from typing import TYPE_CHECKING, Any, Final

import pika
import pytest

from tests.metrics.prometheus import Prometheus, rules
from tests.rig.clients.receiver import SECRET, Receiver
from tests.rig.clocks.faketime import Clock
from tests.rig.daemon import Daemon, Dispatcher, until
from tests.rig.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tests.rig.brokers.node import Node
    from tests.rig.sites.hostel import Hostel

    Watching = Callable[..., AbstractContextManager[tuple["Watched", Daemon, Prometheus]]]

# Each waits for five alerts, and some of them for two counts of the queues, ten seconds apart.
pytestmark = pytest.mark.timeout(300)

BLOCKED: Final = {
    *("ScraperdReloadFailed", "ScraperdDeadLetters", "ScraperdBrokerBlocked"),
    *("ScraperdNotReady", "ScraperdNothingConsumes"),
}
AWAY: Final = {"ScraperdNotReady", "ScraperdDown", "ScraperdQuarantineNotEmpty"}
BUSY: Final = {
    *("ScraperdQueueGrows", "ScraperdMemoryBudgetUsed", "ScraperdJobsFail"),
    *("ScraperdLogLinesLost", "ScraperdDelayedJobsLate", "ScraperdLoopLags"),
}
CALLED: Final = {"ScraperdCallbacksWait", "ScraperdDeadCallbacks"}
SLOTS: Final = 6  # pages at a time, and jobs held
CALLBACKS: Final = 180  # an alert counts from 100 on, and 40 of them are in the daemon
BODY: Final = 245_000  # bytes: four take 93 % of the smallest memory budget, and six do not fit
BACKLOG: Final = 1050  # jobs; an alert counts from 1000 on
DENIED: Final = f"http://denied.example/{'x' * 2000}"  # its jobs fail, and their lines are long
LATE: Final = 90  # seconds; an alert counts from 60 on
STOP: Final = 0.7  # seconds without a processor; an alert counts from 0.25 on
SMALL: Final = {
    "concurrency": SLOTS,
    "broker__prefetch": SLOTS,
    "fetch__memory_budget": 1024 * 1024,
    "fetch__download_timeout": 120,
    "fetch__deny_hosts": ["denied.example"],
}


class Watched:
    """Daemons at one address, one after the other, and the Prometheus that scrapes them."""

    def __init__(
        self, folder: Path, broker_url: str, prefix: str, env: dict[str, str], **settings: Any
    ) -> None:
        self.file = folder / "config.toml"
        self.file.write_text("")
        listen = f"127.0.0.1:{free_port()}"
        self.prometheus = Prometheus(folder, listen)
        self._broker = broker_url, prefix
        self._env = {"SCRAPERD_CONFIG": str(self.file), **env}
        self._settings = {"metrics__listen": listen, **settings}

    def daemon(self) -> Daemon:
        """A daemon that has begun to start."""
        return Daemon(*self._broker, self._env, **self._settings)

    def in_health(self) -> None:
        """Wait until the queues are counted and no alert fires."""
        until(lambda: bool(self.prometheus.query('scraperd_queue_ready{queue="dead"} == 0')))
        # On a busy machine the loop lags.
        self.prometheus.wait_for_end(*{rule.alert for rule in rules()} - {"ScraperdLoopLags"})


@pytest.fixture
def watched(tmp_path: Path, broker_url: str, prefix: str) -> Watching:
    """What starts a daemon with the given settings, and gives it in health."""

    @contextlib.contextmanager
    def watching(
        env: dict[str, str] | None = None, **settings: Any
    ) -> Iterator[tuple[Watched, Daemon, Prometheus]]:
        it = Watched(tmp_path, broker_url, prefix, env or {}, **settings)
        with it.daemon().ready() as daemon, it.prometheus as prometheus:
            it.in_health()
            yield it, daemon, prometheus

    return watching


def test_none_is_left_out() -> None:
    """The tests of this file fire all alerts that there are."""
    assert {rule.alert for rule in rules()} == BLOCKED | AWAY | BUSY | CALLED


def test_a_bad_reload_a_dead_letter_and_a_broker_that_blocks(
    watched: Watching, node: Node, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """The file is invalid, a message is no job, and the broker has an alarm while a job is ready:
    each alert fires, and ends with its cause.
    """
    one = {"concurrency": 1, "broker__prefetch": 1}
    with watched(**one) as (its, daemon, prometheus):
        its.file.write_text("wrong = 1\n")
        daemon.send_signal(signal.SIGHUP)
        prometheus.wait_for("ScraperdReloadFailed")
        its.file.write_text("")
        daemon.send_signal(signal.SIGHUP)
        prometheus.wait_for_end("ScraperdReloadFailed")
        dispatcher.publish(b"no job", message_id="bad")
        prometheus.wait_for("ScraperdDeadLetters")
        assert prometheus.firing & BLOCKED <= {"ScraperdDeadLetters"}
        dispatcher.publish({"url": hostel.url("/hold/1"), "id": "held"})
        dispatcher.publish({"url": hostel.url("/page/1"), "id": "ready"})
        hostel.wait_for(lambda hits: hits["/hold/1"] == 1)
        node.alarm_memory()
        try:
            hostel.release()  # its result is what the broker does not take
            prometheus.wait_for(
                "ScraperdBrokerBlocked", "ScraperdNotReady", "ScraperdNothingConsumes"
            )
        finally:
            node.clear_alarms()
        prometheus.wait_for_end(*BLOCKED)
        assert daemon.drain() == 0


def test_no_broker_no_daemon_and_jobs_that_came_back(
    watched: Watching, node: Node, prefix: str, hostel: Hostel
) -> None:
    """The broker stops, and later the daemon is killed: two alerts. Its jobs come back to the next
    daemon, and wait in quarantine as long as the first of them runs: the third.
    """
    ten = {"concurrency": 10}  # so one job of the quarantine runs at a time
    with watched(**ten) as (its, daemon, prometheus):
        node.stop_app()
        prometheus.wait_for("ScraperdNotReady")
        assert "ScraperdQuarantineNotEmpty" not in prometheus.firing
        node.start_app()
        prometheus.wait_for_end("ScraperdNotReady")
        with pika.BlockingConnection(pika.URLParameters(node.url)) as connection:
            urls = [hostel.url(f"/hold/{n}") for n in range(3)]
            Dispatcher(connection.channel(), prefix).publish_many(urls)
        hostel.wait_for(lambda hits: hits.total() == len(urls))
        daemon.kill()
        prometheus.wait_for("ScraperdDown")
        with its.daemon().ready() as again:
            prometheus.wait_for_end("ScraperdDown")
            prometheus.wait_for("ScraperdQuarantineNotEmpty")
            hostel.release()
            prometheus.wait_for_end(*AWAY)
            assert again.drain() == 0


def test_slow_sites_and_a_slow_machine(
    watched: Watching, tmp_path: Path, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """Pages drip, so the budget is used and the queue grows. Then they end, the jobs behind them
    fail, a retried one among them is late, and nobody reads the log. Last, the machine is slow.

    The clock jumps by 90 s, as if the retried job had waited for so long.
    """
    clock = Clock(tmp_path)
    with watched(clock.env, **SMALL) as (_, daemon, prometheus):
        dispatcher.publish({"url": DENIED, "id": "first"})
        # The others may fail within one scrape, and a counter does not rise to its first value.
        until(lambda: bool(prometheus.query('scraperd_jobs_total{outcome="failed"}')))
        crowd(dispatcher, hostel)
        prometheus.wait_for("ScraperdQueueGrows", "ScraperdMemoryBudgetUsed")
        assert prometheus.query("scraperd_memory_budget_waiting > 0")
        clock.jump(LATE)
        with daemon.unread():
            hostel.release()
            prometheus.wait_for(
                "ScraperdJobsFail", "ScraperdLogLinesLost", "ScraperdDelayedJobsLate"
            )
        prometheus.wait_for_end("ScraperdQueueGrows", "ScraperdMemoryBudgetUsed")
        until(lambda: "ScraperdLoopLags" in stopped_once(daemon, prometheus))
        prometheus.wait_for_end(*BUSY)
        assert daemon.drain() == 0


@pytest.mark.usefixtures("callback_queues")
def test_callbacks_that_wait_and_die(
    watched: Watching, tmp_path: Path, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """A receiver does not answer, so callbacks wait. Then it wants no more of them, so they die.
    None of that disturbs the jobs.
    """
    secrets = tmp_path / "secrets"
    secrets.write_text(SECRET)
    with Receiver() as receiver:
        receiver.status = 410
        receiver.held.clear()
        with watched(
            callbacks__secrets_file=str(secrets),
            callbacks__timeout=300,
            callbacks__per_host_concurrency=20,  # or they come back for half a minute
            callback_endpoints={"billing": {"url": receiver.url}},
        ) as (_, daemon, prometheus):
            urls = [hostel.url(f"/page/{n}") for n in range(CALLBACKS)]
            dispatcher.publish_many(urls, callback="billing")
            dispatcher.results(CALLBACKS)
            prometheus.wait_for("ScraperdCallbacksWait")
            assert "ScraperdDeadCallbacks" not in prometheus.firing
            receiver.held.set()
            prometheus.wait_for("ScraperdDeadCallbacks")
            receiver.until(CALLBACKS)
            prometheus.wait_for_end(*CALLED)
            assert daemon.drain() == 0


def crowd(dispatcher: Dispatcher, hostel: Hostel) -> None:
    """Publish a job that is retried, pages that drip and take all slots before it comes back, and
    jobs that will fail. The queue hands them out in this order.
    """
    fast = Dispatcher(dispatcher.channel.connection.channel(), dispatcher.prefix)  # no confirms
    fast.publish({"url": hostel.url("/flaky/1/1"), "id": "late"})
    fast.publish_many([hostel.url(f"/drip/{BODY}/{n}") for n in range(SLOTS)])
    fast.publish_many([f"{DENIED}/{n}" for n in range(BACKLOG)])


def stopped_once(daemon: Daemon, prometheus: Prometheus) -> set[str]:
    """Take the processor from the daemon for a while. Return what fires then."""
    daemon.send_signal(signal.SIGSTOP)
    time.sleep(STOP)
    daemon.send_signal(signal.SIGCONT)
    return prometheus.firing
