"""Proxies that are not ours: tinyproxy (HTTP) and microsocks (SOCKS5), private and on loopback.

May touch: the folder it is given, a free port on 127.0.0.1, its own child.
Must never: read or write the machine's configuration.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Self

from tests.rig import ports, process
from tests.rig.debs import debs, libraries

if TYPE_CHECKING:
    from pathlib import Path

USER = "robot"
PASSWORD = "hunter2-secret"

_DEADLINE = 20.0
_TINYPROXY = """
Port {port}
Listen 127.0.0.1
Timeout 60
MaxClients 100
LogFile "{here}/tinyproxy.log"
LogLevel Info
Allow 127.0.0.1
DisableViaHeader Yes
{auth}
"""


class ProxyError(RuntimeError):
    """It did not start; the message ends with what it said."""


class RealProxy(process.Server):
    """`scheme` is http or socks5; with `auth`, USER and PASSWORD are asked for.

    The kernel ends it when the thread that called `start` ends.
    """

    def __init__(self, scheme: str, folder: Path, *, auth: bool = False) -> None:
        self.scheme = scheme
        self.port = ports.free_port()
        self._auth = auth
        self._folder = folder

    def url(self, userinfo: str | None = None) -> str:
        """Its URL with the right user and password, or with those given."""
        right = f"{USER}:{PASSWORD}@" if self._auth else ""
        return f"{self.scheme}://{right if userinfo is None else userinfo}127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Start it and return once it accepts connections."""
        self._folder.mkdir(parents=True, exist_ok=True)
        root = debs("tinyproxy", "microsocks")
        log = self._folder / f"{self.scheme}.out"
        env = {**os.environ, "LD_LIBRARY_PATH": libraries(root)}
        with log.open("ab") as output:
            self._child = process.spawn(self._command(root), env=env, stdout=output)
        deadline = time.monotonic() + _DEADLINE
        while not ports.answers(self.port):
            if self._child.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise ProxyError(f"the proxy did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.01)
        return self

    def _command(self, root: Path) -> list[str | Path]:
        if self.scheme == "socks5":
            auth = ["-u", USER, "-P", PASSWORD] if self._auth else []
            address = ["-i", "127.0.0.1", "-p", str(self.port)]
            return [root / "usr/bin/microsocks", *address, *auth]
        conf = self._folder / "tinyproxy.conf"
        auth_line = f"BasicAuth {USER} {PASSWORD}" if self._auth else ""
        conf.write_text(_TINYPROXY.format(port=self.port, here=self._folder, auth=auth_line))
        return [root / "usr/bin/tinyproxy", "-d", "-c", conf]
