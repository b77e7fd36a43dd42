"""The bad network itself, on real sockets; and what the daemon makes of one to its broker.

May touch: loopback sockets; a private broker behind the pipe; the daemon as a subprocess.
Must never: take a delay for proof where the bytes that passed can be counted.
"""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING

import pytest

from tests.rig.daemon import Daemon
from tests.rig.pipe import BUFFER, Pipe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.brokers.node import Node
    from tests.rig.daemon import Dispatcher
    from tests.rig.sites.hostel import Hostel

HEARTBEAT = 60  # seconds: longer than the test takes on any machine
QUIET = 0.3  # seconds without a byte that count as silence


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """A listener, which the test accepts from."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        yield listener


@pytest.fixture
def pipe(server: socket.socket) -> Iterator[Pipe]:
    """A pipe to it."""
    with Pipe(server.getsockname()[1]) as pipe:
        yield pipe


@contextlib.contextmanager
def pair(pipe: Pipe, server: socket.socket) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of one connection through the pipe."""
    with socket.create_connection(("127.0.0.1", pipe.port), 10) as here:
        there, _ = server.accept()
        with there:
            there.settimeout(10)
            yield here, there


def hears_nothing(end: socket.socket) -> bool:
    """Whether nothing comes for a while, not even an end."""
    end.settimeout(QUIET)
    try:
        end.recv(1)
    except TimeoutError:
        return True
    finally:
        end.settimeout(10)
    return False


def exactly(end: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size and (data := end.recv(size - len(got))):
        got += data
    return got


def test_bytes_pass_both_ways_and_so_does_an_end(pipe: Pipe, server: socket.socket) -> None:
    """A healthy pipe passes everything in order, a half-closed side as such, then is closed."""
    with pair(pipe, server) as (here, there):
        data = bytes(range(256)) * 400
        here.sendall(data)
        here.shutdown(socket.SHUT_WR)
        assert exactly(there, len(data) + 1) == data
        there.sendall(b"answer")
        assert exactly(here, 6) == b"answer"
        there.close()
        assert here.recv(1) == b""
    assert (pipe.passed("up"), pipe.passed("down"), pipe.connections) == (len(data), 6, 1)


def test_silence_is_both_ways_and_ends_nothing(pipe: Pipe, server: socket.socket) -> None:
    """Nothing passes, new connections are accepted and hang, and all goes on when it is over."""
    with pair(pipe, server) as (here, there):
        pipe.silence()
        here.sendall(b"up")
        there.sendall(b"down")
        assert hears_nothing(there)
        assert hears_nothing(here)
        with pair(pipe, server) as (other, _):
            assert hears_nothing(other)
        pipe.heal()
        assert (exactly(there, 2), exactly(here, 4)) == (b"up", b"down")


def test_a_stall_is_one_way(pipe: Pipe, server: socket.socket) -> None:
    """What comes from the server hangs, and what goes there passes."""
    with pair(pipe, server) as (here, there):
        pipe.stall("down")
        here.sendall(b"up")
        there.sendall(b"down")
        assert exactly(there, 2) == b"up"
        assert hears_nothing(here)
        pipe.heal()
        assert exactly(here, 4) == b"down"


def test_a_reset_breaks_off_all_and_only_what_is_there(pipe: Pipe, server: socket.socket) -> None:
    """Both sides of each connection see a RST; the next connection is a good one."""
    with pair(pipe, server) as (here, there):
        pipe.reset()
        for end in (here, there):
            with pytest.raises(ConnectionResetError):
                end.recv(1)
    assert pipe.open == 0
    with pair(pipe, server) as (here, there):
        here.sendall(b"x")
        assert exactly(there, 1) == b"x"


def test_a_throttle_is_shared_and_presses_back(pipe: Pipe, server: socket.socket) -> None:
    """Two connections have the rate together, and a sender gets rid of little more than passes."""
    with pair(pipe, server) as (one, end), pair(pipe, server) as (other, far):
        pipe.throttle(20_000, "up")
        other.sendall(bytes(5_000))
        one.settimeout(0)
        began, sent = time.monotonic(), 0
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        with contextlib.suppress(BlockingIOError):
            while True:
                sent += one.send(bytes(65536))
        assert sent < 20_000
        exactly(end, sent)
        exactly(far, 5_000)
        took = time.monotonic() - began
        assert (sent + 5_000 - 2 * BUFFER) / 20_000 < took
        end.sendall(bytes(200_000))  # the other way is as wide as ever
        one.settimeout(10)
        exactly(one, 200_000)
    assert pipe.passed("up") <= 20_000 * (time.monotonic() - began) + 2 * BUFFER


# --- the daemon, with the pipe between it and its broker


@pytest.fixture
def line(node: Node, broker_url: str) -> Iterator[Pipe]:
    """The network to the shared node."""
    with Pipe(node.port) as pipe:
        yield pipe


def test_a_narrow_line_keeps_its_heartbeats(
    line: Pipe, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """A result that takes many heartbeats to send, at 8,000 bytes a second, ends no connection:
    whatever comes counts as one (AMQP 0-9-1 section 4.2.7).
    """
    with Daemon(
        line.url,
        prefix,
        broker__heartbeat=1,
        broker__confirm_timeout=60,
        broker__answer_status=False,
    ).ready() as daemon:
        line.throttle(8_000)
        dispatcher.publish({"url": hostel.url("/size/60000"), "id": "a"})
        [result] = dispatcher.results(1)
        assert (result["id"], result["status"], result["size"]) == ("a", "ok", 60_048)
        line.heal()
        assert daemon.drain() == 0
    assert daemon.logged("broker_lost") == []
    assert line.connections == 2


def test_silence_is_noticed_by_its_heartbeats(
    line: Pipe, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """A line that falls silent without an end is given up after some heartbeats, dialled again
    until it is good, and then the job that was done meanwhile is done again.
    """
    with Daemon(line.url, prefix, broker__heartbeat=1, fetch__connect_timeout=1).ready() as daemon:
        dispatcher.publish({"url": hostel.url("/hold/1"), "id": "a"})
        hostel.wait_for(lambda hits: hits["/hold/1"] == 1)
        line.silence()
        began = time.monotonic()
        daemon.wait_for_line('"event":"broker_lost"')
        assert time.monotonic() - began > 1
        daemon.wait_for_line('"event":"broker_unreachable"')
        start = len(daemon.lines)
        line.heal()
        daemon.wait_for_line('"event":"ready"', start=start)
        hostel.release()
        assert [result["id"] for result in dispatcher.results(1)] == ["a"]


def test_a_reset_is_noticed_at_once(
    line: Pipe, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """No heartbeat is waited for, and the job in flight comes again with the next connection."""
    with Daemon(line.url, prefix, broker__heartbeat=HEARTBEAT).ready() as daemon:
        dispatcher.publish({"url": hostel.url("/hold/1"), "id": "a"})
        hostel.wait_for(lambda hits: hits["/hold/1"] == 1)
        start, began = len(daemon.lines), time.monotonic()
        line.reset()
        daemon.wait_for_line('"event":"broker_lost"', start=start)
        assert time.monotonic() - began < HEARTBEAT
        daemon.wait_for_line('"event":"ready"', start=start)
        hostel.release()
        assert [result["id"] for result in dispatcher.results(1)] == ["a"]
