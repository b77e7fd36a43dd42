"""A program in a pseudo terminal: what it draws, what is typed, and how it leaves the terminal.

May touch: pseudo terminals, child processes.
Must never: know what the program is.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Sequence

_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
HOME = "\x1b[H"  # begins each frame


class Terminal:
    """Runs `command` in a terminal of its own, of 80 columns and 24 lines unless told otherwise."""

    def __init__(
        self, command: Sequence[str], env: dict[str, str], columns: int = 80, lines: int = 24
    ) -> None:
        self._ours, self._theirs = pty.openpty()
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.before = termios.tcgetattr(self._theirs)
        self.text = ""
        self.child = subprocess.Popen(
            [*command],
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            env={**env, "TERM": "xterm"},
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()
        os.close(self._ours)
        os.close(self._theirs)

    def type(self, keys: str) -> None:
        """Type these keys."""
        os.write(self._ours, keys.encode())

    def send(self, number: signal.Signals) -> None:
        """Send the program a signal."""
        self.child.send_signal(number)

    @property
    def mode(self) -> list[Any]:
        """How the terminal is set now."""
        return termios.tcgetattr(self._theirs)

    @property
    def frames(self) -> list[list[str]]:
        """What was drawn, frame by frame, without codes."""
        plain = [_CODES.sub("", frame) for frame in self.text.split(HOME)[1:]]
        return [frame.replace("\r", "").split("\n") for frame in plain]

    def until(self, wanted: Callable[[list[str]], bool], timeout: float = 60) -> list[str]:
        """Read until a frame that begins from now on is as wanted; that frame."""
        start, deadline = len(self.frames), time.monotonic() + timeout
        while True:
            self._read()
            for frame in self.frames[max(0, start - 1) :]:
                if wanted(frame):
                    return frame
            assert time.monotonic() < deadline, f"never drawn; the last: {self.frames[-1:]}"
            assert self.child.poll() is None, f"it ended with {self.child.returncode}: {self.text}"

    def wait(self, timeout: float = 60) -> int:
        """Read until the program ends; its exit code."""
        deadline = time.monotonic() + timeout
        while self.child.poll() is None:
            assert time.monotonic() < deadline, "it does not end"
            self._read()
        self._read()
        return self.child.returncode

    def _read(self) -> None:
        while select.select([self._ours], [], [], 0.05)[0]:
            self.text += os.read(self._ours, 65_536).decode(errors="replace")
