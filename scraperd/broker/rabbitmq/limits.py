"""What the broker takes: how large a message, how long unacked. It says so only when it refuses.

May touch: the broker's words.
Must never: guess; a limit that was never said is the one that is configured.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scraperd.broker.ports import Limits

_TOO_LARGE = re.compile(r"message size [0-9]+ (?:bytes )?is larger than .*?size (?P<bytes>[0-9]+)")
_ERRORS = re.compile(  # how RabbitMQ's reply texts begin, AMQP 0-9-1 section 1.2
    "FRAME_ERROR|SYNTAX_ERROR|COMMAND_INVALID|CHANNEL_ERROR|UNEXPECTED_FRAME|RESOURCE_ERROR"
    "|NOT_ALLOWED|NOT_IMPLEMENTED|INTERNAL_ERROR|PRECONDITION_FAILED|NOT_FOUND|ACCESS_REFUSED"
)
_TOO_LATE = re.compile(r"timed out\. Timeout value used: (?P<ms>[0-9]+) ms")


def learn(limits: Limits, words: str) -> tuple[str, float] | None:
    """Lower `limits` by the broker's reason for closing a channel: the setting, and its new value.

    None if it is about no limit, or about none that is new.
    """
    if (match := _TOO_LARGE.search(words)) and int(match["bytes"]) < limits.max_message:
        limits.max_message = int(match["bytes"])
        return "jobs.max_result_size", limits.max_message
    if (match := _TOO_LATE.search(words)) and int(match["ms"]) / 1000 < limits.ack_timeout:
        limits.ack_timeout = int(match["ms"]) / 1000
        return "broker.ack_timeout", limits.ack_timeout
    return None


def blames_a_publish(words: str) -> bool:
    """Whether the broker ended it over something that was sent, which may be sent again.

    A close by an operator, a cut or a silence blames no publish; a limit is learned.
    """
    if _TOO_LARGE.search(words) or _TOO_LATE.search(words):
        return False
    return bool(_ERRORS.search(words))
