"""TLS servers that are not ours: OpenSSL's s_server and GnuTLS's gnutls-serv, private ones.

May touch: the folder it is given, a free port, its own child. gnutls-serv listens on all addresses.
Must never: read or write the machine's configuration.
"""

from __future__ import annotations

import os
import shutil
import time
from typing import TYPE_CHECKING, Final, Self

from tests.rig import ports, process
from tests.rig.debs import debs, libraries

if TYPE_CHECKING:
    from pathlib import Path

_DEADLINE: Final = 20.0
# Of each: its package of Debian, and how it is started; both answer a GET with a page of their own.
_PROGRAMS: Final = {
    "openssl": ("openssl", "s_server -www -quiet -accept 127.0.0.1:{port}"),
    "gnutls-serv": ("gnutls-bin", "--http --quiet --port={port}"),
}
_CERTIFICATE: Final = {
    "openssl": "-cert {pem} -cert_chain {pem} -key {pem}",
    "gnutls-serv": "--x509certfile={pem} --x509keyfile={pem}",
}


class TlsServerError(RuntimeError):
    """It did not start; the message ends with what it said."""


class TlsServer(process.Server):
    """`program` is openssl or gnutls-serv. `pem` has its key and its chain; None if it has none.

    The kernel ends it when the thread that called `start` ends.
    """

    def __init__(self, program: str, folder: Path, pem: Path | None, *options: str) -> None:
        self.port = ports.free_port()
        self._program = program
        self._log = folder / f"{program}-{self.port}.out"
        self._pem = pem
        self._options = options

    @property
    def url(self) -> str:
        """The site's address, ending in a slash."""
        return f"https://{ports.HOST}:{self.port}/"

    def start(self) -> Self:
        """Start it and return once it accepts connections."""
        argv, libs = self._command()
        with self._log.open("ab") as output:
            env = {**os.environ, "LD_LIBRARY_PATH": libs}
            self._child = process.spawn(argv, env=env, stdout=output)
        deadline = time.monotonic() + _DEADLINE
        while not ports.answers(self.port):
            if self._child.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise TlsServerError(f"it did not start:\n{self._log.read_text()[-2000:]}")
            time.sleep(0.01)
        return self

    def _command(self) -> tuple[list[str], str]:
        """Return the command and its library path: the machine's own, else one in the checkout."""
        package, own = _PROGRAMS[self._program]
        binary, libs = shutil.which(self._program), os.environ.get("LD_LIBRARY_PATH", "")
        if binary is None:
            root = debs(package)
            binary, libs = str(root / "usr/bin" / self._program), libraries(root)
        words = own.format(port=self.port).split()
        if self._pem is not None:
            words += _CERTIFICATE[self._program].format(pem=self._pem).split()
        return [binary, *words, *self._options], libs
