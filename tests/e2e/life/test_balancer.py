"""The daemon and the commands behind a load balancer that has no broker to lead to.

May touch: a private HAProxy in front of the shared private node, under a prefix of the test's own.
Must never: wait for luck; the balancer is told when it may let connections through.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from yarl import URL

from tests.rig.brokers.balancer import Balancer
from tests.rig.daemon import Daemon, environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.rig.daemon import Dispatcher
    from tests.rig.sites.hostel import Hostel

COMMANDS = ["check", "results --count 1", "publish http://a.example/", "dead list"]


@pytest.fixture
def balancer(broker_url: str, tmp_path: Path) -> Iterator[Balancer]:
    port = URL(broker_url).port
    assert port
    with Balancer(port, tmp_path) as balancer:
        yield balancer


def through(balancer: Balancer, broker_url: str) -> str:
    return str(URL(broker_url).with_port(balancer.port))


def test_the_daemon_waits_behind_a_balancer_without_a_broker(
    broker_url: str, prefix: str, dispatcher: Dispatcher, balancer: Balancer, hostel: Hostel
) -> None:
    """Each connection is accepted and closed: the broker is away. When the balancer has one, the
    daemon consumes, and a job is done.
    """
    with Daemon(through(balancer, broker_url), prefix) as daemon:
        daemon.wait_for_line('"event":"broker_unreachable"')
        [line] = daemon.logged("broker_unreachable")
        assert "the broker cut the connection" in line["error"]
        balancer.enable()
        daemon.ready()
        dispatcher.publish({"url": hostel.url("/page")})
        assert dispatcher.results(1)
        assert daemon.drain() == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_says_that_no_broker_is_behind_the_balancer(
    command: str, broker_url: str, prefix: str, balancer: Balancer
) -> None:
    """One line and exit code 1, as for any broker that is away."""
    url = through(balancer, broker_url)
    done = subprocess.run(
        [sys.executable, "-m", "scraperd", *command.split()],
        env=environment({"broker_url": url, "broker__prefix": prefix}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    last = done.stderr.splitlines()[-1]
    assert (done.returncode, "no broker at amqp://127.0.0.1" in last) == (1, True), done.stderr
    assert "the broker cut the connection" in last
