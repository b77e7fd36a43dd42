"""Debian packages, downloaded and unpacked into the checkout instead of installed.

May touch: the checkout's .cache/, the distribution's package servers (through apt-get).
Must never: install, configure or start anything on this machine, or need to be root.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CACHE = Path(__file__).resolve().parents[2] / ".cache"

# Read by apt after the machine's own configuration, so it wins. The cleared hooks would touch
# the machine's own package cache; the index files switched off are large and of no use here.
_APT_CONF = """
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Install-Pkgs;
#clear DPkg::Post-Invoke;
Dir::State::lists "{apt}/lists";
Dir::Cache "{apt}/cache";
Debug::NoLocking "1";
APT::Install-Recommends "0";
APT::Get::Assume-Yes "1";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "0";
Acquire::IndexTargets::deb::DEP-11-icons-small::DefaultEnabled "0";
Acquire::IndexTargets::deb::DEP-11-icons::DefaultEnabled "0";
Acquire::IndexTargets::deb::CNF::DefaultEnabled "0";
"""


class DebsError(RuntimeError):
    """The packages could not be had; the message says what to do."""


def debs(*packages: str) -> Path:
    """Return a folder laid out like /, with these packages and what they need unpacked in it.

    Only packages that the machine does not have are unpacked: look on the machine for the rest.
    """
    key = "-".join([_system(), *sorted(packages)])
    root = CACHE / "debs" / key
    if root.is_dir():
        return root
    with _lock(CACHE / "debs.lock"):
        if not root.is_dir():  # another process may have been faster
            _fetch(packages, root)
    return root


def libraries(root: Path) -> str:
    """Return the LD_LIBRARY_PATH that programs unpacked in `root` need."""
    folders = [*root.glob("usr/lib/*-linux-gnu*"), *root.glob("lib/*-linux-gnu*")]
    return os.pathsep.join(str(folder) for folder in folders)


def _system() -> str:
    """Name the system, so that a checkout seen by two systems keeps their packages apart."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    name = release.get("ID", "linux") + release.get("VERSION_ID", "")
    return f"{name}-{platform.machine()}"


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _fetch(packages: Sequence[str], root: Path) -> None:
    """Download and unpack, and only then give the folder its name: half a root is never seen."""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise DebsError(
            f"no apt-get on this machine to download {' '.join(packages)}:"
            " install them yourself, or run this on Debian or Ubuntu"
        )
    print(f"downloading {' '.join(packages)} into {CACHE.name}/ (once)", file=sys.stderr)
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="fetch-") as scratch:
        archives = _download(packages, Path(scratch))
        unpacked = Path(scratch) / "root"
        unpacked.mkdir(mode=0o755)
        for archive in archives:
            _run(["dpkg", "-x", str(archive), str(unpacked)])
        unpacked.rename(root)


def _download(packages: Sequence[str], scratch: Path) -> list[Path]:
    """Let apt-get work out and download what is missing, in folders of its own."""
    apt = CACHE / "apt"  # kept: the next download needs no whole package list again
    archives = scratch / "archives"
    for folder in (apt / "lists/partial", apt / "cache", archives / "partial"):
        folder.mkdir(parents=True, exist_ok=True)
    conf = scratch / "apt.conf"
    text = _APT_CONF.format(apt=apt) + f'Dir::Cache::archives "{archives}";\n'
    if os.geteuid() == 0:  # apt's unprivileged user may not be allowed into this checkout
        text += 'APT::Sandbox::User "root";\n'
    conf.write_text(text)
    _run(["apt-get", "-q", "-c", str(conf), "update"])
    _run(["apt-get", "-q", "-c", str(conf), "install", "--download-only", *packages])
    return sorted(archives.glob("*.deb"))


def _run(argv: Sequence[str]) -> None:
    """Run quietly; on failure, say what the program said."""
    env = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=env,
        check=False,
    )
    if done.returncode != 0:
        raise DebsError(f"{' '.join(argv)} failed ({done.returncode}):\n{done.stdout[-2000:]}")


def main() -> None:
    """Unpack the packages named on the command line and print where."""
    if len(sys.argv) < 2:
        sys.exit("usage: python -m tests.rig.debs PACKAGE...")
    try:
        print(debs(*sys.argv[1:]))
    except DebsError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
