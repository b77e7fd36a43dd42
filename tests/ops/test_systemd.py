"""What systemd is told, on a real datagram socket of each kind.

May touch: AF_UNIX sockets of its own.
Must never: need systemd, or speak to the one that runs the tests.
"""

from __future__ import annotations

import secrets
import socket
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scraperd.config.load import notify_socket
from scraperd.ops.systemd import Notifier

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["path", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """Where systemd would listen, as NOTIFY_SOCKET names it, and the socket there."""
    name = f"scraperd-{secrets.token_hex(8)}"
    address = f"@{name}" if request.param == "abstract" else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0{name}" if request.param == "abstract" else address)
        receiver.setblocking(False)
        yield address, receiver


def test_a_state_is_one_datagram(listener: tuple[str, socket.socket]) -> None:
    """All that is said at once arrives at once, a line each, in its order (sd_notify(3))."""
    address, receiver = listener
    Notifier(*notify_socket({"NOTIFY_SOCKET": address})).send(READY=1, WATCHDOG=1, STATUS="a = b")
    assert receiver.recv(4096) == b"READY=1\nWATCHDOG=1\nSTATUS=a = b"
    with pytest.raises(BlockingIOError):
        receiver.recv(4096)


def test_each_state_is_a_datagram_of_its_own(listener: tuple[str, socket.socket]) -> None:
    """A later state does not replace an earlier one, and nothing is kept open in between."""
    address, receiver = listener
    notifier = Notifier(address)
    notifier.send(READY=1)
    notifier.send(STOPPING=1, STATUS="draining 5 jobs")
    assert receiver.recv(4096) == b"READY=1"
    assert receiver.recv(4096) == b"STOPPING=1\nSTATUS=draining 5 jobs"


def test_a_text_can_t_say_more_than_it_should(listener: tuple[str, socket.socket]) -> None:
    """A line break in a status, from a broker's error say, does not become a second assignment."""
    address, receiver = listener
    Notifier(address).send(STATUS="no broker\nMAINPID=1\n", WATCHDOG=1)
    assert receiver.recv(4096) == b"STATUS=no broker MAINPID=1 \nWATCHDOG=1"


def test_a_status_is_utf_8(listener: tuple[str, socket.socket]) -> None:
    """Any text can be said; half a surrogate pair, which is no character, becomes a `?`."""
    address, receiver = listener
    Notifier(address).send(STATUS="käse \udcff")
    assert receiver.recv(4096) == "STATUS=käse ?".encode()


@pytest.mark.parametrize(
    "address",
    [
        "",
        "/nonexistent/notify",
        "@nobody-listens-here",
        "relative",
        "@",
        "/",
        "x" * 200,
        "@" + "x" * 200,
    ],
)
def test_nobody_listening_is_no_error(address: str) -> None:
    """Without systemd, or with one that is gone, the process goes on."""
    Notifier(address).send(READY=1, STATUS="x" * 1_000_000)


def test_a_receiver_that_does_not_read_is_not_waited_for(
    listener: tuple[str, socket.socket],
) -> None:
    """A full socket loses a status; it never holds the event loop."""
    address, receiver = listener
    notifier = Notifier(address)
    for number in range(2000):  # far more than a socket's queue holds
        notifier.send(STATUS=number)
    assert receiver.recv(4096) == b"STATUS=0"


def test_a_status_too_long_for_a_datagram_is_lost_alone(
    listener: tuple[str, socket.socket],
) -> None:
    """What does not fit is not sent, and the next thing is."""
    address, receiver = listener
    Notifier(address).send(STATUS="x" * 10_000_000)
    Notifier(address).send(WATCHDOG=1)
    assert receiver.recv(4096) == b"WATCHDOG=1"


@given(status=st.text(max_size=50))
@settings(max_examples=50, deadline=None)
@example(status="\ud800\0\r\n")
def test_no_text_raises(status: str) -> None:
    """Whatever a status holds, telling systemd never fails the process."""
    Notifier("@nobody-listens-here").send(STATUS=status)


@pytest.mark.parametrize(
    ("usec", "seconds"), [(0, None), (-1, None), (1, 0.0000005), (30_000_000, 15.0)]
)
def test_the_watchdog_is_fed_twice_as_often_as_it_must(usec: int, seconds: float | None) -> None:
    """Half the interval, as sd_watchdog_enabled(3) advises; none without a watchdog."""
    assert Notifier("", usec).watchdog_interval == seconds
