"""Debian packages, downloaded and unpacked into the checkout instead of installed.

May touch: the checkout's .cache/, the distribution's package servers (through apt-get).
Must never: install, configure or start anything on this machine, or need to be root.
"""

from __future__ import annotations

import fcntl
import os
import platform
import re
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


# Added for another release of Debian: only its packages count, and none of them is installed, so
# apt downloads all they need, down to the C library.
_OTHER_CONF = """
Dir::State::status "{scratch}/status";
Dir::Etc::sourcelist "{scratch}/sources.list";
Dir::Etc::sourceparts "-";
Dir::Etc::preferences "-";
Dir::Etc::preferencesparts "-";
APT::Default-Release "{suite}";
"""
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_MIRROR = re.compile(r"\bhttps?://\S+/debian/?(?=\s)")


class DebsError(RuntimeError):
    """The packages could not be had; the message says what to do."""


def debs(*packages: str) -> Path:
    """Return a folder laid out like /, with these packages and what they need unpacked in it.

    Only packages that the machine does not have are unpacked: look on the machine for the rest.
    """
    return _once("-".join([_system(), *sorted(packages)]), packages, "")


def tree(suite: str, *packages: str) -> Path:
    """Return a folder laid out like /, with packages of another release of Debian, complete.

    Its programs need its own C library: start them by its own loader (`loader`). No script of
    the packages has run. The release's key must be in this machine's keyring of Debian.
    """
    key = "-".join(["tree", suite, platform.machine(), *sorted(packages)])
    return _once(key, packages, suite)


def loader(root: Path) -> list[str]:
    """Return what to put before a program of a `tree`; nothing else of the machine is needed."""
    found = next(root.glob("usr/lib/*-linux-gnu*/ld-linux*.so.*"))
    return [str(found), "--library-path", libraries(root)]


def go_environment(root: Path, cache: Path) -> dict[str, str]:
    """What Go needs to build with the libraries of Debian in `root`, and with no others."""
    return {
        "GO111MODULE": "off",
        "GOPATH": f"{root}/usr/share/gocode{os.pathsep}/usr/share/gocode",
        "GOCACHE": str(cache),
        "GOFLAGS": "",
        "CGO_ENABLED": "0",
    }


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


def _once(key: str, packages: Sequence[str], suite: str) -> Path:
    root = CACHE / "debs" / key
    if root.is_dir():
        return root
    with _lock(CACHE / "debs.lock"):
        if not root.is_dir():  # another process may have been faster
            _fetch(packages, root, suite)
    return root


def _fetch(packages: Sequence[str], root: Path, suite: str) -> None:
    """Download and unpack, and only then give the folder its name: half a root is never seen."""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise DebsError(
            f"no apt-get on this machine to download {' '.join(packages)}:"
            " install them yourself, or run this on Debian or Ubuntu"
        )
    print(f"downloading {' '.join(packages)} into {CACHE.name}/ (once)", file=sys.stderr)
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="fetch-") as scratch:
        archives = _download(packages, Path(scratch), suite)
        unpacked = Path(scratch) / "root"
        unpacked.mkdir(mode=0o755)
        if suite:  # what a whole system has from its first package on: /bin is /usr/bin, and so on
            for folder in ("bin", "lib", "lib64", "sbin"):
                (unpacked / "usr" / folder).mkdir(parents=True)
                (unpacked / folder).symlink_to(f"usr/{folder}")
        for archive in archives:
            _run(["dpkg", "-x", str(archive), str(unpacked)])
        unpacked.rename(root)


def _download(packages: Sequence[str], scratch: Path, suite: str) -> list[Path]:
    """Let apt-get work out and download what is missing, in folders of its own."""
    apt = CACHE / (
        f"apt-{suite}" if suite else "apt"
    )  # kept: the next download needs no whole package list again
    archives = scratch / "archives"
    for folder in (apt / "lists/partial", apt / "cache", archives / "partial"):
        folder.mkdir(parents=True, exist_ok=True)
    conf = scratch / "apt.conf"
    text = _APT_CONF.format(apt=apt) + f'Dir::Cache::archives "{archives}";\n'
    if os.geteuid() == 0:  # apt's unprivileged user may not be allowed into this checkout
        text += 'APT::Sandbox::User "root";\n'
    if suite:
        text += _OTHER_CONF.format(scratch=scratch, suite=suite)
        (scratch / "status").touch()
        (scratch / "sources.list").write_text(
            f"deb [signed-by={_KEYRING}] {mirror()} {suite} main\n"
        )
    conf.write_text(text)
    _run(["apt-get", "-q", "-c", str(conf), "update"])
    _run(["apt-get", "-q", "-c", str(conf), "install", "--download-only", *packages])
    return sorted(archives.glob("*.deb"))


def mirror() -> str:
    """Return where this machine has its packages of Debian from."""
    files = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    for file in files:
        if file.is_file():
            lines = file.read_text(errors="replace").splitlines(keepends=True)
            found = _MIRROR.search("".join(line for line in lines if not line.startswith("#")))
            if found:
                return found[0]
    raise DebsError("no mirror of Debian in /etc/apt: run this on Debian")


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
