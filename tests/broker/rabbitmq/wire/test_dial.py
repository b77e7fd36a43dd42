"""Tests of the dial: what is shown of the URL of a broker, and what a connection begins with.

May touch: strings, a process of its own, a port where nobody listens.
Must never: need a broker.
"""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from scraperd.broker.rabbitmq.wire.dial import WrongUrl, check, endpoint

if TYPE_CHECKING:
    from pathlib import Path


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
    ("url", "words"),
    [
        ("amqp://", "names no host"),
        ("amqp:///vhost", "names no host"),
        ("amqp://user:hunter2@:5672/", "names no host"),
        ("amqp://a..example/", "a..example, can be no name"),
        ("amqp://.example/", "can be no name"),
        (f"amqp://{'a' * 64}.example/", "can be no name"),
        (f"amqp://{'.'.join(['a' * 60] * 5)}/", "253 characters"),
        (f"amqp://broker/{'v' * 256}", "longer than 255 bytes"),
        (f"amqp://broker/{'%C3%A4' * 128}", "longer than 255 bytes"),
        ("amqp://broker/?auth=magic", "auth=magic of broker_url is unknown; known are: external"),
        ("amqp://broker/?heartbeat=5", "heartbeat of broker_url is unknown; known are: auth"),
        ("amqps://broker/?ca_file=/x", "known are: auth, cadata, cafile, capath, certfile"),
        ("amqp://broker/?cafile=/x", "needs TLS: write amqps://"),
        ("amqp://broker/?auth=plain&auth=external", "more than once"),
        ("amqps://broker/?no_verify_ssl=maybe", "must be true or false"),
        ("amqps://broker/?no_verify_ssl=", "must be true or false"),
        ("amqps://broker/?keyfile=/x", "a keyfile without a certfile"),
        ("amqps://broker/?cafile=/no/such/file", "cafile=/no/such/file: No such file"),
        ("amqps://broker/?certfile=/no/such/file", "certfile=/no/such/file: No such file"),
        ("amqps://broker/?certfile=/etc/passwd", "certfile=/etc/passwd: holds no PEM"),
        ("amqps://broker/?cafile=/etc/passwd", "cafile=/etc/passwd: holds no PEM"),
        ("amqps://broker/?cadata=!", "cadata: "),
    ],
)
def test_a_url_that_can_lead_to_no_broker_is_refused(url: str, words: str) -> None:
    """Each part of the URL that would fail later, or have no effect, is named before any dial."""
    with pytest.raises(WrongUrl, match=re.escape(words)) as caught:
        check([url])
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "amqp://broker",
        "amqp://broker.example.:5672/%2F",
        "amqp://my_rabbit-1/",
        "amqp://10.0.0.1/",
        "amqp://[::1]:5672/v?auth=PLAIN",
        "amqps://broker/?no_verify_ssl=false",
        "amqps://broker/?no_verify_ssl=TRUE&auth=external",
        f"amqp://broker/{'v' * 255}",
    ],
)
def test_a_url_that_may_lead_to_a_broker_is_taken(url: str) -> None:
    """Names with underscores, addresses, a final dot, options in any case."""
    check([url])


def test_a_key_that_is_encrypted_is_refused(tmp_path: Path) -> None:
    """Nobody is asked for its password: a daemon has no terminal."""
    key, cert = tmp_path / "key", tmp_path / "cert"
    made = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-subj", "/CN=a", "-days", "1")
    out = ("-keyout", str(key), "-out", str(cert), "-passout", "pass:hunter2")
    subprocess.run([*made, *out], check=True, capture_output=True, timeout=60)
    with pytest.raises(WrongUrl, match="the key is encrypted; remove its password"):
        check([f"amqps://broker/?certfile={cert}&keyfile={key}"])


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
