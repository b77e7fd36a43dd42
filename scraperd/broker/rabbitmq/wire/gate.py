"""How many bytes of large messages may be unacked: past it, no further one is read off the wire.

May touch: the stream of the connection that consumes.
Must never: drop or change a byte, hold back an answer that has arrived, or wait without an end.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from collections.abc import Callable

SMALL_BYTES: Final = 16 * 1024  # bytes of a message that is always let in, and not counted
MAX_HOLD: Final = 5.0  # seconds until one more is let in. RabbitMQ closes a connection that takes
# nothing for 15 (its send_timeout), and a heartbeat may stand behind
_LENGTHS: Final = (1, 6)  # how the library reads a frame: its kind; channel and size; all the rest
_STEPS: Final = 3
_UNKNOWN: Final = -1
_CONTENT_HEADER: Final = 2  # AMQP 0-9-1 section 2.3.5.2: a frame that says how long the body is


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
        self._opened = asyncio.Event()
        self._closed = False
        self.held = 0
        self.passed = 0
        """How many large messages were let in so far."""

    @property
    def crowded(self) -> bool:
        """Whether more is let in than there is room for."""
        return self.held > self._limit

    async def passage(self, size: int) -> None:
        """Let a message of `size` bytes in: at once, or when there is room, or after MAX_HOLD."""
        if size <= SMALL_BYTES:
            return
        if self.crowded:
            try:
                async with asyncio.timeout(MAX_HOLD):
                    await self._opened.wait()
            except TimeoutError:
                pass
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
        self._count(-self.held)
        self._closed = True

    def _count(self, size: int) -> None:
        self.held = max(0, self.held + size)
        if self.crowded:
            self._opened.clear()
        else:
            self._opened.set()
        self._on_change(self.held)


class GatedReader:
    """A connection's reader, for the client library, that asks the gate before each body.

    What the library reads and how is its own affair: if it does so in another way some day,
    everything passes.
    """

    def __init__(self, reader: asyncio.StreamReader, gate: Gate) -> None:
        self._reader = reader
        self._gate = gate
        self._step = 0
        self._kind = 0

    @classmethod
    def of(cls, reader: asyncio.StreamReader, gate: Gate) -> asyncio.StreamReader:
        """What the library takes for a reader: it uses the three methods below."""
        return cast("asyncio.StreamReader", cls(reader, gate))

    def at_eof(self) -> bool:
        """Whether everything was read."""
        return self._reader.at_eof()

    async def read(self, n: int = -1) -> bytes:
        """As the reader's own."""
        return await self._reader.read(n)

    async def readexactly(self, n: int) -> bytes:
        """As the reader's own; behind a content header it waits for the gate."""
        data = await self._reader.readexactly(n)
        step = self._step
        if step == _UNKNOWN:
            return data
        self._step = (step + 1) % _STEPS
        if step < len(_LENGTHS) and n != _LENGTHS[step]:
            self._step = _UNKNOWN
        elif step == 0:
            self._kind = data[0]
        elif step == _STEPS - 1 and self._kind == _CONTENT_HEADER:
            await self._gate.passage(int.from_bytes(data[4:12], "big"))
        return data
