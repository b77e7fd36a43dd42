"""What the peers need: a venv of their own and a Go program, both in .cache/bench/.

May touch: .cache/bench/, the package index of this machine's pip, Debian's package servers.
Must never: install anything on this machine or into the daemon's own venv.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.stage import CHECKOUT
from tests.rig.debs import CACHE, DebsError, debs, go_environment

if TYPE_CHECKING:
    from collections.abc import Sequence

_HERE: Final = CACHE / "bench"
_PINS: Final = CHECKOUT / "requirements/bench.txt"
_SOURCE: Final = CHECKOUT / "benchmarks/peers/worker.go"
_GO: Final = (
    "golang-go",
    "golang-github-rabbitmq-amqp091-go-dev",
    "golang-github-puerkitobio-goquery-dev",
)


class MissingError(RuntimeError):
    """A contender can't run on this machine; the message says why."""


@cache
def python() -> Path:
    """Return the Python of a venv that has the peers' packages, as they are pinned."""
    venv = _HERE / "venv"
    made_of = _PINS.read_bytes() + sys.version.encode()
    done = venv / f".{hashlib.sha256(made_of).hexdigest()[:16]}"
    if not done.exists():
        print("installing requirements/bench.txt into .cache/bench/venv (once)", file=sys.stderr)
        _run(["sh", "tests/rig/venv.sh", sys.executable, str(venv)])
        pip = [str(venv / "bin/python"), "-m", "pip", "--disable-pip-version-check", "install"]
        _run([*pip, "--quiet", "--require-hashes", "-r", str(_PINS)])
        done.touch()
    return venv / "bin/python"


@cache
def go_worker() -> Path:
    """Return the Go worker, built."""
    program = _HERE / f"worker-{hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:16]}"
    if not program.exists():
        print("building benchmarks/peers/worker.go (once)", file=sys.stderr)
        root = _libraries()
        env = {**os.environ, **go_environment(root, _HERE / "go-build")}
        _run([str(_go(root)), "build", "-o", str(program), str(_SOURCE)], env)
    return program


def go_version() -> str:
    """Return which version of Go builds the worker, or an empty text if there is no Go."""
    try:
        return _run([str(_go(_libraries())), "version"]).split()[2].removeprefix("go")
    except MissingError:
        return ""


@cache
def _libraries() -> Path:
    try:
        return debs(*_GO)
    except DebsError as error:
        raise MissingError(f"no Go: {error}") from None


def _go(root: Path) -> Path:
    """Return this machine's Go, else the one unpacked in the checkout."""
    found = shutil.which("go")
    if found:
        return Path(found)
    for unpacked in sorted(root.glob("usr/lib/go-*/bin/go")):
        return unpacked
    raise MissingError(f"no Go on this machine, and none in {root.name}")


def _run(argv: Sequence[str], env: dict[str, str] | None = None) -> str:
    done = subprocess.run(argv, env=env, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MissingError(f"{' '.join(argv)} failed ({done.returncode}):\n{done.stderr[-2000:]}")
    return done.stdout
