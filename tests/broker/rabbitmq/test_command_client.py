"""Tests of the commands' connection: what it makes of errors of the client library.

May touch: the session's RabbitMQ node.
Must never: declare anything.
"""

from __future__ import annotations

import pytest

from scraperd.broker.ports import Lost
from scraperd.broker.rabbitmq.client import connected


async def test_a_call_that_the_library_ends_without_a_word_is_a_lost_broker(
    broker_url: str,
) -> None:
    """Aiormq ends pending calls with a bare Exception when it closes in order."""
    with pytest.raises(Lost, match=r"lost the broker at amqp://127\.0\.0\.1"):
        async with connected((broker_url,), 5.0):
            raise Exception  # noqa: TRY002 - as the library does


async def test_a_mistake_of_ours_is_no_lost_broker(broker_url: str) -> None:
    """Any other error passes as it is."""
    with pytest.raises(ZeroDivisionError):
        async with connected((broker_url,), 5.0):
            raise ZeroDivisionError
