"""What waits to be written to the broker: all small pieces at once, large bodies in slices. Pure.

May touch: bytes.
Must never: put a frame between the frames of a message on the same channel, or copy a body twice.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from scraperd.broker.rabbitmq.wire.codec import frames

if TYPE_CHECKING:
    from collections.abc import Callable

SLICE: Final = 256 * 1024  # bytes of a large body that are written in one turn of the loop


@dataclass(slots=True)
class Sending:
    """A large body whose method and header are written: its channel can send nothing else."""

    channel: int
    rest: memoryview
    frame_max: int
    on_sent: Callable[[], None]


class Outbox:
    """Pieces in their order, and large bodies, a slice of each in turn.

    What a channel sends while a large body of the same channel is under way is kept by the channel
    (`Channel`), so small pieces of all other channels go between the slices.
    """

    def __init__(self) -> None:
        self._pieces: list[bytes | memoryview] = []
        self._large: deque[Sending] = deque()

    def __bool__(self) -> bool:
        return bool(self._pieces or self._large)

    @property
    def waiting(self) -> int:
        """Bytes of bodies and frames that were not taken yet."""
        pieces = sum(map(len, self._pieces))
        return pieces + sum(len(sending.rest) for sending in self._large)

    def put(self, *pieces: bytes | memoryview) -> None:
        """Add pieces of whole frames."""
        self._pieces += pieces

    def send(self, sending: Sending) -> None:
        """Add a large body; `on_sent` is called when the last slice was taken."""
        self._large.append(sending)

    def drop(self, channel: int) -> None:
        """Forget the large body of a channel that has ended."""
        self._large = deque(one for one in self._large if one.channel != channel)

    def clear(self) -> None:
        """Forget all large bodies: the connection ends."""
        self._large.clear()

    def take(self) -> bytes:
        """Return what goes out next: all pieces, and one slice of one large body."""
        pieces, self._pieces = self._pieces, []
        if self._large:
            sending = self._large.popleft()
            longest = sending.frame_max - frames.OVERHEAD_BYTES
            size = max(longest, SLICE // longest * longest)  # whole frames
            pieces += frames.body(sending.channel, sending.rest[:size], sending.frame_max)
            sending.rest = sending.rest[size:]
            if sending.rest:
                self._large.append(sending)
            else:
                sending.on_sent()
        return b"".join(pieces)
