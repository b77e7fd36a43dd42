"""A Debian 12 that boots: a tree made once by debootstrap, booted by systemd-nspawn.

May touch: .cache/trees/, namespaces of its own, the processes that it starts.
Must never: change the tree (each boot writes into memory), or reach any network from inside.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.rig.debs import CACHE, debs, libraries, mirror
from tests.rig.process import end, spawn

if TYPE_CHECKING:
    from collections.abc import Mapping

SUITE: Final = "bookworm"
PACKAGES: Final = (
    *("systemd", "systemd-sysv", "dbus", "ca-certificates", "iproute2", "procps", "curl"),
    *("python3", "rabbitmq-server", "nginx-light"),
)
# What nspawn of systemd 252 would refuse, and a machine does not.
LANDLOCK: Final = "landlock_create_ruleset landlock_add_rule landlock_restrict_self"
BOOT_TIME: Final = 120  # seconds; RabbitMQ starts in it
END_TIME: Final = 60  # seconds for a shutdown


class MachineError(RuntimeError):
    """The machine could not be made or booted; the message says why."""


class Machine:
    """A booted tree. What runs in it ends with it, and what it wrote is forgotten."""

    def __init__(self, shared: Mapping[Path, str], log: Path) -> None:
        """Boot, with folders of this machine (by where they are inside) that can only be read."""
        if os.geteuid() != 0:
            raise MachineError("only root can boot a tree: run `sudo make test-systemd`")
        program, env = _program("systemd-nspawn", "systemd-container")
        options = ["--quiet", "--register=no", "--keep-unit", "--private-network", "--boot"]
        options += ["--volatile=overlay", "--console=pipe", "--resolv-conf=off", "--timezone=off"]
        options += [f"--system-call-filter={LANDLOCK}"]
        options += [f"--bind-ro={folder}:{inside}" for folder, inside in shared.items()]
        command = [program, *options, "--link-journal=no", "-D", str(tree())]
        with log.open("wb") as said:
            self._nspawn = spawn(command, env=env, stdout=said)
        try:
            self._init = self._wait_for_init(log)
            self._wait_for_boot()
        except BaseException:
            self.close()
            raise

    def run(self, command: str, *, check: bool = True, timeout: float = 100) -> str:
        """Run a line of shell as root inside; return what it printed, standard error too."""
        done = self.finished(command, timeout)
        if check and done.returncode:
            raise MachineError(f"{command!r} ended with {done.returncode}:\n{done.stdout}")
        return done.stdout

    def finished(self, command: str, timeout: float = 100) -> subprocess.CompletedProcess[str]:
        """Run a line of shell as root inside, and return how it ended."""
        return subprocess.run(
            [*self._enter(), "bash", "-c", command],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )

    def write(self, path: str, text: str) -> None:
        """Write a file inside, with the owner and the mode that it has if it is there."""
        enter = [*self._enter(), "sh", "-c", f"mkdir -p '{Path(path).parent}' && cat > '{path}'"]
        subprocess.run(enter, input=text, text=True, check=True)

    def until(self, command: str, within: float = 60) -> str:
        """Repeat a line of shell until it succeeds; return what it printed."""
        deadline = time.monotonic() + within
        while (done := self.finished(command)).returncode:
            if time.monotonic() > deadline:
                raise MachineError(f"{command!r} never succeeded; at last:\n{done.stdout}")
            time.sleep(0.1)
        return done.stdout

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.run(f"systemctl show --value -p {name} '{unit}'").strip()

    def close(self) -> None:
        """Shut the machine down (nspawn tells its init); kill what does not end in time."""
        end(self._nspawn, END_TIME)

    def _enter(self) -> list[str]:
        return ["nsenter", "--target", str(self._init), "--all", "--wdns=/root", "--"]

    def _wait_for_init(self, log: Path) -> int:
        """Return the process that is the machine's init, seen from outside."""
        pid = self._nspawn.pid
        children = Path(f"/proc/{pid}/task/{pid}/children")
        deadline = time.monotonic() + BOOT_TIME
        while self._nspawn.poll() is None and time.monotonic() < deadline:
            for child in children.read_text().split():
                if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                    return int(child)
            time.sleep(0.05)
        raise MachineError(f"systemd-nspawn did not boot:\n{log.read_text()[-2000:]}")

    def _wait_for_boot(self) -> None:
        said = self.until("systemctl is-system-running | grep -E 'running|degraded'", BOOT_TIME)
        if "degraded" in said:
            raise MachineError(self.run("systemctl --failed --no-pager"))


def tree(packages: tuple[str, ...] = PACKAGES) -> Path:
    """Return the folder of a Debian with these packages, made if it is not there yet."""
    root = CACHE / "trees" / "-".join((SUITE, *sorted(packages)))
    root.parent.mkdir(parents=True, exist_ok=True)
    with (CACHE / "trees.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.is_dir():
            _debootstrap(root, packages)
    return root


def _debootstrap(root: Path, packages: tuple[str, ...]) -> None:
    print(f"making a Debian ({SUITE}) in {root.parent} (once)")
    unfinished = root.with_suffix(".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    program, env = _program("debootstrap", "debootstrap")
    options = ["--variant=minbase", *([f"--include={','.join(packages)}"] if packages else [])]
    command = [program, *options, SUITE, str(unfinished), mirror()]
    done = subprocess.run(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise MachineError(f"debootstrap failed ({done.returncode}):\n{done.stdout[-2000:]}")
    shutil.rmtree(unfinished / "var/cache/apt/archives")
    (unfinished / "etc/hosts").write_text("127.0.0.1 localhost\n")  # Debian's installer writes it
    unfinished.rename(root)


def _program(name: str, package: str) -> tuple[str, dict[str, str]]:
    """Return a program and its environment: the machine's own, or that of a package, unpacked."""
    env = dict(os.environ)
    if (found := shutil.which(name)) is not None:
        return found, env
    root = debs(package)
    own = {str(path.parent) for path in root.rglob("libsystemd-shared-*.so")}
    env["LD_LIBRARY_PATH"] = ":".join((*own, libraries(root)))
    env["DEBOOTSTRAP_DIR"] = str(root / "usr/share/debootstrap")
    program = next(root.glob(f"usr/*bin/{name}"))
    return str(program), env
