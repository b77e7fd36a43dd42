"""What can go wrong on a connection to the broker, as exceptions. Pure.

May touch: reply codes and the broker's own words.
Must never: hold a password, or a body.
"""

from __future__ import annotations

from typing import Final

# Reply codes, AMQP 0-9-1 section 1.2.
REPLY_SUCCESS: Final = 200
ACCESS_REFUSED: Final = 403
NOT_FOUND: Final = 404
RESOURCE_LOCKED: Final = 405
PRECONDITION_FAILED: Final = 406
FRAME_ERROR: Final = 501
SYNTAX_ERROR: Final = 502
COMMAND_INVALID: Final = 503
CHANNEL_ERROR: Final = 504
UNEXPECTED_FRAME: Final = 505
NOT_ALLOWED: Final = 530
INTERNAL_ERROR: Final = 541


class ProtocolError(Exception):
    """The peer broke the rules of AMQP 0-9-1: a reply code, and what it did."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(words)
        self.code = code


class UnsendableError(ValueError):
    """AMQP has no form for a value that should be sent."""


class Closed(ConnectionError):  # noqa: N818 - a state of the world, not a mistake
    """A connection or a channel has ended. With a code, `text` is what the broker said."""

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code


class ChannelClosed(Closed):
    """One channel has ended; its connection goes on."""


class AccessRefused(ChannelClosed):
    """The user may not do that."""


class NotFound(ChannelClosed):
    """The queue or exchange does not exist."""


class Locked(ChannelClosed):
    """The queue is another connection's alone."""


class PreconditionFailed(ChannelClosed):
    """The queue or exchange has other arguments, or a delivery tag is unknown."""


class NotTaken(Exception):  # noqa: N818 - a state of the world, not a mistake
    """No queue took a message that was published."""


class Returned(NotTaken):
    """The message could not be routed to any queue (basic.return)."""


class Nacked(NotTaken):
    """A queue rejected the message, for example because the queue is full (basic.nack)."""


def channel_closed(text: str, code: int) -> ChannelClosed:
    """Return the end of a channel by the reply code of the broker."""
    kinds: dict[int, type[ChannelClosed]] = {
        ACCESS_REFUSED: AccessRefused,
        NOT_FOUND: NotFound,
        RESOURCE_LOCKED: Locked,
        PRECONDITION_FAILED: PreconditionFailed,
    }
    return kinds.get(code, ChannelClosed)(text, code)
