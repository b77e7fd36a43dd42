"""Two tenants of one daemon: what the jobs of one do to the pages of the other.

May touch: a private broker, sites in threads, the daemon as a subprocess.
Must never: judge by seconds; it counts, and reads what came back.
"""

from __future__ import annotations

from typing import Any

from tests.rig.daemon import Daemon, Dispatcher
from tests.rig.sites.hostel import Hostel

INNER = "GET /page/evil HTTP/1.1\r\nHost: site\r\nX-Rest: "


def test_a_body_that_a_site_does_not_read_is_nobody_else_s_request(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """A site that leaves a request's body unread takes it for the next request of the connection,
    and what it answers for the answer to the next job's: so no other job gets that connection.
    """
    hostile: dict[str, Any] = {"url": hostel.url("/page/hostile"), "body": INNER}
    with Daemon(broker_url, prefix, concurrency=1).ready() as daemon:
        for number in range(5):
            dispatcher.publish({**hostile, "id": f"hostile-{number}"})
            dispatcher.publish(
                {
                    "url": hostel.url(f"/page/{number}"),
                    "id": f"honest-{number}",
                    "extract": {"title": "title"},
                    "cookies": {"session": "secret"},
                }
            )
        ends = {result["id"]: result for result in dispatcher.results(10)}
        assert daemon.drain() == 0
    for number in range(5):
        assert ends[f"honest-{number}"]["data"] == {"title": f"/page/{number}"}
    assert hostel.hits["/page/evil"] == 0


def test_a_pause_that_one_port_asks_for_is_not_the_host_s(
    broker_url: str, prefix: str, dispatcher: Dispatcher
) -> None:
    """A service of the attacker's on another port of the victim's host asks to be left alone for a
    quarter of an hour: only jobs for that port wait.
    """
    with Hostel("127.0.0.2") as hostile, Hostel("127.0.0.2") as victim:
        with Daemon(broker_url, prefix, politeness__autothrottle=True).ready() as daemon:
            dispatcher.publish({"url": hostile.url("/busy/900/a"), "id": "busy"})
            daemon.wait_for_line('"verdict":"retry"')
            dispatcher.publish({"url": hostile.url("/page/1"), "id": "snoozed"})
            dispatcher.publish_many([victim.url(f"/page/{number}") for number in range(20)])
            ends = dispatcher.results(20)
            assert daemon.drain() == 0
        assert {result["status"] for result in ends} == {"ok"}
        assert hostile.hits.total() == 1
    assert not {"busy", "snoozed"} & {result["id"] for result in ends}
    assert not any(line.get("snoozes") for line in daemon.logged("job"))


def test_pages_that_take_long_leave_room_for_others(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """Thrice as many pages as may be in flight, each of which takes a minute: those that would wait
    for the others are snoozed, so jobs that come after them are taken and done.
    """
    settings = {"concurrency": 10, "sandbox__timeout": 60, "log__level": "debug"}
    with Hostel("127.0.0.2") as victim:
        with Daemon(broker_url, prefix, **settings).ready() as daemon:
            for number in range(60):
                rules = {f"r{number}": "x b b b"}
                dispatcher.publish({"url": hostel.url("/deep/12000"), "extract": rules})
            urls = [victim.url(f"/page/{number}") for number in range(30)]
            dispatcher.publish_many(urls, extract={"title": "title"})
            ends = dispatcher.results(30)
            daemon.kill()  # a drain would wait for what takes a minute
        assert [result["status"] for result in ends] == ["ok"] * 30
        snoozed = [line for line in daemon.logged("job") if line["verdict"] == "snooze"]
        assert {line["attempt"] for line in snoozed} == {1}
        assert {line["url"] for line in snoozed} == {hostel.url("/deep/12000")}
