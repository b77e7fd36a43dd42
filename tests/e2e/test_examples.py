"""The example dispatcher does what it says, with a real daemon and broker.

May touch: examples/dispatcher.py, run as a user runs it.
Must never: import the daemon.
"""

from __future__ import annotations

import contextlib
import sqlite3
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.rig.brokers.users import User
from tests.rig.daemon import Daemon, until
from tests.rig.process import Process

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.brokers.node import Node
    from tests.rig.daemon import Dispatcher
    from tests.rig.sites.hostel import Hostel

DISPATCHER = Path(__file__).parents[2] / "examples" / "dispatcher.py"


@pytest.fixture
def mine(dispatcher: Dispatcher, prefix: str) -> Iterator[str]:
    """The example's queue, made before it starts, and removed after it."""
    name = f"{prefix}.reply.dispatcher"
    dispatcher.channel.queue_declare(name, durable=True, arguments={"x-queue-type": "quorum"})
    yield name
    dispatcher.channel.queue_delete(name)


def asked(file: Path) -> int:
    """How many jobs the example has noted in its file."""
    if not file.exists():
        return 0
    with contextlib.closing(sqlite3.connect(file)) as known:
        found = known.execute("select name from sqlite_master").fetchall()
        return known.execute("select count(*) from jobs").fetchone()[0] if found else 0


def run(url: str, urls: list[str], prefix: str, file: Path) -> Process:
    """The example with these pages, as its command line starts it, in a process of its own."""
    call = f"dispatcher.dispatch({url!r}, {urls!r}, {prefix!r}, {str(file)!r})"
    return Process([sys.executable, "-c", f"import dispatcher; {call}"], cwd=DISPATCHER.parent)


def test_the_dispatcher_matches_results_by_id(  # noqa: PLR0917 - fixtures
    node: Node,
    broker_url: str,
    prefix: str,
    dispatcher: Dispatcher,
    hostel: Hostel,
    mine: str,
    tmp_path: Path,
) -> None:
    """Each URL comes back once, ok or failed. Another's result lies in its queue, and still does
    afterwards. Its user may do no more than the documents say.
    """
    replies = rf"^{prefix}\.reply\."
    user = User.add(node, prefix)
    user.permit(replies, rf"^{prefix}\.jobs$", replies)
    urls = [hostel.url("/page/1"), hostel.url("/page/2"), hostel.url("/status/404")]
    with Daemon(broker_url, prefix).ready():
        dispatcher.publish({"url": urls[0], "id": "another's"}, reply_to=mine)
        until(lambda: dispatcher.depth("reply.dispatcher") == 1)
        with run(user.url, urls, prefix, tmp_path / "db") as example:
            assert example.wait() == 0, example.stderr
    lines = sorted(example.stdout.splitlines())
    assert [line.split()[0] for line in lines] == ["failed", "ok", "ok"]
    assert lines[0].endswith("http_status: the site answered 404")
    assert lines[1].endswith("/page/1")
    assert example.stderr == "not ours: another's"
    until(lambda: dispatcher.depth("reply.dispatcher") == 1)
    assert dispatcher.depth("results") == 0


def test_the_dispatcher_goes_on_after_a_crash(
    broker_url: str, prefix: str, hostel: Hostel, mine: str, tmp_path: Path
) -> None:
    """Killed at several moments, and started again without pages, it has a result of each page.

    Each time it is killed a little later: before it has a file, before it publishes, while it
    waits for results, and while it uses them.
    """
    assert mine
    file, urls = tmp_path / "db", [hostel.url(f"/page/{number}") for number in range(20)]
    with Daemon(broker_url, prefix).ready():
        for moment in range(12):
            with run(broker_url, [] if asked(file) else urls, prefix, file) as example:
                time.sleep(0.05 * moment)  # the moment of the crash, and not a wait for anything
                example.kill()
        with run(broker_url, [] if asked(file) else urls, prefix, file) as last:
            assert last.wait() == 0, last.stderr
    rows = sqlite3.connect(file).execute("select url, run, result from jobs").fetchall()
    assert sorted(url for url, _, _ in rows) == sorted(urls)
    assert all(number == 1 and result for _, number, result in rows)


def test_the_dispatcher_is_short() -> None:
    """It stays something to copy, not a framework."""
    assert len(DISPATCHER.read_text().splitlines()) <= 100
