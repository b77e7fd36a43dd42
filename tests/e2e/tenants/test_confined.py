"""The real daemon and its helpers, by what the kernel says of their privileges.

May touch: the daemon as a child, /proc, a private broker and site.
Must never: confine the process that runs the tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.rig.daemon import Daemon
from tests.rig.process import helpers, started

if TYPE_CHECKING:
    from tests.rig.daemon import Dispatcher
    from tests.rig.sites.hostel import Hostel


def test_the_daemon_and_its_helpers_are_confined(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """Neither can gain privileges; a helper is under a filter of system calls and may start no
    process; it still finds what was asked for.
    """
    with Daemon(broker_url, prefix, sandbox__dumpable=False) as daemon:
        daemon.ready()
        dispatcher.publish({"url": hostel.url("/size/600000"), "extract": {"t": "h1"}})
        (result,) = dispatcher.results(1)
        assert result["data"] == {"t": "A page"}
        assert privileges(daemon.pid)["NoNewPrivs"] == "1"
        (nursery,) = started(daemon.pid)
        assert privileges(nursery)["NoNewPrivs"] == "1"
        for helper in helpers(daemon.pid):
            found = privileges(helper)
            assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
            assert limits(helper)["Max file size"] == "0"
            assert {path.name for path in Path(f"/proc/{helper}/fd").iterdir()} == set("0123")
        assert helpers(daemon.pid)
        assert not daemon.logged("helpers_unconfined")
        assert daemon.drain() == 0


def privileges(pid: int) -> dict[str, str]:
    """What /proc says of a process's state."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def limits(pid: int) -> dict[str, str]:
    """The hard limits of a process by their names."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]
    return {line[:26].strip(): line[26:].split()[1] for line in lines}
