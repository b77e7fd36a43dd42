"""Child processes that cannot outlive the Python process that started them.

May touch: its own children, by their id; their output; /proc, to read; nothing else.
Must never: signal a process it did not start, or wait for luck with a sleep.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

# Runs between us and the command: asks the kernel for SIGKILL when the parent dies (prctl's
# PR_SET_PDEATHSIG, 1), checks that it has not died already, and becomes the command. A preexec_fn
# would do the same, but is unsafe in a process with threads.
_GUARD = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""


def spawn(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdout: int | IO[bytes] | None = subprocess.DEVNULL,
    stderr: int | IO[bytes] | None = subprocess.STDOUT,
) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own that the kernel kills when we die, even by kill -9.

    The kernel ties the child to the *thread* that started it, so call this from a thread that
    lives as long as the child should.
    """
    guard = [sys.executable, "-I", "-S", "-c", _GUARD, str(os.getpid())]
    return subprocess.Popen(
        [*guard, *map(str, argv)],
        env=None if env is None else dict(env),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
    )


def end(child: subprocess.Popen[bytes], grace: float) -> int:
    """SIGTERM, then SIGKILL after `grace` seconds; also takes what is left of its session."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(grace)
        except subprocess.TimeoutExpired:
            child.kill()
    return reap(child)


class Server:
    """A program that serves a test until it is stopped; `start` is its own."""

    _child: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start it and return once it serves."""
        raise NotImplementedError

    def stop(self) -> None:
        """End it. Safe to call twice."""
        if self._child is not None:
            end(self._child, 5)
        self._child = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def reap(child: subprocess.Popen[bytes]) -> int:
    """Wait for a child that was told to end, and kill what is left of its process group."""
    code = child.wait(30)
    with contextlib.suppress(ProcessLookupError, PermissionError):  # usually nothing is left
        os.killpg(child.pid, signal.SIGKILL)
    return code


def started(pid: int) -> list[int]:
    """The processes that a process has started and that are alive; none, if it is not itself."""
    try:
        return [*map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    except OSError:
        return []


def helpers(daemon: int) -> list[int]:
    """The helper processes of a daemon: the process that it has started has forked them."""
    return [helper for parent in started(daemon) for helper in started(parent)]


class Line(NamedTuple):
    """One line that a process wrote."""

    stream: Literal["stdout", "stderr"]
    text: str


class Process:
    """A command running as a child, whose output can be waited for line by line."""

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.argv = [str(part) for part in argv]
        self._lines: list[Line] = []
        self._open = 2
        self._news = threading.Condition()
        self._reading = threading.Lock()
        merged = None if env is None else {**os.environ, **env}
        self._child = spawn(
            argv, env=merged, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self._readers = [self._reader("stdout"), self._reader("stderr")]

    def _reader(self, stream: Literal["stdout", "stderr"]) -> threading.Thread:
        pipe = self._child.stdout if stream == "stdout" else self._child.stderr
        assert pipe is not None
        thread = threading.Thread(target=self._read, args=(stream, pipe), daemon=True)
        thread.start()
        return thread

    def _read(self, stream: Literal["stdout", "stderr"], pipe: IO[bytes]) -> None:
        with pipe:
            for raw in pipe:
                line = Line(stream, raw.decode(errors="replace").rstrip("\r\n"))
                with self._reading, self._news:
                    self._lines.append(line)
                    self._news.notify_all()
        with self._news:
            self._open -= 1
            self._news.notify_all()

    @contextlib.contextmanager
    def unread(self) -> Iterator[None]:
        """Within this nobody reads its output, and the pipes fill up."""
        with self._reading:
            yield

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._child.poll()

    @property
    def lines(self) -> list[Line]:
        """Every line written so far, in the order it was read."""
        with self._news:
            return list(self._lines)

    @property
    def stdout(self) -> str:
        return "\n".join(line.text for line in self.lines if line.stream == "stdout")

    @property
    def stderr(self) -> str:
        return "\n".join(line.text for line in self.lines if line.stream == "stderr")

    def tail(self, count: int = 30) -> str:
        """Return the last lines of both streams, for an error message."""
        return "\n".join(f"  {line.stream}: {line.text}" for line in self.lines[-count:])

    def wait_for_line(
        self, wanted: str | Callable[[str], bool], timeout: float = 30, *, start: int = 0
    ) -> str:
        """Return the first line, from number `start` on, that contains or satisfies `wanted`.

        Pass `start=len(process.lines)` taken earlier to wait for a *new* line.
        """
        matches = (lambda text: wanted in text) if isinstance(wanted, str) else wanted
        deadline = time.monotonic() + timeout
        seen = start
        with self._news:
            while True:
                for line in self._lines[seen:]:
                    if matches(line.text):
                        return line.text
                seen = max(seen, len(self._lines))
                left = deadline - time.monotonic()
                if self._open == 0 or left <= 0:
                    break
                self._news.wait(left)
        why = "it ended" if self._open == 0 else f"{timeout:g} s passed"
        raise AssertionError(f"{self.argv}: {why} without {wanted!r}; its output:\n{self.tail()}")

    def send_signal(self, number: signal.Signals) -> None:
        self._child.send_signal(number)

    def terminate(self) -> None:
        """SIGTERM: a polite end. Follow with `wait`."""
        self._child.terminate()

    def kill(self) -> int:
        """SIGKILL, and wait: what a crash looks like."""
        self._child.kill()
        return self.wait(10)

    def wait(self, timeout: float = 30) -> int:
        """Wait for the end and for the last line of output; return the exit status."""
        try:
            code = self._child.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"{self.argv} still runs after {timeout:g} s; its output:\n{self.tail()}"
            ) from None
        for reader in self._readers:
            reader.join(5)
        return code

    def close(self) -> None:
        """End it whatever its state, and leave nothing of its session behind."""
        end(self._child, 10)
        for reader in self._readers:
            reader.join(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
