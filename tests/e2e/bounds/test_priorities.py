"""The priority of a job: obeyed by RabbitMQ 4, and by 3 ignored, which is said.

May touch: nodes of its own; the daemon and `scraperd check` as children.
Must never: count on the exact order that the broker mixes priorities in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.rig.daemon import Daemon, until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from tests.rig.brokers.node import Node
    from tests.rig.daemon import Dispatcher
    from tests.rig.sites.hostel import Hostel

    Command = Callable[..., subprocess.CompletedProcess[str]]

ONE_BY_ONE = {"concurrency": 1, "broker__prefetch": 1}
REFUSED = "http://127.0.0.1:9/"


def test_jobs_of_a_high_priority_go_first_or_it_is_said_that_they_do_not(
    node: Node, broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """Five urgent jobs behind thirty others: RabbitMQ 4 gives out two urgent ones for each other
    one. RabbitMQ 3 keeps the order, and the log says it once.
    """
    with Daemon(broker_url, prefix, **ONE_BY_ONE).ready() as daemon:
        assert daemon.drain() == 0
    dispatcher.publish_many([hostel.url("/page/1")] * 30)
    urgent = {f"urgent {number}" for number in range(5)}
    for ident in sorted(urgent):
        dispatcher.publish({"url": hostel.url("/page/2"), "id": ident}, priority=9)
    with Daemon(broker_url, prefix, **ONE_BY_ONE).ready() as daemon:
        order = [result["id"] for result in dispatcher.results(35)]
        assert daemon.drain() == 0
    said = daemon.logged("priority_ignored")
    if node.release == "3":
        assert set(order[30:]) == urgent
        assert len(said) == 1
        assert "RabbitMQ 3.10.8 ignores the property `priority`" in said[0]["error"]
    else:
        assert urgent <= set(order[:10])
        assert not said


def test_a_job_keeps_its_priority_through_delays(
    broker_url: str, prefix: str, dispatcher: Dispatcher
) -> None:
    """Two retries, and the dead letter still has it."""
    with Daemon(broker_url, prefix, jobs__max_retries=2).ready() as daemon:
        dispatcher.publish({"url": REFUSED, "id": "a"}, priority=7)
        until(lambda: dispatcher.depth("dead") == 1)
        letter, _ = dispatcher.take("dead")
        assert daemon.drain() == 0
    assert letter.priority == 7


def test_check_says_whether_priorities_are_ignored(
    node: Node, scraperd: Command, env: dict[str, str]
) -> None:
    """One line on RabbitMQ 3, none on RabbitMQ 4."""
    said = scraperd("check", **env).stdout
    assert ("priorities: RabbitMQ 3" in said) is (node.release == "3")
