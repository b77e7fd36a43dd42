"""The real daemon with a heartbeat on its event loop: `python -m tests.rig.watched FILE`.

May touch: the daemon's loop, through the notifier it is given; the file of what it found.
Must never: change what the daemon does, or mistake a processor that others hold for a held loop.
"""

from __future__ import annotations

import asyncio
import mmap
import struct
import sys
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import msgspec

from scraperd import daemon
from scraperd.config.load import load
from scraperd.ops.systemd import Notifier

if TYPE_CHECKING:
    from types import FrameType

BEAT: Final = 0.001  # seconds between two looks at the loop
NOTED: Final = 0.01  # seconds; shorter delays are nobody's fault
LOOKED_AT: Final = 0.04  # seconds after which it is asked what the loop is at
_FRAMES: Final = 5  # of the stack
_PULSE: Final = struct.Struct("dd")


class Hold(msgspec.Struct, frozen=True):
    """A time in which the loop turned late.

    `at` is its end by CLOCK_MONOTONIC, which all processes share; `late` how many seconds too
    late the heartbeat came, `cpu` how many seconds of processor the loop's own thread used
    meanwhile. The rest of `late` it was not scheduled, or a system call kept it (starting a
    process does). `stack` is what it was seen at, if it was long.
    """

    at: float
    late: float
    cpu: float
    stack: str


@dataclass(frozen=True, slots=True)
class Watch(Notifier):
    """Has the loop's pulse taken from the daemon's first sign of life on."""

    file: IO[bytes] | None = None

    def send(self, **state: str | int) -> None:
        """Called on the loop, first when the daemon is ready or waits for its broker."""
        tasks = asyncio.all_tasks()
        if self.file is not None and not any(task.get_name() == "heartbeat" for task in tasks):
            _Heart(self.file).start()
        Notifier.send(self, **state)


class _Heart:
    """A task that sleeps for a BEAT over and over, and a thread that sees what made it late."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._thread = threading.get_ident()
        self._beaten = time.monotonic()
        self._seen = ""
        self._pulse = _pulse(Path(file.name))
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._beat(), name="heartbeat")
        threading.Thread(target=self._look, daemon=True).start()

    async def _beat(self) -> None:
        while True:
            began, used = time.monotonic(), time.thread_time()
            self._beaten, self._seen = began, ""
            _PULSE.pack_into(self._pulse, 0, began, used)
            await asyncio.sleep(BEAT)
            now = time.monotonic()
            if (late := now - began - BEAT) > NOTED:
                hold = Hold(now, late, time.thread_time() - used, self._seen)
                self._file.write(msgspec.json.encode(hold) + b"\n")

    def _look(self) -> None:
        """Asks for the interpreter's lock, and so sees where it is given up."""
        while True:
            time.sleep(LOOKED_AT / 2)
            if not self._seen and time.monotonic() - self._beaten > LOOKED_AT:
                frames = sys._current_frames()
                self._seen = _ours(frames.get(self._thread))


def _ours(frame: FrameType | None) -> str:
    """The innermost frame, whoever's it is, and the innermost ones of ours."""
    lines: list[str] = []
    while frame is not None and len(lines) < _FRAMES:
        path = frame.f_code.co_filename
        if not lines or "scraperd" in path:
            lines.append(f"{Path(path).stem}.{frame.f_code.co_name}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(lines)


def holds(file: Path) -> list[Hold]:
    """What was found so far."""
    lines = file.read_bytes().split(b"\n")
    return [msgspec.json.decode(line, type=Hold) for line in lines[:-1]]


def _pulse(file: Path) -> mmap.mmap:
    """A file beside it, in which the last beat is kept."""
    path = file.with_name(f"{file.name}.pulse")
    path.write_bytes(bytes(_PULSE.size))
    with path.open("r+b") as opened:
        return mmap.mmap(opened.fileno(), _PULSE.size)


def last_beat(file: Path) -> tuple[float, float]:
    """When the loop turned last: CLOCK_MONOTONIC, and its thread's processor time then.

    A hold that has not ended is in no list of holds.
    """
    path = file.with_name(f"{file.name}.pulse")
    at, used = _PULSE.unpack(path.read_bytes()) if path.exists() else (0.0, 0.0)
    return at, used


def main(argv: list[Any]) -> int:
    """Run the daemon as its command does, and watch."""
    with Path(argv[1]).open("wb", buffering=0) as file:
        return daemon.run(load(None), Watch(file=file), partial(load, None))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
