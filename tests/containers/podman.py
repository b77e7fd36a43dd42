"""Builds the image by podman on a root that debootstrap makes, and runs it.

May touch: .cache/containers/, processes that podman starts; it needs root.
Must never: reach an image registry, or leave a container behind.
"""

from __future__ import annotations

import atexit
import re
import resource
import subprocess
import sys
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.booted.machine import tree
from tests.rig.debs import CACHE

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[2]
_HERE: Final = CACHE / "containers"
_BASE: Final = "localhost/debian:bookworm-slim"
IMAGE: Final = "localhost/scraperd:test"
# Of this machine, so that apt and pip in a build ask the servers that it asks.
_APT: Final = ("/etc/apt/sources.list.d", "/etc/apt/apt.conf.d", "/etc/apt/sources.list")

# podman's own are higher than what a machine may allow.
ULIMITS: Final = (
    f"--ulimit=nofile={min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 20_000)}",
    f"--ulimit=nproc={min(resource.getrlimit(resource.RLIMIT_NPROC)[1], 20_000)}",
)


def podman(*argv: str, timeout: float = 120) -> str:
    """Run podman with a storage of its own; return what it prints, fail with what it says."""
    storage = ["--root", str(_HERE / "storage"), "--runroot", str(_HERE / "run")]
    done = subprocess.run(
        [*_entered(), "podman", *storage, "--cgroup-manager=cgroupfs", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if argv[0] == "logs" else subprocess.PIPE,
        text=True,
        timeout=timeout,
        check=False,
    )
    said = done.stderr or done.stdout
    assert done.returncode == 0, f"podman {' '.join(argv)}: {done.returncode}\n{said[-4000:]}"
    return done.stdout.strip()


@cache
def _entered() -> list[str]:
    """What goes before a command that wants cgroups of version 2 alone, as crun does.

    On a machine with both versions it is run where only those of version 2 are to be seen.
    """
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        return []
    script = (
        "mount --make-rprivate / && umount -l /sys/fs/cgroup"
        " && mount -t cgroup2 none /sys/fs/cgroup && echo ready && exec cat"
    )
    argv = ["unshare", "--mount", "sh", "-c", script]
    holder = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "ready\n"
    atexit.register(holder.communicate)  # its input ends, and so does it
    return ["nsenter", "--mount", f"--target={holder.pid}"]


def build() -> None:
    """Build the image from the checkout's Containerfile."""
    _have_base()
    volumes = [f"--volume={path}:{path}:ro" for path in _APT if Path(path).exists()]
    volumes += _of_pip()
    # With an isolation by namespaces, a build would need cgroups as well.
    argv = ["build", "--isolation=chroot", "--network=host", *volumes]
    argv += [f"--build-arg=BASE={_BASE}", "--tag", IMAGE, "--pull=never", str(ROOT)]
    podman(*argv, timeout=1_200)


def _have_base() -> None:
    """Import a small Debian 12, as an image of that name would be."""
    if _BASE in podman("images", "--format={{.Repository}}:{{.Tag}}").split():
        return
    _HERE.mkdir(parents=True, exist_ok=True)
    archive = _HERE / "base.tar"
    subprocess.run(["tar", "-C", str(tree(())), "-cf", str(archive), "."], check=True)
    podman("import", str(archive), _BASE, timeout=300)
    archive.unlink()


def _of_pip() -> list[str]:
    """Return the volumes by which pip in a build asks the servers that this machine's pip asks."""
    argv = [sys.executable, "-m", "pip", "config", "list"]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    found = dict(re.findall(r"^(?:global|:env:)\.([a-z-]+)='(.*)'$", said, re.MULTILINE))
    authorities = found.get("cert")
    if authorities:  # not where it is: apt installs the image's own there
        found["cert"] = "/authorities"
    settings = "".join(f"{name} = {value}\n" for name, value in found.items())
    (_HERE / "pip.conf").write_text(f"[global]\n{settings}")
    paths = set(re.findall(r"(?:file://)?(/[^\s'/]+/[^\s']+)", settings))
    folders = {parent for path in paths for parent in [Path(path), *Path(path).parents][:2]}
    volumes = [f"--volume={it}:{it}:ro" for it in folders if it.is_dir() and len(it.parts) > 2]
    volumes += [f"--volume={path}:{path}:ro" for path in paths if Path(path).is_file()]
    volumes.append(f"--volume={_HERE / 'pip.conf'}:/root/.config/pip/pip.conf:ro")
    return [*volumes, *([f"--volume={authorities}:/authorities:ro"] if authorities else [])]


@contextmanager
def container(name: str, *argv: str) -> Iterator[str]:
    """Start one in the background; yield its name; end and remove it."""
    podman("run", "--detach", "--name", name, *ULIMITS, *argv)
    try:
        yield name
    finally:
        podman("rm", "--force", "--time=0", name)


def logs(name: str) -> str:
    """Return what a container has written to its standard streams."""
    return podman("logs", name)
