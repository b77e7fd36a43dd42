"""What RabbitMQ's words say of its limits: each is kept to, and none is ever raised by them.

May touch: texts in memory.
Must never: need a broker.
"""

from __future__ import annotations

import pytest

from scraperd.broker.ports import Limits
from scraperd.broker.rabbitmq.limits import blames_a_publish, learn

# RabbitMQ's reply texts, and how another version may put one.
TOO_LARGE = (
    "PRECONDITION_FAILED - message size 150000000 is larger than configured max size 134217728",
    "PRECONDITION_FAILED - message size 20000000 bytes is larger than the limit: max size 16777216",
)
TOO_LATE = (
    "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: "
    "1800500 ms. This timeout value can be configured, see consumers doc guide to learn more"
)
FULL = 10**9  # bytes, and seconds: more than any of these texts says


@pytest.mark.parametrize(("words", "size"), [*zip(TOO_LARGE, (134217728, 16777216), strict=True)])
def test_a_message_that_was_too_large_tells_the_limit(words: str, size: int) -> None:
    """It is the broker's, not the message's size; learned once, and the other limit stays."""
    limits = Limits(FULL, FULL)
    assert learn(limits, words) == ("jobs.max_result_size", size)
    assert limits == Limits(size, FULL)
    assert learn(limits, words) is None
    assert limits == Limits(size, FULL)


def test_an_ack_that_was_too_late_tells_the_timeout() -> None:
    """In seconds, to the millisecond; learned once, and the other limit stays."""
    limits = Limits(FULL, FULL)
    assert learn(limits, TOO_LATE) == ("broker.ack_timeout", 1800.5)
    assert limits == Limits(FULL, 1800.5)
    assert learn(limits, TOO_LATE) is None
    assert limits == Limits(FULL, 1800.5)


@pytest.mark.parametrize("words", [*TOO_LARGE, TOO_LATE])
def test_a_limit_is_never_raised(words: str) -> None:
    """What is configured lower stays as it is."""
    limits = Limits(5, 5.0)
    assert learn(limits, words) is None
    assert limits == Limits(5, 5.0)


@pytest.mark.parametrize("words", ["", "CONNECTION_FORCED - shutdown", "NOT_FOUND - no queue 'a'"])
def test_other_words_teach_nothing(words: str) -> None:
    """Neither an operator's close nor an error is a limit."""
    limits = Limits(FULL, FULL)
    assert learn(limits, words) is None
    assert limits == Limits(FULL, FULL)


@pytest.mark.parametrize("words", ["FRAME_ERROR - type 82", "(501) FRAME_ERROR", "NOT_ALLOWED - x"])
def test_an_error_over_what_was_sent_blames_a_publish(words: str) -> None:
    """Wherever in the text the broker's word for it stands."""
    assert blames_a_publish(words) is True


@pytest.mark.parametrize("words", [*TOO_LARGE, TOO_LATE, "", "CONNECTION_FORCED - by an operator"])
def test_a_limit_or_a_cut_blames_none(words: str) -> None:
    """A limit is learned and the next attempt keeps to it; a cut is nobody's fault."""
    assert blames_a_publish(words) is False
