"""Rules outlive the broker, on each release of RabbitMQ.

May touch: a private node of each release, daemons and the commands as subprocesses.
Must never: wait for luck.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.rig.daemon import until

if TYPE_CHECKING:
    from tests.e2e.control.conftest import Fleet
    from tests.rig.brokers.node import Node
    from tests.rig.sites.hostel import Hostel

CHANGED = '"event":"rules_changed"'


@pytest.fixture(scope="module")
def node(node_of_each_release: Node) -> Node:
    """A node of each release."""
    return node_of_each_release


def test_a_rule_outlives_the_broker(node: Node, fleet: Fleet, hostel: Hostel) -> None:
    """The broker is killed. A daemon that ran keeps the rule and takes the next; one that starts
    has it before its first job.
    """
    with fleet.daemon().ready() as one:
        fleet.set("pause", "host=127.0.0.1")
        one.wait_for_line(CHANGED)
        node.settle()
        seen = len(one.lines)
        node.kill()
        node.start()
        one.wait_for_line('"event":"ready"', start=seen)
        fleet.publish({"url": hostel.url("/page/1"), "id": "a"})
        until(lambda: bool(one.logged("job")))
        assert one.drain() == 0
    fleet.publish({"url": hostel.url("/page/2"), "id": "b"})
    with fleet.daemon().ready() as two:
        until(lambda: bool(two.logged("job")))
        fleet.set("cancel", "id=c")
        assert set(fleet.rules()) == {"host=127.0.0.1", "id=c"}
        assert not hostel.hits
        assert two.drain() == 0
