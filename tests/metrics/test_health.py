"""`scraperd health`, as a probe runs it: what it prints, how it ends, how long it takes.

May touch: the command as a subprocess, a private broker, the daemon as a subprocess.
Must never: sleep for luck.
"""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from tests.rig.daemon import Daemon, Dispatcher, environment
from tests.rig.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.sites.hostel import Hostel

HEALTH = [sys.executable, "-m", "scraperd", "health"]


def ask(listen: str, *options: str) -> tuple[int, str]:
    """The exit code, and what it said."""
    env = environment({"metrics__listen": listen})
    argv = [*HEALTH, "--timeout", "20", *options]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, (done.stdout + done.stderr).strip()


def test_it_says_whether_the_daemon_is_ready(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """0 while it consumes; 1 and why while it drains, though it lives; 1 when it is gone."""
    listen = f"127.0.0.1:{free_port()}"
    settings = {"metrics__listen": listen, "jobs__shutdown_timeout": 60}
    with Daemon(broker_url, prefix, **settings).ready() as daemon:
        assert ask(listen) == (0, "ready")
        dispatcher.publish({"url": hostel.url("/hold/1"), "id": "a"})
        hostel.wait_for(lambda hits: len(hits) == 1)
        daemon.terminate()
        daemon.wait_for_line('"event":"drain"')
        assert ask(listen) == (1, "draining")
        assert ask(listen, "--live") == (0, "ok")
        hostel.release()
        assert daemon.wait(30) == 0
    code, said = ask(listen)
    assert (code, said.partition(": ")[2]) == (
        1, f"no daemon answers at {listen} (metrics.listen): [Errno 111] Connection refused"
    )  # fmt: skip


def test_without_a_listener_it_says_what_to_set() -> None:
    """78: no daemon with this configuration can answer."""
    code, said = ask("")
    assert (code, said) == (
        78, "scraperd: metrics.listen is not set, so no daemon answers; set an ADDRESS:PORT"
    )  # fmt: skip


@pytest.fixture
def stranger() -> Iterator[str]:
    """A server of another protocol."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with server.accept()[0] as one:
                one.recv(1024)
                one.sendall(b"220 mail.example ESMTP\r\n")

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_another_server_is_not_taken_for_a_daemon(stranger: str) -> None:
    """What does not speak HTTP is said to be no scraperd."""
    code, said = ask(stranger)
    assert code == 1
    assert said == f"scraperd: what answers at {stranger} (metrics.listen) is no scraperd"


def test_it_is_cheap(broker_url: str, prefix: str) -> None:
    """A probe each second takes less than a tenth of a processor: 0.1 s of CPU at most."""
    listen = f"127.0.0.1:{free_port()}"
    with Daemon(broker_url, prefix, metrics__listen=listen).ready() as daemon:
        ask(listen)  # compiles what is not compiled yet
        used = []
        for _ in range(5):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            assert ask(listen)[0] == 0
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            used.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert min(used) < 0.2, used
        assert daemon.drain() == 0
