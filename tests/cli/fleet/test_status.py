"""`scraperd status`, `host` and their sheets, as a user types them, beside real daemons.

May touch: the private broker, the commands, real daemons.
Must never: know how the commands ask.
"""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

from tests.rig.daemon import Daemon, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Command
    from tests.rig.daemon import Dispatcher
    from tests.rig.sites.hostel import Hostel


def test_status_shows_the_fleet_and_who_is_silent(
    scraperd: Command, env: dict[str, str], broker_url: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """Two processes and the queues; a frozen one is silent, and one that ended is not there."""
    prefix = dispatcher.prefix

    def status(*args: str) -> tuple[int, str]:
        done = scraperd("status", *args, **env)
        return done.returncode, done.stdout

    assert status()[0] == 1  # no daemon runs
    with Daemon(broker_url, prefix).ready() as one, Daemon(broker_url, prefix).ready() as two:
        until(lambda: status()[0] == 0, "both answer")
        dispatcher.publish_many([hostel.url(f"/page/{n}") for n in range(10)])
        dispatcher.publish({"url": "http://127.0.0.1:1/", "max_retries": 0})
        dispatcher.results(11)
        code, text = status()
        assert code == 0
        assert "2 processes answer, 0 silent" in text
        assert f":{one.pid} " in text
        assert "connect 1" in text
        found = json.loads(status("--json")[1])
        assert sum(it["totals"]["done"] + it["totals"]["dead"] for it in found["processes"]) == 11
        assert found["queues"]["jobs"] == {"ready": 0, "consumers": 2}
        one.send_signal(signal.SIGSTOP)
        code, text = status()
        one.send_signal(signal.SIGCONT)
        assert code == 1
        assert "1 processes answer, 1 silent" in text
        assert "SILENT: 1" in text
        assert one.drain() == 0
        until(lambda: status()[0] == 0, "one is enough")
        assert [it["pid"] for it in json.loads(status("--json")[1])["processes"]] == [two.pid]


def test_a_reload_is_shown_good_or_bad(  # noqa: PLR0917 - fixtures
    scraperd: Command,
    env: dict[str, str],
    broker_url: str,
    prefix: str,
    dispatcher: Dispatcher,
    tmp_path: Path,
) -> None:
    """A file that is not valid shows with its fault, until a good one was read."""
    assert dispatcher.prefix == prefix
    file = tmp_path / "daemon.toml"
    file.write_text("")
    with Daemon(broker_url, prefix, {"SCRAPERD_CONFIG": str(file)}).ready() as daemon:
        file.write_text("nonsense = 1\n")
        daemon.send_signal(signal.SIGHUP)
        daemon.wait_for_line('"event":"reload_failed"')
        until(lambda: "RELOAD FAILED" in scraperd("status", **env).stdout, "the fault is told")
        assert "nonsense" in scraperd("status", **env).stdout
        file.write_text("")
        daemon.send_signal(signal.SIGHUP)
        daemon.wait_for_line('"event":"reloaded"')
        text = scraperd("status", **env).stdout
        assert "reloaded at" in text
        assert "RELOAD FAILED" not in text


def test_capacity_and_host_answer_for_each_process(
    scraperd: Command, env: dict[str, str], broker_url: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """The sheet counts messages in both directions; a host's delay says where it comes from."""
    slow = {"127.0.0.1": {"per_host_delay": 30}}
    with Daemon(broker_url, dispatcher.prefix, hosts=slow).ready():
        dispatcher.publish_many([hostel.url(f"/page/{n}") for n in range(3)])
        dispatcher.results(1)
        until(lambda: scraperd("status", **env).returncode == 0, "it answers")
        sheet = json.loads(scraperd("status", "--capacity", "--json", **env).stdout)
        assert sheet["consumed"]["rate"] > 0
        assert sheet["consumed"]["mean_bytes"] > 0
        assert sheet["consumers"] == 3
        assert "persistence" in scraperd("status", "--capacity", **env).stdout
        done = scraperd("host", hostel.url("/x"), **env)
        assert "by configuration (per_host_delay)" in done.stdout, done.stdout
        assert done.returncode == 0
        (line,) = scraperd("host", "--json", "127.0.0.1", **env).stdout.splitlines()
        assert json.loads(line)["queue"]["config_delay"] == 30
        assert scraperd("host", "not a host", **env).returncode == 2
