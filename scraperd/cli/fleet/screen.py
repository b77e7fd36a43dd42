"""A terminal that is drawn as a whole and read by the key, and is put back as it was.

May touch: standard input and output, the terminal's settings.
Must never: leave the terminal in another state, whatever ends the command.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import termios
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from scraperd.base.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_ENTER: Final = "\x1b[?1049h\x1b[?25l"  # the other screen, and no cursor
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"
_HOME: Final = "\x1b[H"
_CLEAR_LINE: Final = "\x1b[K"
_CLEAR_REST: Final = "\x1b[J"
_SUSPEND: Final = "\x1a"  # Ctrl-Z, which arrives as a key
MAX_KEYS: Final = 64  # bytes that are read at once; a paste may have more
_LFLAG, _CC = 3, 6  # places in what termios.tcgetattr returns


class Screen:
    """A terminal while it is ours. `keys` has what was typed; `changed` is set with each news."""

    def __init__(self) -> None:
        self._input = sys.stdin.fileno()
        self._output = sys.stdout.fileno()
        self._before = termios.tcgetattr(self._input)
        self.keys: list[str] = []
        self.changed = asyncio.Event()

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        with suppress(OSError):
            columns, lines = os.get_terminal_size(self._output)
            if columns and lines:
                return columns, lines
        return 80, 24

    def draw(self, lines: Sequence[str]) -> None:
        """Draw from the top; what does not fit is cut."""
        columns, height = self.size
        shown = [printable(line, columns) + _CLEAR_LINE for line in lines[:height]]
        self._write(_HOME + "\r\n".join(shown) + _CLEAR_REST)

    def take(self) -> None:
        """Take over: keys come one by one and unseen, Ctrl-C and Ctrl-Z too."""
        mode = termios.tcgetattr(self._input)
        mode[_LFLAG] &= ~(termios.ICANON | termios.ECHO | termios.ISIG)
        mode[_CC][termios.VMIN], mode[_CC][termios.VTIME] = 1, 0
        termios.tcsetattr(self._input, termios.TCSADRAIN, mode)
        self._write(_ENTER)

    def restore(self) -> None:
        """Put the terminal back as it was. One that is gone needs nothing."""
        with suppress(OSError, termios.error):
            self._write(_LEAVE)
        with suppress(OSError, termios.error):
            termios.tcsetattr(self._input, termios.TCSANOW, self._before)

    def read(self) -> None:
        """Read the keys that were typed. The end of the input counts as `q`."""
        try:
            typed = os.read(self._input, MAX_KEYS).decode(errors="ignore")
        except OSError:
            typed = ""
        if _SUSPEND in typed:
            self.restore()
            os.kill(os.getpid(), signal.SIGSTOP)  # and here SIGCONT goes on
            self.take()
            typed = typed.replace(_SUSPEND, "")
            self.changed.set()
            if not typed:
                return
        self.keys += typed or "q"
        self.changed.set()

    def _write(self, text: str) -> None:
        data = text.encode()
        while data:
            data = data[os.write(self._output, data) :]


@contextmanager
def taken() -> Iterator[Screen]:
    """Take the terminal over, and put it back at any end that runs code."""
    screen, loop = Screen(), asyncio.get_running_loop()
    screen.take()
    try:
        loop.add_reader(sys.stdin.fileno(), screen.read)
        loop.add_signal_handler(signal.SIGWINCH, screen.changed.set)
        loop.add_signal_handler(signal.SIGHUP, _quit, screen)
        yield screen
    finally:
        loop.remove_reader(sys.stdin.fileno())
        for number in (signal.SIGWINCH, signal.SIGHUP):
            loop.remove_signal_handler(number)
        screen.restore()


def _quit(screen: Screen) -> None:
    screen.keys.append("q")
    screen.changed.set()
