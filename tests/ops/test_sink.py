"""The sink of the log: whole lines in order, nobody waits for the reader, what is lost is counted.

May touch: pipes, sockets, pseudo-terminals and files of its own.
Must never: write to the real standard output.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import pty
import socket
import threading
import tty
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from scraperd.config.tables import LogSettings
from scraperd.ops.log import configure
from scraperd.ops.sink import MAX_BACKLOG_BYTES, Sink, outlet_of

if TYPE_CHECKING:
    from collections.abc import Callable

LINE = 1000  # bytes


def numbered(count: int) -> list[bytes]:
    """Lines of LINE bytes."""
    return [f"{n:06} ".encode().ljust(LINE - 1, b"x") + b"\n" for n in range(count)]


def pipe() -> tuple[int, int]:
    """A pipe: where to read, where to write."""
    return os.pipe()


def stream_socket() -> tuple[int, int]:
    """What systemd gives a service for its journal."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return ours.detach(), theirs.detach()


def terminal() -> tuple[int, int]:
    """A pseudo-terminal that leaves bytes as they are."""
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    os.set_blocking(ours, True)
    return ours, theirs


@pytest.mark.parametrize("make", [pipe, stream_socket, terminal])
async def test_a_reader_that_stalls_holds_nobody_up(make: Callable[[], tuple[int, int]]) -> None:
    """3 MB go to a reader that reads nothing: the loop turns. When it reads, it gets each line once
    and whole, up to the bound; the others are counted, and said once.
    """
    reading, writing = make()
    sink, told, lines = Sink(outlet_of(writing)), asyncio.Queue[int](), numbered(3000)
    got = bytearray()
    with sink.turns(told.put_nowait):
        for line in lines:
            sink.write(line)
            await asyncio.sleep(0)
        assert (told.empty(), sink.lost > 0) == (True, True)

        def read() -> None:
            while len(got) < (len(lines) - sink.lost) * LINE:
                got.extend(os.read(reading, 1 << 16))

        thread = threading.Thread(target=read)
        thread.start()
        count = await told.get()
        thread.join()
    sink.close()
    os.close(reading)
    os.close(writing)
    kept = bytes(got).splitlines(keepends=True)
    assert kept == lines[: len(kept)]
    assert MAX_BACKLOG_BYTES < len(got) < MAX_BACKLOG_BYTES + 500_000  # what the kernel holds too
    assert count == sink.lost == len(lines) - len(kept)
    assert told.empty()


def test_a_process_without_a_loop_waits_for_a_second_at_most() -> None:
    """Without a running loop a line waits for a reader that takes it, and not for one that stalls:
    then it is lost, and the next begins on a line of its own.
    """
    reading, writing = pipe()
    sink = Sink(outlet_of(writing))
    sink.write(b"1\n")
    assert os.read(reading, 100) == b"1\n"
    sink.write(b"x" * 200_000 + b"\n")
    assert sink.lost == 1
    first = os.read(reading, 1 << 20)
    sink.write(b"2\n")
    assert os.read(reading, 100) == b"\n2\n"
    assert set(first) == set(b"x")


def test_a_full_disk_loses_lines_and_nothing_else() -> None:
    """A disk that is full loses lines, and they are counted; nothing is raised."""
    full = os.open("/dev/full", os.O_WRONLY)
    sink = Sink(outlet_of(full))
    sink.write(b"1\n")
    sink.write(b"2\n")
    sink.close()
    os.close(full)
    assert sink.lost == 2


class Scripted:
    """An outlet that takes so many bytes at each try; None is a failure. Then it takes all."""

    def __init__(self, script: list[int | None]) -> None:
        self._script = script
        self.got = b""

    def take(self, data: bytes) -> int:
        step = self._script.pop(0) if self._script else len(data)
        if step is None:
            raise OSError(28, "No space left on device")
        self.got += data[:step]
        return min(step, len(data))

    def wait(self, seconds: float) -> None:
        assert seconds > 0

    def close(self) -> None:
        pass


@given(
    st.lists(st.none() | st.integers(0, 12), max_size=12),
    st.lists(st.integers(1, 6), min_size=1, max_size=12),
)
def test_whatever_the_outlet_takes_lines_stay_whole(
    script: list[int | None], sizes: list[int]
) -> None:
    """However little the outlet takes at a time, and whenever it fails: each line is there once and
    in order, or it is counted as lost; a part of one is on a line of its own.
    """
    outlet = Scripted([*script])
    sink = Sink(outlet)
    lines = [chr(ord("a") + n).encode() * size + b"\n" for n, size in enumerate(sizes)]
    for line in lines:
        sink.write(line)
    sink.write(b"end\n")
    whole = [*lines, b"end\n"]
    got = outlet.got.splitlines(keepends=True)
    kept = [line for line in got if line in whole]
    torn = [line for line in got if line not in whole]
    assert kept == [line for line in whole if line in kept]
    assert len(kept) == len(set(kept))
    assert all(any(line.startswith(part[:-1]) for line in whole) for part in torn)
    assert len(kept) + sink.lost >= len(whole)
    completed = script.count(None)  # by the line break before the next line
    assert len(kept) + sink.lost <= len(whole) + completed


TEXT = st.text() | st.text(st.characters(categories=["Cc", "Cf", "Cs"]))
FIELDS = st.dictionaries(
    st.sampled_from(["id", "url", "host", "error", "bytes", "total", "status"]),
    TEXT | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.none() | st.booleans(),
)


@given(FIELDS)
def test_the_direct_line_is_the_one_that_structlog_writes(fields: dict[str, Any]) -> None:
    """A job's line, which is encoded directly, has the same bytes as structlog's, but for the time;
    and the time has the same form.
    """
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    log = configure(LogSettings(format="json"), stream)
    structlog.get_logger().info("job", **fields)
    log.line("info", "job", fields)
    structlog.reset_defaults()
    assert isinstance(stream.buffer, io.BytesIO)
    theirs, ours = stream.buffer.getvalue().splitlines()
    shape = '{"timestamp":"YYYY-MM-DDTHH:MM:SS.ffffffZ"'
    assert ours[len(shape) :] == theirs[len(shape) :]
    times = [json.loads(line)["timestamp"] for line in (theirs, ours)]
    assert [len(time) for time in times] == [27, 27] or min(map(len, times)) == 20
