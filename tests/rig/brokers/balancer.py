"""A private HAProxy in front of a broker: with no backend it accepts and closes.

May touch: the folder it is given for its own files, a free port on 127.0.0.1, its own child.
Must never: read or write the machine's HAProxy configuration, /var or /etc.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from tests.rig import ports, process
from tests.rig.debs import debs, libraries

if TYPE_CHECKING:
    import subprocess

_DEADLINE: Final = 20.0  # seconds
_CONF: Final = """
global
    stats socket "{here}/control" level admin
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
listen broker
    bind 127.0.0.1:{port}
    server node 127.0.0.1:{behind} disabled
"""


class Balancer:
    """HAProxy at `port`, with one server behind it that is disabled until `enable`."""

    def __init__(self, behind: int, directory: Path) -> None:
        self.port = ports.free_port()
        self._behind = behind
        self._directory = directory.resolve()
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        conf, log = self._directory / "haproxy.cfg", self._directory / "log"
        text = _CONF.format(here=self._directory, port=self.port, behind=self._behind)
        conf.write_text(text)
        binary, libs = _installation()
        with log.open("ab") as output:
            env = {**os.environ, "LD_LIBRARY_PATH": libs}
            self._child = process.spawn([binary, "-db", "-f", conf], env=env, stdout=output)
        deadline = time.monotonic() + _DEADLINE
        while not ports.answers(self.port):
            if self._child.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise RuntimeError(f"HAProxy did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        if self._child is not None:
            process.end(self._child, 5)
        self._child = None

    @property
    def url(self) -> str:
        """Where the broker is reached, if it has one."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    def enable(self) -> None:
        """Let connections through to the broker (HAProxy's management guide, "enable server")."""
        self._order("enable server broker/node")

    def disable(self) -> None:
        """Have no broker: cut what there is, accept what comes, and close it at once."""
        self._order("disable server broker/node")
        self._order("shutdown sessions server broker/node")

    def _order(self, words: str) -> None:
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(_DEADLINE)
            control.connect(str(self._directory / "control"))
            control.sendall(f"{words}\n".encode())
            answer = control.recv(4096)
        assert not answer.strip(), answer


def _installation() -> tuple[Path, str]:
    """Return HAProxy and its library path: the machine's own, else one unpacked in the checkout."""
    found = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found:
        return Path(found), os.environ.get("LD_LIBRARY_PATH", "")
    root = debs("haproxy")
    return root / "usr/sbin/haproxy", libraries(root)
