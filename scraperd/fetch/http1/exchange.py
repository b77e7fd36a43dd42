"""One request and its response on a connection: what is written, and how the body is read.

May touch: connections of protocol.py; nothing of aiohttp's own client.
Must never: read more than it is asked for, or follow a redirect.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Self

from scraperd.fetch.http1.reader import HeadLimits, Reader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from scraperd.fetch.http1.reader import Head
    from scraperd.fetch.message import Request
    from scraperd.fetch.protocol import Connection

WRITE_BUFFER: Final = 256 * 1024  # bytes of a request that are given to the transport at once
_NO_LENGTH: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})  # without a body they need none


class Exchange:
    """A request that was sent on `connection`, and the response as it comes.

    An async context manager: what is still being sent at its end is given up.
    """

    def __init__(
        self, connection: Connection, request: Request, head: bytes, limits: HeadLimits
    ) -> None:
        self.reader = Reader(limits, for_head=request.method == "HEAD")
        self._connection = connection
        self._head = head
        self._body = request.body or b""
        self._sending: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        body = self._body
        if len(body) <= WRITE_BUFFER:
            self._connection.ask(self.reader, self._head + body if body else self._head)
        else:
            self._connection.ask(self.reader, self._head)
            self._sending = asyncio.ensure_future(self._send())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.wait([self._sending])
            self._sending = None  # it refers to this, and so to the body: no cycle is left behind

    async def _send(self) -> None:
        """Send the body, while the response is waited for: it may come before its end."""
        view = memoryview(self._body)
        try:
            for at in range(0, len(view), WRITE_BUFFER):
                await self._connection.send(bytes(view[at : at + WRITE_BUFFER]))
        except OSError:
            return  # whoever waits for the response learns it

    async def head(self) -> Head:
        """Wait for the final head. Raises Malformed, Incomplete or OSError."""
        await self._connection.more(body=False)
        assert self.reader.head is not None
        return self.reader.head

    async def body(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes. Raises as `head` does."""
        while True:
            if piece := self.reader.take():
                yield piece
            if self.reader.ended and not self.reader.size:
                return
            await self._connection.more()


def head_of(request: Request, defaults: dict[str, str], *, last: bool, absolute: bool) -> bytes:
    """Encode the request line and the headers (RFC 9112 section 3).

    `defaults` are the headers that are sent if the request has none of the name. `last` says that
    the connection ends with it. `absolute` is for a proxy that reads it. Raises ValueError.
    """
    url = request.url
    target = str(url.with_fragment(None)) if absolute else url.raw_path_qs
    lines = [f"{request.method} {target} HTTP/1.1", f"Host: {url.host_port_subcomponent}"]
    given = {name.lower() for name in request.headers}
    lines += [f"{name}: {value}" for name, value in defaults.items() if name.lower() not in given]
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    if request.body is not None:
        lines.append(f"Content-Length: {len(request.body)}")
    elif request.method not in _NO_LENGTH:
        lines.append("Content-Length: 0")
    if last:
        lines.append("Connection: close")
    text = "\r\n".join([*lines, "", ""])
    if text.count("\n") != len(lines) + 1 or text.count("\r") != len(lines) + 1 or "\0" in text:
        raise ValueError("a header holds a line break")
    return text.encode("utf-8", "surrogateescape")
