"""What the broker takes: how large a message, how long unacked. It says so only when it refuses.

May touch: the broker's words.
Must never: guess; a limit that was never said is the one that is configured.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from scraperd.config.settings import JOB_SHARE

_TOO_LARGE = re.compile(r"message size [0-9]+ (?:bytes )?is larger than .*?size (?P<bytes>[0-9]+)")
_ERRORS = re.compile(  # how RabbitMQ's reply texts begin, AMQP 0-9-1 section 1.2
    "FRAME_ERROR|SYNTAX_ERROR|COMMAND_INVALID|CHANNEL_ERROR|UNEXPECTED_FRAME|RESOURCE_ERROR"
    "|NOT_ALLOWED|NOT_IMPLEMENTED|INTERNAL_ERROR|PRECONDITION_FAILED|NOT_FOUND|ACCESS_REFUSED"
)
_TOO_LATE = re.compile(r"timed out\. Timeout value used: (?P<ms>[0-9]+) ms")
_RELEASE: Final = 0.9  # of the ack timeout, after which a delivery is let go in another way


@dataclass(slots=True)
class Limits:
    """The configured limits, lowered by what the broker says. Bytes and seconds."""

    max_message: int
    ack_timeout: float

    @property
    def job(self) -> float:
        """How long a job may take from its delivery to its outcome."""
        return self.ack_timeout * JOB_SHARE

    @property
    def release(self) -> float:
        """How long a delivery may be held in all."""
        return self.ack_timeout * _RELEASE

    def learn(self, words: str) -> tuple[str, float] | None:
        """Read the broker's reason for closing a channel: the setting it is about, and its value.

        None if it is about no limit, or about none that is new.
        """
        if (match := _TOO_LARGE.search(words)) and int(match["bytes"]) < self.max_message:
            self.max_message = int(match["bytes"])
            return "max_result_size", self.max_message
        if (match := _TOO_LATE.search(words)) and int(match["ms"]) / 1000 < self.ack_timeout:
            self.ack_timeout = int(match["ms"]) / 1000
            return "ack_timeout", self.ack_timeout
        return None


def blames_a_publish(words: str) -> bool:
    """Whether the broker ended it over something that was sent, which may be sent again.

    An operator's close, a cut or a silence is nobody's fault; a limit is learned.
    """
    if _TOO_LARGE.search(words) or _TOO_LATE.search(words):
        return False
    return bool(_ERRORS.search(words))
