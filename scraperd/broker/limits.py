"""What the broker takes: how large a message, how long unacked. It says so only when it refuses.

May touch: the broker's words.
Must never: guess; a limit that was never said is the one that is configured.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from scraperd.settings import JOB_SHARE

_TOO_LARGE = re.compile(r"message size [0-9]+ (?:bytes )?is larger than .*?size (?P<bytes>[0-9]+)")
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


def is_about_limits(words: str) -> bool:
    """Whether the broker closed a channel over a limit, which is no delivery's fault for long."""
    return bool(_TOO_LARGE.search(words) or _TOO_LATE.search(words))
