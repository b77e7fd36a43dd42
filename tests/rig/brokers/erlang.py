"""Where RabbitMQ and its Erlang are, on this machine or unpacked, and Erlang's port mapper.

May touch: the folder of the node it serves, the packages that debs.py unpacks.
Must never: start a program that outlives this process.
"""

from __future__ import annotations

import re
import shlex
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.rig import ports, process
from tests.rig.debs import debs, libraries, loader, tree

if TYPE_CHECKING:
    import subprocess

START_DEADLINE = 90.0  # seconds; a busy two-core machine, an idle one needs 3 to 5 s
_SYSTEM_SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
_SUITES = {"4": "trixie"}  # the release of Debian that has this RabbitMQ

# The Erlang programs ask for `erl` by name. The packaged one insists on the folder it was
# packaged for, so this one, which goes by the environment, stands before it in PATH.
_ERL = '#!/bin/sh\nexec "$BINDIR/erlexec" "$@"\n'

# Another release's programs cannot be started by this machine's loader. Each becomes one that is
# started by its own: the process, its id and its parent stay what they are.
_LOADED = '#!/bin/sh\nexec {loader} --argv0 "$0" "{program}" "$@"\n'


class NodeError(RuntimeError):
    """The node did not do what was asked; the message ends with its log."""


@dataclass(frozen=True)
class Installation:
    """Where RabbitMQ and Erlang are: the machine's own, or those unpacked into the checkout."""

    scripts: Path  # the folder of rabbitmq-server and rabbitmqctl
    erlang: Path  # the folder that holds bin/, lib/ and erts-*/
    root: Path
    loader: tuple[str, ...] = ()  # what starts a program of another release of Debian

    @classmethod
    def find(cls, release: str = "") -> Self:
        """Find the machine's own, else its Debian's; with a `release` ("4") that one wherever."""
        found = cls._in(Path("/") if _SYSTEM_SERVER.exists() else debs("rabbitmq-server"))
        if not release or release == ".".join(map(str, found.version[:1])):
            return found
        if release not in _SUITES:
            raise NodeError(f"no RabbitMQ {release} here, only {found.version} and {[*_SUITES]}")
        root = tree(_SUITES[release], "rabbitmq-server")
        return replace(cls._in(root), loader=tuple(loader(root)))

    @classmethod
    def _in(cls, root: Path) -> Self:
        server = (root / _SYSTEM_SERVER.relative_to("/")).resolve()
        erlang = root / "usr/lib/erlang"
        if not (erlang / "bin").is_dir():  # the machine had Erlang, so it was not unpacked
            erl = shutil.which("erl") or "/usr/lib/erlang/bin/erl"
            erlang = Path(erl).resolve().parents[1]
        return cls(server.parent, erlang, root)

    def runtime(self, home: Path) -> Path:
        """The folder of the Erlang machine's own programs, for a node laid out in `home`."""
        return home / "bin" if self.loader else next(self.erlang.glob("erts-*/bin"))

    def lay_out(self, home: Path) -> None:
        """Write the programs that have to be found before the packaged ones."""
        programs = {"erl": _ERL}
        if self.loader:
            for program in next(self.erlang.glob("erts-*/bin")).iterdir():
                if program.read_bytes().startswith(b"\x7fELF"):
                    text = _LOADED.format(loader=shlex.join(self.loader), program=program)
                    programs[program.name] = text
        for name, text in programs.items():
            (home / "bin" / name).write_text(text)
            (home / "bin" / name).chmod(0o755)

    @property
    def version(self) -> tuple[int, ...]:
        """RabbitMQ's version, as its folder says."""
        found = re.search(r"rabbitmq_server-([0-9.]+)", str(self.scripts))
        return tuple(int(part) for part in found[1].split(".")) if found else ()

    @property
    def _needs_libraries(self) -> bool:
        return self.root != Path("/") and not self.loader

    def environment(self, home: Path) -> dict[str, str]:
        """Return what every Erlang program needs; nothing of the caller's environment."""
        path = [home / "bin", self.erlang / "bin"]
        if not self.loader:
            path += [self.root / "usr/bin", self.root / "bin"]
        return {
            "PATH": ":".join([*map(str, path), "/usr/sbin", "/usr/bin", "/sbin", "/bin"]),
            "LANG": "C.UTF-8",
            "LD_LIBRARY_PATH": libraries(self.root) if self._needs_libraries else "",
            "HOME": str(home),  # where Erlang keeps its cookie
            "ROOTDIR": str(self.erlang),
            "BINDIR": str(self.runtime(home)),
            "EMU": "beam",
            "PROGNAME": "erl",
            "ERL_LIBS": str(self.root / "usr/lib/erlang/lib"),  # parts the machine's Erlang lacks
            "ERL_CRASH_DUMP": str(home / "erl_crash.dump"),
            "ERL_CRASH_DUMP_SECONDS": "0",
        }


class Epmd:
    """Erlang's port mapper as our own child; a node would start one that stays."""

    def __init__(self) -> None:
        self.port = ports.free_port()
        self._child: subprocess.Popen[bytes] | None = None

    def start(self, installation: Installation, home: Path, log: Path) -> None:
        """Run it, unless it runs already, from a node's folder; it writes to that node's log."""
        if self._child is not None and self._child.poll() is None:
            return
        env = {"ERL_EPMD_PORT": str(self.port), "ERL_EPMD_ADDRESS": ports.HOST}
        with log.open("ab") as output:
            self._child = process.spawn(
                [installation.runtime(home) / "epmd"],
                env={**installation.environment(home), **env},
                cwd=home,
                stdout=output,
            )
        deadline = time.monotonic() + START_DEADLINE
        while not ports.answers(self.port):
            if self._child.poll() is not None or time.monotonic() > deadline:
                raise NodeError(f"epmd did not start, see {log}")
            time.sleep(0.01)

    def stop(self) -> None:
        if self._child is not None:
            process.end(self._child, 5)
        self._child = None
