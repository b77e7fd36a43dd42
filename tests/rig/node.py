"""A private RabbitMQ node: real, on loopback, and gone without a trace when it is closed.

May touch: the folder it is given, free ports on 127.0.0.1, its own child processes.
Must never: read the machine's RabbitMQ configuration, touch a system broker or the user's home.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from tests.rig import ports, process
from tests.rig.debs import DebsError, debs, libraries

_SYSTEM_SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
_START_DEADLINE = 90.0  # a busy two-core machine; an idle one needs 3 to 5 s
_STOP_DEADLINE = 60.0

_CONF = {
    "vm_memory_high_watermark.absolute": "2GB",
    "disk_free_limit.absolute": "50MB",
    "log.console.level": "info",
    "raft.wal_max_size_bytes": "67108864",  # the default keeps up to 512 MB of log a node
}

# The Erlang programs ask for `erl` by name. The packaged one insists on the folder it was
# packaged for, so this one, which goes by the environment, stands before it in PATH.
_ERL = '#!/bin/sh\nexec "$BINDIR/erlexec" "$@"\n'


class NodeError(RuntimeError):
    """The node did not do what was asked; the message ends with its log."""


@dataclass(frozen=True)
class Installation:
    """Where RabbitMQ and Erlang are: the machine's own, or those unpacked into the checkout."""

    scripts: Path  # the folder of rabbitmq-server and rabbitmqctl
    erlang: Path  # the folder that holds bin/, lib/ and erts-*/
    root: Path

    @classmethod
    def find(cls) -> Self:
        root = Path("/") if _SYSTEM_SERVER.exists() else debs("rabbitmq-server")
        server = (root / _SYSTEM_SERVER.relative_to("/")).resolve()
        erlang = root / "usr/lib/erlang"
        if not (erlang / "bin").is_dir():  # the machine had Erlang, so it was not unpacked
            erl = shutil.which("erl") or "/usr/lib/erlang/bin/erl"
            erlang = Path(erl).resolve().parents[1]
        return cls(server.parent, erlang, root)

    @property
    def runtime(self) -> Path:
        """The folder of the Erlang machine's own programs."""
        return next(self.erlang.glob("erts-*/bin"))

    @property
    def version(self) -> tuple[int, ...]:
        """RabbitMQ's version, as its folder says."""
        found = re.search(r"rabbitmq_server-([0-9.]+)", str(self.scripts))
        return tuple(int(part) for part in found[1].split(".")) if found else ()

    def environment(self, home: Path) -> dict[str, str]:
        """Return what every Erlang program needs; nothing of the caller's environment."""
        path = [home / "bin", self.erlang / "bin", self.root / "usr/bin", self.root / "bin"]
        return {
            "PATH": ":".join([*map(str, path), "/usr/sbin", "/usr/bin", "/sbin", "/bin"]),
            "LANG": "C.UTF-8",
            "LD_LIBRARY_PATH": libraries(self.root) if self.root != Path("/") else "",
            "HOME": str(home),  # where Erlang keeps its cookie
            "ROOTDIR": str(self.erlang),
            "BINDIR": str(self.runtime),
            "EMU": "beam",
            "PROGNAME": "erl",
            "ERL_LIBS": str(self.root / "usr/lib/erlang/lib"),  # parts the machine's Erlang lacks
            "ERL_CRASH_DUMP": str(home / "erl_crash.dump"),
            "ERL_CRASH_DUMP_SECONDS": "0",
        }


class Node:
    """One RabbitMQ node with everything of it under `directory`.

    It can be stopped, killed and started again with its data, on the same port. The kernel ends
    it when the thread that called `start` ends, so call that from the main thread.
    """

    def __init__(
        self, directory: Path, *, port: int | None = None, conf: dict[str, str] | None = None
    ) -> None:
        self.directory = directory.resolve()
        self.port = port or ports.free_port()
        self.conf = conf or {}  # read at every start
        self.name = "rabbit@localhost"  # unique in its own epmd, and the same at every start
        self._dist_port = ports.free_port()
        self._epmd_port = ports.free_port()
        self._installation = Installation.find()
        self._epmd: subprocess.Popen[bytes] | None = None
        self._beam: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@{ports.HOST}:{self.port}/"

    @property
    def version(self) -> tuple[int, ...]:
        """RabbitMQ's version, such as (3, 10, 8)."""
        return self._installation.version

    @property
    def log(self) -> Path:
        return self.directory / "log/node.log"

    @property
    def pid(self) -> int | None:
        """The process id of the running node."""
        return self._beam.pid if self.running and self._beam else None

    @property
    def running(self) -> bool:
        return self._beam is not None and self._beam.poll() is None

    def start(self) -> Self:
        """Start it and return once it answers an AMQP handshake."""
        if self.running:
            raise NodeError(f"{self.name} already runs")
        self._take_directory()
        self._lay_out()
        deadline = time.monotonic() + _START_DEADLINE
        try:
            self._start_epmd(deadline)
            with self.log.open("ab") as log:
                self._beam = process.spawn(
                    ["./rabbitmq-server"],
                    env=self._environment(),
                    cwd=self._installation.scripts,
                    stdout=log,
                )
            self._wait_for_handshake(deadline)
        except BaseException:  # also Ctrl-C while it boots: nothing may be left behind
            self.close()
            raise
        return self

    def stop(self) -> None:
        """End it the graceful way (SIGTERM), and its epmd with it."""
        if self._beam is not None:
            if self.running:
                self.resume()  # a paused process hears no SIGTERM
            process.end(self._beam, _STOP_DEADLINE)
        self._beam = None
        if self._epmd is not None:
            process.end(self._epmd, 5)
        self._epmd = None
        if self._lock is not None:
            self._lock.close()
        self._lock = None

    def kill(self) -> None:
        """End it by kill -9: what a crash of the broker looks like. `start` brings it back.

        Call `settle` first when quorum queues were declared within the last seconds.
        """
        if self._beam is not None:
            self._beam.kill()
            process.reap(self._beam)
        self._beam = None

    def close(self) -> None:
        """End everything at once; for when the data does not matter any more."""
        self.kill()
        self.stop()

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay open and nothing answers."""
        self._running_beam().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it run on (SIGCONT)."""
        self._running_beam().send_signal(signal.SIGCONT)

    def start_app(self) -> None:
        """Start the broker inside the running Erlang machine again, after `stop_app`."""
        self.ctl("start_app")
        self._wait_for_handshake(time.monotonic() + _START_DEADLINE)

    def stop_app(self) -> None:
        """Stop the broker and leave the Erlang machine running: its port is closed."""
        self.ctl("stop_app")

    def settle(self) -> None:
        """Have RabbitMQ write down which quorum queues live here, which it does a second late.

        A queue whose node is killed before that is lost with its messages (3.10: it is still
        listed, and every use of it times out). A test of *our* guarantees must not fail by it.
        """
        self.ctl("eval", "[ok = dets:sync(Table) || Table <- dets:all()], ok.")

    def ctl(self, *args: str, timeout: float = 60) -> str:
        """Run rabbitmqctl against this node and return what it prints."""
        child = process.spawn(
            ["./rabbitmqctl", "-n", self.name, "-q", *args],
            env=self._environment(),
            cwd=self._installation.scripts,
            stdout=subprocess.PIPE,
        )
        try:
            output = child.communicate(timeout=timeout)[0].decode(errors="replace")
        finally:
            child.kill()
            process.reap(child)
        if child.returncode != 0:
            raise NodeError(f"rabbitmqctl {' '.join(args)}: exit {child.returncode}\n{output}")
        return output

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _running_beam(self) -> subprocess.Popen[bytes]:
        if self._beam is None or self._beam.poll() is not None:
            raise NodeError(f"{self.name} does not run{self._log_tail()}")
        return self._beam

    def _take_directory(self) -> None:
        """Hold the folder from start to stop: two nodes on the same data would destroy it."""
        if self._lock is not None:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        lock = (self.directory / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise NodeError(f"another node runs in {self.directory}") from None
        self._lock = lock

    def _lay_out(self) -> None:
        """Write every file the node reads. Nothing outside this folder is read or written."""
        for folder in ("bin", "data", "log", "conf.d"):
            (self.directory / folder).mkdir(parents=True, exist_ok=True)
        erl = self.directory / "bin/erl"
        erl.write_text(_ERL)
        erl.chmod(0o755)
        settings = {**_CONF, "listeners.tcp.default": f"{ports.HOST}:{self.port}", **self.conf}
        lines = "".join(f"{name} = {value}\n" for name, value in settings.items())
        (self.directory / "rabbitmq.conf").write_text(lines)
        (self.directory / "advanced.config").write_text("[].\n")
        (self.directory / "enabled_plugins").write_text("[].\n")
        (self.directory / "env.conf").write_text("")

    def _environment(self) -> dict[str, str]:
        here = self.directory
        only_here = "-kernel inet_dist_use_interface {127,0,0,1}"
        return {
            **self._installation.environment(here),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": ports.HOST,
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MNESIA_BASE": str(here / "data"),
            "RABBITMQ_LOG_BASE": str(here / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(here / "node.pid"),
            "RABBITMQ_CONFIG_FILE": str(here / "rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": str(here / "conf.d"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(here / "advanced.config"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(here / "data/config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(here / "enabled_plugins"),
            "RABBITMQ_CONF_ENV_FILE": str(here / "env.conf"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"+S 2:2 {only_here}",
            "RABBITMQ_CTL_ERL_ARGS": only_here,
            "RUNNING_UNDER_SYSTEMD": "true",  # the script then becomes the node: no shell between
        }

    def _start_epmd(self, deadline: float) -> None:
        """Run Erlang's port mapper as our own child; the node would start one that stays."""
        if self._epmd is not None and self._epmd.poll() is None:
            return
        with self.log.open("ab") as log:
            self._epmd = process.spawn(
                [self._installation.runtime / "epmd", "-port", str(self._epmd_port)],
                env=self._environment(),
                cwd=self.directory,
                stdout=log,
            )
        while not ports.answers(self._epmd_port):
            if self._epmd.poll() is not None or time.monotonic() > deadline:
                raise NodeError(f"epmd did not start{self._log_tail()}")
            time.sleep(0.01)

    def _wait_for_handshake(self, deadline: float) -> None:
        while not self._shakes_hands():
            beam = self._running_beam()
            if time.monotonic() > deadline:
                raise NodeError(f"{self.name} (pid {beam.pid}) does not answer{self._log_tail()}")
            time.sleep(0.05)

    def _shakes_hands(self) -> bool:
        """Whether the node answers the protocol header with a method frame (Connection.Start)."""
        try:
            with socket.create_connection((ports.HOST, self.port), timeout=5) as connection:
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                return connection.recv(1) == b"\x01"
        except OSError:
            return False

    def _log_tail(self) -> str:
        if not self.log.exists():
            return ""
        lines = self.log.read_text(errors="replace").splitlines()[-80:]
        return f"; the end of {self.log}:\n" + "\n".join(lines)


def run(directory: Path, port: int | None) -> None:
    """Keep a node in the foreground until SIGINT or SIGTERM."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        with Node(directory, port=port) as node:
            print(node.url, flush=True)
            signal.pause()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)


def main() -> None:
    """Read the command line of `python -m tests.rig.node`."""
    parser = argparse.ArgumentParser(prog="python -m tests.rig.node", description=__doc__)
    parser.add_argument("command", choices=["run"])
    parser.add_argument("--dir", type=Path, help="keep the data here (default: thrown away)")
    parser.add_argument("--port", type=int, help="the AMQP port (default: a free one)")
    options = parser.parse_args()
    try:
        if options.dir:
            run(options.dir, options.port)
        else:
            with tempfile.TemporaryDirectory(prefix="rabbitmq-") as directory:
                run(Path(directory), options.port)
    except (DebsError, NodeError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    os.umask(0o077)  # the data holds the cookie
    main()
