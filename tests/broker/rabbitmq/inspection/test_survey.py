"""The survey against another end that is no management API, or never ends its answer.

May touch: a small server on loopback.
Must never: need a broker (tests/e2e/bounds/test_policies.py has one).
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from scraperd.broker.rabbitmq.inspection.policies import survey
from scraperd.broker.rabbitmq.topology import Topology
from scraperd.config.tables import BrokerSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LOGIN = "amqp://user:s3cret@127.0.0.1/"


@asynccontextmanager
async def answering(*parts: bytes, ends: bool = True) -> AsyncIterator[BrokerSettings]:
    """Settings that lead to a server with this answer; without `ends` it goes on drop by drop."""
    writers: list[asyncio.StreamWriter] = []

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        for part in parts:
            writer.write(part)
        while not ends and not writer.is_closing():
            writer.write(b" ")
            await asyncio.sleep(0.02)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield replace(BrokerSettings(), management_api=f"http://127.0.0.1:{port}")
        for writer in writers:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


def head(status: str, size: int) -> bytes:
    """The head of an answer."""
    return f"HTTP/1.1 {status}\r\nContent-Length: {size}\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((b"SSH-2.0-OpenSSH\r\n",), "no answer from http://127.0.0.1:"),
        ((b"",), "no answer from http://127.0.0.1:"),
        ((head("200 OK", 3), b"<a>"), "does not answer JSON"),
        ((head("200 OK", 9), b"[1"), "no answer from"),
        ((head("302 Found", 0),), "answers 302, 0 bytes"),
        ((head("500 Internal", 1), b"x"), "answers 500, 1 bytes"),
        ((head("401 Unauthorized", 0),), "rabbitmqctl set_user_tags user management"),
    ],
)
async def test_what_is_no_management_api_is_told(answer: tuple[bytes, ...], words: str) -> None:
    """In one line, with the setting or the remedy, and never with the password."""
    async with answering(*answer) as table:
        said = await survey(table, LOGIN, Topology("team"))
    assert words in said.unknown
    assert said.unknown.startswith("RabbitMQ's policies on these queues are unknown: ")
    assert "s3cret" not in said.unknown
    assert not said.policies


async def test_an_answer_without_end_is_left() -> None:
    """After the time for all of it, however often a byte comes."""
    async with answering(head("200 OK", 1_000_000), ends=False) as table:
        said = await survey(table, LOGIN, Topology("team"), within=0.3)
    assert "no answer from http://127.0.0.1:" in said.unknown
    assert "within 0.3 s (broker.management_api)" in said.unknown


async def test_without_a_password_nothing_is_asked() -> None:
    """A login by certificate has none."""
    table = replace(BrokerSettings(), management_api="http://127.0.0.1:9")
    said = await survey(table, "amqp://127.0.0.1/?auth=external", Topology("team"))
    assert "needs a password, and broker_url has none" in said.unknown
