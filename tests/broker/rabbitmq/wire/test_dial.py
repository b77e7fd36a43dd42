"""Tests of the dial: what is shown of the URL of a broker, and what a connection begins with.

May touch: strings, a process of its own, a port where nobody listens.
Must never: need a broker.
"""

from __future__ import annotations

import subprocess
import sys

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


@pytest.mark.parametrize(
    ("connect", "wanted"),
    [
        ("await dial('amqp://127.0.0.1:1/', 'test', 10, 5)", []),
        (
            "async with connected(('amqp://127.0.0.1:1/',), 5): pass",
            ["shortstr", "table", "timestamp"],
        ),
    ],
    ids=["daemon", "client"],
)
def test_decoders_are_installed_by_a_command_and_not_by_an_import(
    connect: str, wanted: list[str]
) -> None:
    """An import changes nothing in the library, and the daemon does not use it; a command's
    connection changes it before it reads a byte.
    """
    code = f"""
import asyncio, contextlib
from pamqp import decode
before = dict(decode.METHODS)
from scraperd.broker.rabbitmq import codec, dead_queue, link
from scraperd.broker.rabbitmq.client import connected
from scraperd.broker.rabbitmq.wire.dial import dial
assert decode.METHODS == before, "an import installed decoders"
async def main():
    with contextlib.suppress(Exception):
        {connect}
asyncio.run(main())
changed = sorted(name for name in before if decode.METHODS[name] is not before[name])
assert changed == {wanted!r}, changed
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
