"""How many bytes of large messages may be unacked; past that no further one is read. Pure.

May touch: counts.
Must never: drop or change a byte, hold back an answer that has arrived, or wait.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

SMALL_BYTES: Final = 16 * 1024  # bytes of a message that is always let in, and not counted
MAX_HOLD: Final = 5.0  # seconds until one more is let in. RabbitMQ closes a connection that takes
# nothing for 15 (its send_timeout), and a heartbeat may stand behind


class Gates:
    """Makes the gate of each connection, all with the limit of now."""

    def __init__(self, limit: float, on_change: Callable[[int], None]) -> None:
        self._limit = limit
        self._on_change = on_change
        self._latest: Gate | None = None

    def make(self) -> Gate:
        """Return the gate of a new connection."""
        self._latest = Gate(self._limit, self._on_change)
        return self._latest

    def configure(self, limit: float) -> None:
        """Take another limit, also for the connection that there is."""
        self._limit = limit
        if self._latest is not None:
            self._latest.configure(limit)


class Gate:
    """Counts large messages from the moment in which their length is known to their ack.

    AMQP's prefetch counts messages, not bytes, and what the broker has sent can't be refused. But
    it can be left on the wire: the kernel's buffers fill, and the broker waits. `on_change` is told
    the bytes that are let in. A gate is one connection's.
    """

    def __init__(self, limit: float, on_change: Callable[[int], None] = lambda _: None) -> None:
        self._limit = limit
        self._on_change = on_change
        self._verdicts: deque[bool] = deque()
        self._closed = False
        self.held = 0
        self.passed = 0
        """How many large messages were let in so far."""
        self.on_room: Callable[[], None] | None = None
        """Called once, when there is room again. A connection that stopped reading sets it."""

    def configure(self, limit: float) -> None:
        """Take another limit. What was let in stays."""
        self._limit = limit
        if not self._closed:
            self._count(0)

    @property
    def crowded(self) -> bool:
        """Whether more is let in than there is room for."""
        return self.held > self._limit

    def admits(self, size: int) -> bool:
        """Let a message of `size` bytes in; False if there is no room for it now."""
        if size <= SMALL_BYTES or self._closed:
            return True
        if self.crowded:
            return False
        self.let_in(size)
        return True

    def let_in(self, size: int) -> None:
        """Let a large message in, whether there is room or not."""
        if self._closed:
            return
        self.passed += 1
        self._count(size)
        self._verdicts.append(self.crowded)

    def arrived(self, size: int) -> bool:
        """Count the next message. Return whether there is no room for it."""
        return size > SMALL_BYTES and bool(self._verdicts) and self._verdicts.popleft()

    def leave(self, size: int) -> None:
        """A message of `size` bytes is settled."""
        if size > SMALL_BYTES and not self._closed:
            self._count(-size)

    def close(self) -> None:
        """The connection has ended: all that came over it is void, and what still comes."""
        self._closed = True
        self._count(-self.held)

    def _count(self, size: int) -> None:
        self.held = max(0, self.held + size)
        self._on_change(self.held)
        if not self.crowded and self.on_room is not None:
            on_room, self.on_room = self.on_room, None
            on_room()


class SmallOnly(Gate):
    """Lets messages of `most` bytes in and nothing larger: `on_large` must cut the line.

    A queue's length limit does not help: RabbitMQ hands a message to a consumer that waits before
    it looks at limits.
    """

    def __init__(self, most: int) -> None:
        super().__init__(0)
        self._most = most
        self.on_large: Callable[[int], None] = lambda _: None

    def admits(self, size: int) -> bool:
        """Let a message of `size` bytes in; False if it is too large."""
        if size <= self._most:
            return True
        self.on_large(size)
        return False

    def let_in(self, size: int) -> None:
        """Refuse a message that was held for long; the connection has ended."""
