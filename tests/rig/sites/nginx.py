"""A private nginx that serves one folder on loopback.

May touch: the folder it is given for its own files, a free port on 127.0.0.1, its own child.
Must never: read or write the machine's nginx configuration, /var or /etc.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Self

from tests.rig import ports, process
from tests.rig.debs import debs, libraries

_DEADLINE = 20.0

# One process (no master): it is our own child, so the kernel can end it with us.
_CONF = """
daemon off;
master_process off;
worker_processes 1;
{user}
pid "{here}/nginx.pid";
error_log "{here}/error.log" warn;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    default_type application/octet-stream;
    types {{
        text/html html htm; text/css css; application/javascript js; application/json json;
        text/plain txt; application/xml xml; image/png png; image/svg+xml svg;
    }}
    sendfile on;
    tcp_nopush on;
    keepalive_timeout 75s;
    keepalive_requests 1000000000;
    open_file_cache max=20000 inactive=10m;
    client_body_temp_path "{here}/body";
    proxy_temp_path "{here}/proxy";
    fastcgi_temp_path "{here}/fastcgi";
    uwsgi_temp_path "{here}/uwsgi";
    scgi_temp_path "{here}/scgi";
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        charset utf-8;
        root "{root}";
        index index.html;
        {extra}
    }}
}}
"""


class NginxError(RuntimeError):
    """It did not start; the message ends with its log."""


class Nginx(process.Server):
    """A static site: the files under `root`, at `url`.

    `extra` is nginx configuration placed inside the server block. The kernel ends it when the
    thread that called `start` ends.
    """

    def __init__(
        self, root: Path, directory: Path, *, port: int | None = None, extra: str = ""
    ) -> None:
        self.root = root.resolve()
        self.directory = directory.resolve()
        self.port = port or ports.free_port()
        self._extra = extra

    @property
    def url(self) -> str:
        """The site's address, ending in a slash."""
        return f"http://{ports.HOST}:{self.port}/"

    @property
    def pid(self) -> int | None:
        """The process id of nginx, between `start` and `stop`."""
        return self._child.pid if self._child else None

    def start(self) -> Self:
        """Start it and return once it accepts connections."""
        self.directory.mkdir(parents=True, exist_ok=True)
        conf = self.directory / "nginx.conf"
        conf.write_text(self._configuration())
        binary, libs = _installation()
        log = self.directory / "error.log"
        argv: list[str | Path] = [binary, "-e", log, "-p", self.directory, "-c", conf]
        with log.open("ab") as output:
            env = {**os.environ, "LD_LIBRARY_PATH": libs}
            self._child = process.spawn(argv, env=env, stdout=output)
        try:
            self._wait(log)
        except BaseException:
            self.stop()
            raise
        return self

    def _configuration(self) -> str:
        # As root, nginx would otherwise hand its folders to a user that may not exist.
        user = "user root root;" if os.geteuid() == 0 else ""
        return _CONF.format(
            user=user, here=self.directory, port=self.port, root=self.root, extra=self._extra
        )

    def _wait(self, log: Path) -> None:
        deadline = time.monotonic() + _DEADLINE
        while not ports.answers(self.port):
            assert self._child is not None
            if self._child.poll() is not None or time.monotonic() > deadline:
                raise NginxError(f"nginx did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.01)


def _installation() -> tuple[Path, str]:
    """Return nginx and its library path: the machine's own, else one unpacked in the checkout."""
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found:
        return Path(found), os.environ.get("LD_LIBRARY_PATH", "")
    root = debs("nginx")
    return root / "usr/sbin/nginx", libraries(root)
