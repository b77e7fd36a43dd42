"""What limits the daemon, provoked one by one: the metric and the status line say so.

May touch: a private broker, a site in a thread, the daemon as a subprocess.
Must never: sleep for luck; each wait is for something that is seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from scraperd.bottleneck import LIMITS
from tests.metrics.test_metrics import Observed
from tests.rig.daemon import Daemon, Dispatcher, until
from tests.rig.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.rig.brokers.node import Node
    from tests.rig.sites.hostel import Hostel


def no_jobs(_dispatcher: Dispatcher, _hostel: Hostel) -> None:
    """Nothing is published."""


def held(count: int) -> Callable[[Dispatcher, Hostel], None]:
    """So many pages that do not end."""

    def publish(dispatcher: Dispatcher, hostel: Hostel) -> None:
        dispatcher.publish_many([hostel.url(f"/hold/{n}") for n in range(count)])

    return publish


@pytest.mark.parametrize(
    ("by", "provoke", "settings"),
    [
        ("empty", no_jobs, {}),
        ("concurrency", held(10), {"concurrency": 3}),
        ("hosts", held(10), {"concurrency": 30, "politeness__per_host_concurrency": 1,
                            "politeness__snooze_after": 60}),
        ("nothing", held(5), {"concurrency": 30}),
    ],
)  # fmt: skip
def test_it_says_what_limits_it(  # noqa: PLR0917 - fixtures, and a case
    broker_url: str,
    prefix: str,
    dispatcher: Dispatcher,
    hostel: Hostel,
    by: str,
    provoke: Callable[[Dispatcher, Hostel], None],
    settings: dict[str, Any],
) -> None:
    """Two seconds of it are counted, and no other grows meanwhile."""
    port = free_port()
    settings = {**settings, "metrics__listen": f"127.0.0.1:{port}"}
    with Daemon(broker_url, prefix, **settings).ready() as daemon:
        observed = Observed(daemon, port)
        provoke(dispatcher, hostel)
        begun = seconds(observed)
        until(lambda: seconds(observed)[by] > begun[by] + 1, f"not limited by {by}")
        before = seconds(observed)
        until(lambda: seconds(observed)[by] > before[by] + 2, f"not limited by {by}")
        grown = {it for it in LIMITS if seconds(observed)[it] > before[it]}
        assert grown == {by}
        hostel.release()
        assert daemon.drain() == 0


def seconds(observed: Observed) -> dict[str, float]:
    """The time by what held it back."""
    values = observed.values()
    return {by: values[f'scraperd_limited_seconds_total{{by="{by}"}}'] for by in LIMITS}


def test_a_broker_that_is_away_limits(node: Node, prefix: str, broker_url: str) -> None:
    """While there is no consumer the time counts as the broker's."""
    port = free_port()
    listen = {"metrics__listen": f"127.0.0.1:{port}"}
    with Daemon(broker_url, prefix, **listen).ready() as daemon:
        observed = Observed(daemon, port)
        node.stop_app()
        until(lambda: seconds(observed)["broker"] > 1)
        node.start_app()
        until(lambda: observed.get("/readyz")[0] == 200)
        assert daemon.drain() == 0


def test_results_that_no_queue_takes_limit(
    node: Node, prefix: str, broker_url: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """Most jobs wait for a confirm, because the results queue is full."""
    port, name = free_port(), f"{prefix}-full"
    node.policy(name, f"^{prefix}.results$", max_length=1, overflow="reject-publish")
    with Daemon(broker_url, prefix, metrics__listen=f"127.0.0.1:{port}").ready() as daemon:
        observed = Observed(daemon, port)
        dispatcher.publish_many([hostel.url(f"/page/{n}") for n in range(20)])
        until(lambda: seconds(observed)["confirms"] > 1)
        node.clear_policy(name)
        assert len(dispatcher.results(20)) == 20
        assert daemon.drain() == 0


def test_the_document_explains_each() -> None:
    """Each has a row in docs/operations/metrics.md, in the order in which they are looked for."""
    from pathlib import Path

    page = (Path(__file__).parents[2] / "docs/operations/metrics.md").read_text()
    table = page.partition("## What limits it")[2]
    rows = [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines()[8:]]
    assert [row for row in rows if row in LIMITS] == list(LIMITS)
