"""The sink of the log: whole lines in order, nobody waits for the reader, what is lost is counted.

May touch: pipes, sockets, pseudo-terminals and files of its own.
Must never: write to the real standard output.
"""

from __future__ import annotations

import asyncio
import fcntl
import io
import json
import os
import pty
import socket
import subprocess
import sys
import threading
import time
import tty
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from scraperd.config.tables import LogSettings
from scraperd.ops.log import configure
from scraperd.ops.outlets import outlet_of, unwaited
from scraperd.ops.sink import MAX_BACKLOG_BYTES, MAX_DELAY, MAX_JOBS_BYTES, MAX_WAIT, Sink

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


async def test_a_line_that_is_rare_finds_room_behind_those_of_jobs() -> None:
    """While the reader stalls, lines of jobs leave room for a line that says what went wrong: it
    comes out when the reader does, behind the jobs and before the count of what was lost.
    """
    reading, writing = pipe()
    sink, told = Sink(outlet_of(writing)), asyncio.Queue[int]()
    got = bytearray()
    with sink.turns(told.put_nowait):
        for line in numbered(2000):
            sink.write(line, MAX_JOBS_BYTES)
            await asyncio.sleep(0)
        lost = sink.lost
        sink.write(b"died\n")

        def read() -> None:
            while not got.endswith(b"died\n"):
                got.extend(os.read(reading, 1 << 16))

        await asyncio.to_thread(read)
        assert await told.get() == lost == sink.lost > 0
    sink.close()
    os.close(reading)
    os.close(writing)
    kept = bytes(got).splitlines(keepends=True)
    assert kept[-1] == b"died\n"
    assert kept[:-1] == numbered(len(kept) - 1)


async def test_lines_that_can_wait_are_written_together() -> None:
    """Lines of several turns reach the reader in one piece within MAX_DELAY, or with one that can
    not wait, in their order; without a loop they are written at once.
    """
    ours, writing = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)  # a piece is a datagram
    ours.setblocking(False)
    loop, sink = asyncio.get_running_loop(), Sink(outlet_of(writing.fileno()))
    with sink.turns(lambda _: None):
        for line in (b"1\n", b"2\n"):
            sink.write(line, can_wait=True)
            await asyncio.sleep(0)
        began = loop.time()
        assert await loop.sock_recv(ours, 100) == b"1\n2\n"
        assert loop.time() - began < MAX_DELAY + 5  # on a machine that is busy
        sink.write(b"3\n", can_wait=True)
        sink.write(b"4\n")
        await asyncio.sleep(0)
        assert ours.recv(100) == b"3\n4\n"
        sink.write(b"5\n", can_wait=True)
    assert ours.recv(100) == b"5\n"
    sink.write(b"6\n", can_wait=True)
    assert ours.recv(100) == b"6\n"
    sink.close()
    ours.close()
    writing.close()


async def test_what_was_lost_is_said_at_the_end_too() -> None:
    """A reader that comes back while the process ends gets the count of the lines it missed."""
    reading, writing = pipe()
    sink, got = Sink(outlet_of(writing)), bytearray()

    def read() -> None:
        while not got.endswith(b"lost\n"):
            got.extend(os.read(reading, 1 << 16))

    thread = threading.Thread(target=read)
    with sink.turns(lambda count: sink.write(f"{count} lost\n".encode()) and None):
        for line in numbered(2000):
            sink.write(line)
            await asyncio.sleep(0)
        thread.start()
    thread.join()
    sink.close()
    os.close(reading)
    os.close(writing)
    *kept, last = bytes(got).splitlines(keepends=True)
    assert kept == numbered(len(kept))
    assert last == f"{2000 - len(kept)} lost\n".encode()


def test_a_reader_that_was_waited_for_in_vain_is_not_waited_for_again() -> None:
    """Without a loop, ten lines for a reader that stalls take the wait of one."""
    reading, writing = pipe()
    sink = Sink(outlet_of(writing))
    began = time.monotonic()
    for _ in range(10):
        sink.write(b"x" * 100_000 + b"\n")
    assert MAX_WAIT <= time.monotonic() - began < 2 * MAX_WAIT
    assert sink.lost == 10
    sink.close()
    os.close(reading)
    os.close(writing)


WRITER = """
import sys
from scraperd.ops.outlets import outlet_of
from scraperd.ops.sink import Sink

sink, mark = Sink(outlet_of(1)), sys.argv[1]
for n in range(0, 4000, 10):
    sink.write("".join(f'{mark} {n + k} {mark * 300}\\n' for k in range(10)).encode())
"""


def test_lines_of_several_processes_in_one_pipe_stay_whole() -> None:
    """Two daemons that share their log, a pipe: each line is whole, and those of each in order."""
    reading, writing = pipe()
    children = [
        subprocess.Popen([sys.executable, "-c", WRITER, mark], stdout=writing) for mark in "ab"
    ]
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        lines = [line.decode().split(" ") for line in file]
    assert [child.wait() for child in children] == [0, 0]
    for mark in "ab":
        own = [line for line in lines if line[0] == mark]
        assert own == [[mark, str(n), mark * 300 + "\n"] for n in range(4000)]
    assert len(lines) == 8000


@pytest.mark.parametrize("make", [pipe, terminal, stream_socket])
def test_the_flags_of_a_shared_descriptor_stay_as_they_were(
    make: Callable[[], tuple[int, int]],
) -> None:
    """Other processes have the same open file: it does not become non-blocking for them."""
    reading, writing = make()
    before = fcntl.fcntl(writing, fcntl.F_GETFL)
    sink = Sink(outlet_of(writing))
    sink.write(b"1\n")
    assert fcntl.fcntl(writing, fcntl.F_GETFL) == before
    assert os.get_blocking(writing)
    sink.close()
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("make", [pipe, stream_socket, terminal])
def test_standard_error_of_a_daemon_is_not_waited_for(
    make: Callable[[], tuple[int, int]],
) -> None:
    """What Python writes to a standard error that nobody reads is dropped, and nobody waits."""
    reading, writing = make()
    with os.fdopen(writing, "w", encoding="utf-8") as stream:
        errors = unwaited(stream)
        print("first", file=errors)
        began = time.monotonic()
        for _ in range(3000):
            print("x" * LINE, file=errors)
        assert time.monotonic() - began < MAX_WAIT
        errors.close()
        assert os.read(reading, 6) == b"first\n"
    os.close(reading)


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
