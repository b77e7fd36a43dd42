"""The one HTTP listener, for probes and scrapes: /healthz, /readyz, /metrics.

May touch: a listening socket, aiohttp's server.
Must never: read a body, show a secret, or know what it answers with.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from aiohttp import web

MAX_HEAD: Final = 8190  # bytes of a request's line, and of each header
BACKLOG: Final = 16  # connections that wait


class Answer(NamedTuple):
    """What a path answers with."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


class CannotListen(Exception):  # noqa: N818 - a state of this machine
    """The address can't be listened on; the message says which, and why."""


@asynccontextmanager
async def listening(
    host: str, port: int, paths: dict[str, Callable[[str], Awaitable[Answer]]]
) -> AsyncIterator[int]:
    """Answer GET and HEAD of these paths, each of which is given the Accept header.

    Yields the port, which the kernel chooses if `port` is 0. Raises CannotListen.
    """
    from aiohttp import web  # noqa: PLC0415 - 20 ms of a start without a listener

    app = web.Application(client_max_size=0)
    for path, answer in paths.items():
        app.router.add_get(path, _handler(answer))
    app.router.add_get("/", _index(sorted(paths)))
    runner = web.AppRunner(app, access_log=None, max_line_size=MAX_HEAD, max_field_size=MAX_HEAD)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, backlog=BACKLOG, shutdown_timeout=1)
        try:
            await site.start()
        except OSError as error:
            raise cannot_listen("metrics.listen", host, port, error) from error
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def cannot_listen(setting: str, host: str, port: int, error: OSError) -> CannotListen:
    """The error in the system's words; asyncio puts its own before them."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return CannotListen(f"{setting}: {host}:{port} can't be listened on: {reason}")


def _handler(
    answer: Callable[[str], Awaitable[Answer]],
) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        from aiohttp import web  # noqa: PLC0415 - as above

        told = await answer(request.headers.get("Accept", ""))
        headers = {"Content-Type": told.content_type, "Cache-Control": "no-store"}
        return web.Response(status=told.status, body=told.body, headers=headers)

    return handle


def _index(paths: list[str]) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_accept: str) -> Answer:
        return Answer(200, ("scraperd\n" + "\n".join(paths) + "\n").encode())

    return _handler(answer)
