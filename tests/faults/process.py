"""One daemon under watch: the launcher as a child, with systemd's end of its socket.

May touch: the child process it starts; /proc of it.
Must never: restart it by itself (a row says when, as systemd would).
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.faults.launcher import TASKS
from tests.faults.probes import Ear, Probe, Told, probe
from tests.rig.daemon import LOOPBACK, variables
from tests.rig.process import Process

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.rig.brokers.node import Node

QUICK = {
    "jobs__retry_backoff": 0.1,
    "jobs__retry_backoff_max": 1,
    "broker__reconnect_min": 0.1,
    "broker__reconnect_max": 2,
    "log__format": "json",
    # The oracle counts the lines of jobs, and a row fills a pipe with long URLs.
    "log__failure_lines": 100_000,
    "log__urls": "full",
}
BEAT = 0.2  # seconds between two things it tells systemd
_LOGS = {
    "full": 'exec "$@" > /dev/full',
    "stalled": 'pipe=$(mktemp -u); mkfifo "$pipe"; exec 9<> "$pipe"; rm "$pipe"; exec "$@" >&9',
}
_LAUNCHER = [sys.executable, "-m", "tests.faults.launcher"]


class Daemon(Process):
    """A daemon with its hooks. `log` is "full", a full disk, or "stalled", a pipe nobody reads."""

    def __init__(
        self,
        urls: Sequence[str],
        prefix: str,
        *,
        hooks: dict[str, str] | None = None,
        log: str = "",
        **settings: Any,
    ) -> None:
        self.ear = Ear()
        broker = urls[0] if len(urls) == 1 else list(urls)
        values = {**LOOPBACK, **QUICK, **settings, "broker_url": broker, "broker__prefix": prefix}
        told = {"NOTIFY_SOCKET": self.ear.address, "WATCHDOG_USEC": str(int(BEAT * 2e6))}
        argv = ["sh", "-c", _LOGS[log], "sh", *_LAUNCHER] if log else _LAUNCHER
        super().__init__(argv, env={**variables(values), **told, **(hooks or {})})
        self.mute = bool(log)
        self.expected: int | None = None  # the exit code that the row wants; 0 at the end

    def ready(self, timeout: float = 60) -> None:
        """Wait until systemd was told READY=1."""
        told = self.ear.wait(lambda told: "READY" in told.fields, timeout)
        assert told, f"no daemon is ready after {timeout:g} s; its log:\n{self.tail()}"

    def consuming(self, timeout: float = 60) -> None:
        """Wait until it says from now on that it consumes."""
        start = len(self.ear.told)
        says = self.ear.wait(lambda told: told.status.startswith("consuming"), timeout, start=start)
        assert says, f"it does not consume again after {timeout:g} s; its log:\n{self.tail()}"

    def says(self, text: str, timeout: float = 30) -> None:
        """Wait until its status line says this, from now on."""
        start = len(self.ear.told)
        told = self.ear.wait(lambda told: text in told.status, timeout, start=start)
        last = self.statuses[-1:]
        assert told, f"the status never says {text!r} within {timeout:g} s but {last}"

    def probe(self, site_port: int, node: Node) -> Probe:
        """What it holds now, by its next beat and by its broker."""
        start = len(self.ear.told)
        told = self.ear.wait(lambda told: TASKS in told.fields, 10, start=start)
        assert told, f"it told systemd nothing for 10 s; its log:\n{self.tail()}"
        channels = sum(count for _, count in node.connections(f":{self.pid}"))
        return probe(self.pid, told, site_port, channels)

    @property
    def peak(self) -> float:
        """The most memory it had at any time, in MiB (VmHWM, proc(5))."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024

    def logged(self) -> list[dict[str, Any]]:
        """Every line of its log so far that is whole."""
        found = []
        for line in self.lines:
            if line.stream == "stdout" and line.text.startswith("{"):
                with contextlib.suppress(ValueError):  # cut by a kill
                    found.append(json.loads(line.text))
        return found

    @property
    def statuses(self) -> list[Told]:
        """Each status line, when it was told."""
        return [told for told in self.ear.told if told.status]

    def killed(self) -> None:
        """Kill -9, and wait."""
        self.expected = -signal.SIGKILL
        self.kill()

    def ended(self, expected: int = 0, timeout: float = 60) -> None:
        """SIGTERM, and wait for this exit code."""
        self.expected = expected
        self.terminate()
        self.wait(timeout)

    def close(self) -> None:
        super().close()
        self.ear.close()
