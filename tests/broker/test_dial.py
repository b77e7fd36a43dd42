"""Tests of the dial: what is shown of the URL of a broker.

May touch: strings.
Must never: connect.
"""

from __future__ import annotations

import pytest

from scraperd.broker.rabbitmq.wire.dial import endpoint


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("amqp://user:hunter2@broker/vhost", "amqp://broker/vhost"),
        ("amqps://user:hunter2%40@broker:5671/%2F", "amqps://broker:5671/%2F"),
        ("amqps://broker/v?keyfile=/k&password=hunter2", "amqps://broker/v"),
        ("amqps://u:hunter2@broker/v?password=hunter2@x", "amqps://broker/v"),
        ("amqp://broker", "amqp://broker"),
        ("amqp://user:hunter2?x@broker/", "(not a URL)"),
        ("amqp://user:hunter2/x@broker/", "(not a URL)"),
    ],
)
def test_a_broker_is_named_without_secrets(url: str, shown: str) -> None:
    """No password reaches a log line or a message, whether it stands before the host or behind."""
    assert endpoint(url) == shown
