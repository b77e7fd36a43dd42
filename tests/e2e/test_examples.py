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
    from tests.rig.brokers.node import Node
    from tests.rig.daemon import Dispatcher
    from tests.rig.sites.hostel import Hostel

DISPATCHER = Path(__file__).parents[2] / "examples" / "dispatcher.py"


def test_the_dispatcher_matches_results_by_id(
    node: Node, broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """Each URL comes back once, ok or failed, though another's result lies in its queue, which is
    empty afterwards. Its user may do no more than the documents say.
    """
    node.ctl("add_user", prefix, "narrow")
    replies = rf"^{prefix}\.reply\."
    node.ctl("set_permissions", prefix, replies, rf"^{prefix}\.jobs$", replies)
    url = broker_url.replace("guest:guest", f"{prefix}:narrow", 1)
    urls = [hostel.url("/page/1"), hostel.url("/page/2"), hostel.url("/status/404")]
    call = f"import dispatcher; dispatcher.dispatch({url!r}, {urls!r}, {prefix!r})"
    mine = f"{prefix}.reply.dispatcher"
    dispatcher.channel.queue_declare(mine, durable=True, arguments={"x-queue-type": "quorum"})
    with Daemon(broker_url, prefix).ready():
        dispatcher.publish({"url": urls[0], "id": "another's"}, reply_to=mine)
        with Process([sys.executable, "-c", call], cwd=DISPATCHER.parent) as example:
            assert example.wait() == 0, example.stderr
    lines = sorted(example.stdout.splitlines())
    assert [line.split()[0] for line in lines] == ["failed", "ok", "ok"]
    assert lines[0].endswith("http_status: the site answered 404")
    assert lines[1].endswith("/page/1")
    assert dispatcher.depth("reply.dispatcher") == 0
    assert dispatcher.depth("results") == 0
    dispatcher.channel.queue_delete(mine)


def test_the_dispatcher_is_about_fifty_lines() -> None:
    """It stays something to copy, not a framework."""
    assert len(DISPATCHER.read_text().splitlines()) <= 60
