"""What the listener relies on in aiohttp's server without its documentation's word.

May touch: aiohttp's own classes, not ours, on loopback; the listener's source as a text.
Must never: test the listener itself; what fails here says what an upgrade of aiohttp changed.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from aiohttp import web, web_protocol, web_server

from scraperd.server import listener
from tests.fetch.test_aiohttp_contract import private_names

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PROMISES = {
    "aiohttp.http_exceptions": "a head that is too long is told apart: LineTooLong",
    "_manager": "a connection knows its server",
    "_request_in_progress": "true while a handler runs, and only then",
    "_waiter": "a future while a head is waited for; None while a body is dropped",
    "_request_count": "0 until the first request of a connection",
    "_force_close": "true once a connection was told to end",
    "_connections": "of a server, the oldest first",
    "_loop": "for a connection that is made by hand",
    "_kwargs": "the options of a connection that is made by hand",
}
HEAD = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n"


class Serving:
    """aiohttp's own server, whose handler answers when it is told to, and reads no body."""

    def __init__(self) -> None:
        self.running, self.go = asyncio.Event(), asyncio.Event()
        self.server = web.Server(self._handle, lingering_time=60, access_log=None)
        self.port = 0

    async def _handle(self, _: web.BaseRequest) -> web.Response:
        self.running.set()
        await self.go.wait()
        return web.Response()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a client's streams, once the server has the connection."""
        count = len(self.server._connections)
        streams = await asyncio.open_connection("127.0.0.1", self.port)
        while len(self.server._connections) == count:  # noqa: ASYNC110 - the same
            await asyncio.sleep(0)
        return streams


@pytest.fixture
async def serving() -> AsyncIterator[Serving]:
    """A server on a free port."""
    it = Serving()
    listening = await asyncio.get_running_loop().create_server(it.server, "127.0.0.1", 0)
    it.port = listening.sockets[0].getsockname()[1]
    yield it
    listening.close()
    await it.server.shutdown(0)


async def test_a_connection_says_what_it_does(serving: Serving) -> None:
    """A head is waited for, a handler runs, a body is dropped: each is told apart."""
    reader, writer = await serving.connect()
    (it,) = serving.server._connections
    while it._waiter is None:  # noqa: ASYNC110 - the same
        await asyncio.sleep(0)
    assert (it._request_in_progress, it._request_count) == (False, 0)
    assert it._manager is serving.server
    writer.write(HEAD % 1000 + b"a part of it")
    await serving.running.wait()
    assert (it._request_in_progress, it._request_count) == (True, 1)
    serving.go.set()
    await reader.readuntil(b"\r\n\r\n")
    while it._request_in_progress:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert (it._waiter, it._request_count, it._force_close) == (None, 1, False)
    it.force_close()
    assert it._force_close
    assert await reader.read() == b""
    writer.close()


async def test_the_connections_are_in_the_order_of_their_age(serving: Serving) -> None:
    """The first that came is the first in the server's own collection."""
    clients = [await serving.connect() for _ in range(3)]
    ports = [client.get_extra_info("sockname")[1] for _, client in clients]
    theirs = [
        it.transport.get_extra_info("peername")[1]
        for it in serving.server._connections
        if it.transport is not None
    ]
    assert theirs == ports
    for _, client in clients:
        client.close()


async def test_a_connection_can_be_made_by_hand() -> None:
    """A subclass of aiohttp's connection takes the server's loop and options."""

    async def handle(_: web.BaseRequest) -> web.Response:
        return web.Response()

    server = web.Server(handle, max_line_size=100)
    made = web.RequestHandler(server, loop=server._loop, **server._kwargs)
    assert isinstance(made, asyncio.Protocol)
    assert server._kwargs == {"max_line_size": 100}
    assert server._connections == {}


def test_each_internal_has_a_promise() -> None:
    """The listener uses no undocumented name of aiohttp that is not in the table above."""
    tree = ast.parse(Path(listener.__file__).read_text())
    theirs = [ast.parse(inspect.getsource(module)) for module in (web_protocol, web_server)]
    names = private_names(tree) & set().union(*map(private_names, theirs))
    modules = {it.module for it in ast.walk(tree) if isinstance(it, ast.ImportFrom) and it.module}
    undocumented = {module for module in modules if module.startswith("aiohttp.")}
    assert names | undocumented == set(PROMISES)
