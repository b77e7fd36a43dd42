"""Jobs of 5 MB, more of them than the memory budget holds: the daemon's memory stays bounded.

May touch: private nodes of RabbitMQ 3 and 4, a site in a thread, the daemon's figures in /proc.
Must never: sleep for luck; the kernel itself notes the peak.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pika

from tests.rig.daemon import Daemon, Dispatcher

if TYPE_CHECKING:
    from tests.rig.brokers.node import Node
    from tests.rig.sites.hostel import Hostel

LARGE, BODY = 60, 5_000_000  # jobs, and bytes of each
GROWTH = 150  # MiB; it was 277 while bodies waited for the garbage collector


def peak(pid: int) -> int:
    """The most resident memory that a process had, in MiB (proc(5), VmHWM)."""
    status = Path(f"/proc/{pid}/status").read_text()
    (found,) = re.findall(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(found) // 1024


def test_bodies_of_jobs_do_not_pile_up(node: Node, hostel: Hostel, prefix: str) -> None:
    """60 jobs that post 5 MB each, small ones between them: all are done, within 150 MiB."""
    with (
        Daemon(node.url, prefix, jobs__max_size=8 * 2**20).ready() as daemon,
        pika.BlockingConnection(pika.URLParameters(node.url)) as connection,
    ):
        channel = connection.channel()
        channel.confirm_delivery()
        dispatcher, before = Dispatcher(channel, prefix), peak(daemon.pid)
        for n in range(LARGE):
            job = {"url": hostel.url(f"/page/large{n}"), "method": "POST", "body": "x" * BODY}
            dispatcher.publish(json.dumps({**job, "id": f"large{n}"}).encode())
            dispatcher.publish({"url": hostel.url(f"/page/small{n}"), "id": f"small{n}"})
        results = dispatcher.results(2 * LARGE, timeout=120)
        assert [result for result in results if result["status"] != "ok"] == []
        assert len({result["id"] for result in results}) == 2 * LARGE
        assert peak(daemon.pid) - before < GROWTH
        assert daemon.drain() == 0
