"""Two tenants of one daemon: what the jobs of one do to the pages of the other.

May touch: a private broker, sites in threads, the daemon as a subprocess.
Must never: judge by seconds; it counts, and reads what came back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.rig.daemon import Daemon, Dispatcher

if TYPE_CHECKING:
    from tests.rig.hostel import Hostel

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
