"""Turns, robots, the guard and proxies through the real daemon: who is fetched when, and who waits.

May touch: a private broker, sites in threads, proxies of other people's making, the daemon.
Must never: sleep for luck; each wait is for something that is seen.
"""

from __future__ import annotations

import itertools
import json
import socket
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from scraperd.broker.rabbitmq.topology import DELAYS
from tests.rig.brokers.wire import Wire, settling
from tests.rig.daemon import Daemon, Dispatcher, until
from tests.rig.ports import free_port
from tests.rig.sites.hostel import Hostel
from tests.rig.sites.proxies import RealProxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.rig.brokers.node import Node

NOISE = 0.05  # seconds a request may take from its start to where the site's clock is read


class Ended(NamedTuple):
    """A result as it came, and how often its job had been snoozed."""

    result: dict[str, Any]
    snoozes: int

    @property
    def kind(self) -> str:
        """The failure's, or none."""
        error = self.result.get("error", {})
        return str(error.get("kind", ""))


@pytest.fixture
def other() -> Iterator[Hostel]:
    """A site on another host than `hostel`."""
    with Hostel("127.0.0.2") as site:
        yield site


def ends(dispatcher: Dispatcher, count: int, timeout: float = 60) -> dict[str, Ended]:
    """The next `count` results by the ids of their jobs; none comes twice."""
    found: dict[str, Ended] = {}
    for properties, body in dispatcher.stream("results", timeout):
        result = json.loads(body)
        assert result["id"] not in found
        found[result["id"]] = Ended(result, properties.headers.get("x-scraperd-snoozes", 0))
        if len(found) == count:
            return found
    raise AssertionError(f"{len(found)} of {count} results within {timeout} s")


def snoozed(dispatcher: Dispatcher) -> int:
    """Jobs in the delay queues."""
    return sum(dispatcher.depth(f"delay.{tier}") for tier in DELAYS)


def gaps(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(times)]


def nothing_left(dispatcher: Dispatcher) -> bool:
    return snoozed(dispatcher) == dispatcher.depth("jobs") == dispatcher.depth("results") == 0


def test_a_delay_is_kept_by_snoozing(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """Jobs whose turn is far off wait in delay queues, come back and end well, once each and in
    their first attempt; the site sees them half a delay apart at least.
    """
    with Daemon(
        broker_url, prefix, politeness__per_host_delay=0.3, politeness__snooze_after=0.4
    ).ready() as daemon:
        idents = dispatcher.publish_many([hostel.url(f"/page/{n}") for n in range(15)])
        until(lambda: snoozed(dispatcher) > 5)
        found = ends(dispatcher, 15)
        assert daemon.drain() == 0
    assert sorted(found) == sorted(idents)
    assert {(end.result["status"], end.result["attempt"]) for end in found.values()} == {("ok", 1)}
    assert sum(end.snoozes > 0 for end in found.values()) > 5
    assert max(end.snoozes for end in found.values()) < 10
    assert set(hostel.hits.values()) == {1}
    apart = gaps(hostel.times())
    assert min(apart) >= 0.15 - NOISE
    assert sum(apart) / len(apart) < 1
    assert nothing_left(dispatcher)


def test_a_host_that_hangs_holds_nobody_else_up(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel, other: Hostel
) -> None:
    """Behind 200 jobs of a host whose pages hang, the jobs of another host are done meanwhile;
    the first host sees no more at once than it may.
    """
    with Daemon(broker_url, prefix, politeness__per_host_concurrency=2, concurrency=20).ready():
        dispatcher.publish_many([hostel.url(f"/hold/{n}") for n in range(200)])
        idents = dispatcher.publish_many([other.url(f"/page/{n}") for n in range(20)])
        found = ends(dispatcher, 20)
        assert sorted(found) == sorted(idents)
        assert hostel.hits.total() == 2
        hostel.release()
        hostel.wait_for(lambda hits: hits.total() > 20)


def test_a_host_that_falls_silent_holds_nobody_else_up(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel, other: Hostel
) -> None:
    """The same of one that answered at once before: its line seemed too fast to be left."""
    with Daemon(
        broker_url,
        prefix,
        politeness__per_host_concurrency=4,
        concurrency=20,
        politeness__autothrottle=True,
    ).ready():
        dispatcher.publish_many([hostel.url(f"/page/{n}") for n in range(10)])
        ends(dispatcher, 10)
        dispatcher.publish_many([hostel.url(f"/hold/{n}") for n in range(200)])
        idents = dispatcher.publish_many([other.url(f"/page/{n}") for n in range(20)])
        assert sorted(ends(dispatcher, 20)) == sorted(idents)
        assert hostel.hits.total() == 14
        hostel.release()


def test_a_retry_after_holds_the_whole_host_back(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """After a 429, no job of that host reaches it before the time it named. That spends an
    attempt of the job that was answered so, and of no other.
    """
    with Daemon(
        broker_url, prefix, politeness__per_host_concurrency=1, politeness__snooze_after=0.5
    ).ready() as daemon:
        dispatcher.publish({"url": hostel.url("/busy/2/x"), "id": "busy"})
        dispatcher.publish_many([hostel.url(f"/page/{n}") for n in range(5)])
        daemon.wait_for_line('"verdict":"retry"')
        dispatcher.publish_many([hostel.url(f"/page/{n}") for n in range(5, 10)])
        found = ends(dispatcher, 11)
    first, *others = hostel.times()
    assert len(others) == 11
    assert min(others) - first >= 2 - NOISE
    assert found.pop("busy").result["attempt"] == 2
    assert {(end.result["status"], end.result["attempt"]) for end in found.values()} == {("ok", 1)}
    assert all(end.snoozes > 0 for end in found.values())


def test_sigterm_gives_those_back_who_wait(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """Jobs that wait in the daemon for their host's turn are not waited for: they go back."""
    with Daemon(
        broker_url, prefix, politeness__per_host_delay=8, politeness__snooze_after=60
    ).ready() as daemon:
        idents = dispatcher.publish_many([hostel.url(f"/page/{n}") for n in range(6)])
        first = ends(dispatcher, 1)
        daemon.wait_for_line('"verdict":"done"')  # acked: its result is here a moment before
        until(lambda: dispatcher.depth("jobs") == 0)
        assert daemon.drain() == 0
        assert daemon.logged("drain")[0]["in_flight"] == 5
        assert daemon.logged("drained")[0]["seconds"] < 2
    assert (dispatcher.depth("jobs"), snoozed(dispatcher)) == (5, 0)
    with Daemon(broker_url, prefix).ready():
        rest = ends(dispatcher, 5)
    assert sorted([*first, *rest]) == sorted(idents)
    assert set(hostel.hits.values()) == {1}


def test_sigterm_while_a_robots_txt_hangs(
    broker_url: str, prefix: str, dispatcher: Dispatcher
) -> None:
    """Nor is a robots.txt waited for that nobody sends."""
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        Daemon(
            broker_url, prefix, politeness__robotstxt_obey=True, politeness__snooze_after=60
        ).ready() as daemon,
    ):
        dispatcher.publish({"url": f"http://127.0.0.1:{silent.getsockname()[1]}/", "id": "a"})
        visitor, _ = silent.accept()
        with visitor:
            assert visitor.recv(1024).startswith(b"GET /robots.txt ")
            assert daemon.drain() == 0
        assert daemon.logged("drained")[0]["seconds"] < 2
    assert (dispatcher.depth("jobs"), snoozed(dispatcher)) == (1, 0)


def test_those_who_wait_when_the_broker_is_lost(
    node: Node, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """They leave their places, for they are delivered again: each page is fetched once."""
    with (
        Wire(node.port) as wire,
        Daemon(
            wire.url, prefix, politeness__per_host_delay=0.6, politeness__snooze_after=60
        ).ready() as daemon,
    ):
        idents = dispatcher.publish_many([hostel.url(f"/page/{n}") for n in range(6)])
        found = ends(dispatcher, 1)
        until(lambda: dispatcher.depth("jobs") == 0)
        wire.wait_for(lambda seen: "ack" in settling(seen))
        wire.cut()
        daemon.wait_for_line('"event":"broker_lost"')
        found |= ends(dispatcher, 5)
        assert daemon.drain() == 0
    assert sorted(found) == sorted(idents)
    assert set(hostel.hits.values()) == {1}
    assert min(gaps(hostel.times())) >= 0.3 - NOISE
    assert nothing_left(dispatcher)


def test_snoozed_jobs_outlive_their_daemon(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel, node: Node
) -> None:
    """Killed while jobs wait in delay queues, the daemon has a successor that serves them."""
    with Daemon(
        broker_url, prefix, politeness__per_host_delay=2, politeness__snooze_after=0.1
    ).ready() as daemon:
        idents = dispatcher.publish_many([hostel.url(f"/page/{n}") for n in range(6)])
        first = ends(dispatcher, 1)
        # All are acked, or a kill would bring one back beside the copy that waits.
        until(lambda: snoozed(dispatcher) == 5 and node.counts()[f"{prefix}.jobs"] == (0, 0, 1))
        daemon.kill()
    with Daemon(broker_url, prefix).ready():
        rest = ends(dispatcher, 5)
        until(lambda: nothing_left(dispatcher))
    assert sorted([*first, *rest]) == sorted(idents)
    assert {end.result["attempt"] for end in rest.values()} == {1}
    assert all(end.snoozes == 1 for end in rest.values())


def test_a_job_that_expires_before_its_turn_says_so_then(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """It does not wait out the turn: nobody wants its page any more."""
    with Daemon(broker_url, prefix, politeness__per_host_delay=100).ready():
        dispatcher.publish({"url": hostel.url("/page/1"), "id": "a"})
        assert list(ends(dispatcher, 1)) == ["a"]
        soon = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
        dispatcher.publish({"url": hostel.url("/page/2"), "id": "b", "expires_at": soon})
        end = ends(dispatcher, 1, timeout=10)["b"]
    assert (end.kind, end.result["attempt"], end.snoozes) == ("expired", 1, 1)
    assert hostel.hits == {"/page/1": 1}
    assert nothing_left(dispatcher)


def test_robots_txt_is_obeyed(broker_url: str, prefix: str, dispatcher: Dispatcher) -> None:
    """What it disallows is never asked for, nor tried again; 50 jobs at once ask for it once, and
    its Crawl-delay is kept.
    """
    robots = "User-agent: *\nDisallow: /private\nCrawl-delay: 0.3\n"
    with (
        Hostel(robots=robots) as site,
        Daemon(
            broker_url, prefix, politeness__robotstxt_obey=True, politeness__snooze_after=0.5
        ).ready(),
    ):
        dispatcher.publish_many([site.url(f"/private/{n}") for n in range(50)])
        denied = ends(dispatcher, 50)
        assert site.hits == {"/robots.txt": 1}
        dispatcher.publish_many([site.url(f"/page/{n}") for n in range(8)])
        found = ends(dispatcher, 8)
        assert site.hits["/robots.txt"] == 1
        assert site.times("/private") == []
        assert min(gaps(site.times("/page"))) >= 0.15 - NOISE
    for end in denied.values():
        assert (end.kind, end.result["attempt"]) == ("robots_denied", 1)
        assert "retryable" not in end.result["error"]
    assert {end.result["status"] for end in found.values()} == {"ok"}
    assert dispatcher.depth("dead") == 0


@pytest.mark.parametrize("why", ["delayed", "punished"])
def test_a_redirect_to_a_host_whose_turn_is_far_off(  # noqa: PLR0917 - fixtures
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel, other: Hostel, why: str
) -> None:
    """Another host's delay, or its wish to be left alone, is waited out in a delay queue like any
    job's, and the job ends well when it comes back; its first hop is not fetched for each move.
    """
    hosts = {"127.0.0.2": {"per_host_delay": 3.0 if why == "delayed" else 0.0}}
    before = "/page/0" if why == "delayed" else "/busy/4/x"
    with Daemon(broker_url, prefix, hosts=hosts, politeness__snooze_after=0.2).ready() as daemon:
        dispatcher.publish({"url": other.url(before), "id": "before", "max_retries": 0})
        assert list(ends(dispatcher, 1)) == ["before"]
        dispatcher.publish({"url": hostel.url(f"/to/{other.url('/page/1')}"), "id": "a"})
        end = ends(dispatcher, 1)["a"]
        assert daemon.drain() == 0
    assert (end.result["status"], end.result["attempt"]) == ("ok", 1)
    assert end.snoozes > 0
    assert [hop["url"] for hop in end.result["redirects"]] == [other.url("/page/1")]
    first, last = other.times()
    assert last - first >= (1.5 if why == "delayed" else 4.0) - NOISE
    assert hostel.hits.total() <= 3  # only when the turn is near is the first hop fetched again


def test_a_redirect_within_a_host_whose_turn_is_far_off(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """A job that its host has begun to serve waits out the host's delay here, once."""
    with Daemon(
        broker_url, prefix, politeness__per_host_delay=2.0, politeness__snooze_after=0.2
    ).ready():
        dispatcher.publish({"url": hostel.url(f"/to/{hostel.url('/page/1')}"), "id": "a"})
        end = ends(dispatcher, 1)["a"]
    assert (end.result["status"], end.snoozes) == ("ok", 0)
    first, last = hostel.times()
    assert last - first >= 1.0 - NOISE


def test_no_job_leads_into_our_own_network(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """With the guard as it is by default, loopback is not even connected to, however it is
    spelled; the job fails for good, and is no dead letter.
    """
    port = hostel.url("").rpartition(":")[2]
    hosts = ["127.0.0.1", "localhost", "0x7f.1", "2130706433", "[::ffff:127.0.0.1]", "0.0.0.0"]
    urls = [f"http://{host}:{port}/page/1" for host in hosts]
    with Daemon(broker_url, prefix, fetch__allow_networks=[]).ready() as daemon:
        dispatcher.publish_many(urls)
        found = ends(dispatcher, len(urls))
        assert daemon.drain() == 0
    assert {end.result["url"]: end.kind for end in found.values()} == dict.fromkeys(
        urls, "blocked_address"
    )
    for end in found.values():
        assert end.result["attempt"] == 1
        assert "retryable" not in end.result["error"]
    assert hostel.connections == 0
    assert dispatcher.depth("dead") == 0
    assert nothing_left(dispatcher)


def test_a_redirect_does_not_lead_there_either(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel, other: Hostel
) -> None:
    """A site we may fetch from cannot send us to one that we may not."""
    with Daemon(broker_url, prefix, fetch__allow_networks=["127.0.0.1/32"]).ready():
        dispatcher.publish({"url": hostel.url(f"/to/{other.url('/page/1')}"), "id": "a"})
        assert ends(dispatcher, 1)["a"].kind == "blocked_address"
    assert (hostel.connections, other.connections) == (1, 0)


def test_proxies_are_chosen_by_job_and_by_host(  # noqa: PLR0917 - fixtures
    broker_url: str,
    prefix: str,
    dispatcher: Dispatcher,
    hostel: Hostel,
    other: Hostel,
    tmp_path: Path,
) -> None:
    """A job goes through the proxy that it or its host's pattern names, others go straight; its
    password is in no result and no log.
    """
    with RealProxy("http", tmp_path, auth=True) as proxy:
        settings: dict[str, Any] = {
            "proxies": {"via": proxy.url()},
            "hosts": {"127.0.0.2": {"proxy": "via"}},
        }
        with Daemon(broker_url, prefix, **settings).ready() as daemon:
            dispatcher.publish({"url": hostel.url("/page/named"), "id": "a", "proxy": "via"})
            dispatcher.publish({"url": other.url("/page/pattern"), "id": "b"})
            dispatcher.publish({"url": hostel.url("/page/straight"), "id": "c"})
            found = ends(dispatcher, 3)
            assert daemon.drain() == 0
    passed = (tmp_path / "tinyproxy.log").read_text()
    assert {end.result["status"] for end in found.values()} == {"ok"}
    assert "/page/named" in passed
    assert "/page/pattern" in passed
    assert "/page/straight" not in passed
    assert "hunter2" not in daemon.stdout + daemon.stderr + json.dumps(list(found.values()))


def test_an_unknown_proxy_is_an_invalid_job(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """A job that names a proxy which is not configured is not fetched without one."""
    proxies = {"via": f"http://robot:hunter2@127.0.0.1:{free_port()}"}
    with Daemon(broker_url, prefix, proxies=proxies).ready():
        dispatcher.publish({"url": hostel.url("/page/1"), "id": "a", "proxy": "nowhere"})
        end = ends(dispatcher, 1)["a"]
        properties, _ = dispatcher.take("dead")
    assert (end.kind, end.result["error"]["field"]) == ("invalid_job", "proxy")
    assert properties.headers["x-scraperd-dead-field"] == "proxy"
    assert hostel.connections == 0


def test_two_daemons_share_a_slow_hosts_jobs(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """Jobs that one daemon snoozed come back to either, and are done once in all."""
    slow: dict[str, Any] = {"politeness__per_host_delay": 0.3, "politeness__snooze_after": 0.2}
    with (
        Daemon(broker_url, prefix, **slow, jobs__worker_name="one").ready(),
        Daemon(broker_url, prefix, **slow, jobs__worker_name="two").ready(),
    ):
        idents = dispatcher.publish_many([hostel.url(f"/page/{n}") for n in range(12)])
        found = ends(dispatcher, 12)
        until(lambda: nothing_left(dispatcher))
    assert sorted(found) == sorted(idents)
    assert {(end.result["status"], end.result["attempt"]) for end in found.values()} == {("ok", 1)}
    assert {end.result["worker"] for end in found.values()} == {"one", "two"}
    assert set(hostel.hits.values()) == {1}
