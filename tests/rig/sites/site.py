"""A web site that can send anything: raw TCP (or TLS) on 127.0.0.1, one handler a path.

May touch: loopback sockets, tasks of the running loop.
Must never: mend what a handler sends, or hide an error of a handler.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Self, TypeAlias

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

HOST: Final = "127.0.0.1"
PATIENCE: Final = 5.0  # seconds `until` waits; nothing here takes a tenth of it


@dataclass(frozen=True)
class Visit:
    """One request as it came, and the connection to answer it on."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    connection: int  # counts from 0
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def all(self, name: str) -> list[str]:
        """Every value of a header, in order."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def header(self, name: str) -> str | None:
        """The value of a header that came once; None if it did not come."""
        values = self.all(name)
        assert len(values) <= 1, f"{name} came {len(values)} times"
        return values[0] if values else None

    async def send(self, *parts: bytes) -> None:
        """Send bytes as they are; ConnectionResetError once the client is gone."""
        if self.writer.is_closing():  # asyncio would swallow them, uvloop has an error of its own
            raise ConnectionResetError
        self.writer.write(b"".join(parts))
        await self.writer.drain()

    async def drip(self, piece: bytes, every: float = 0.02) -> None:
        """Send `piece` for ever, with a pause after each, until the client is gone."""
        while True:
            await self.send(piece)
            await asyncio.sleep(every)

    async def flood(self, piece: bytes) -> None:
        """Send `piece` for ever, as fast as the client takes it."""
        while True:
            await self.send(piece)

    async def gone(self) -> None:
        """Wait until the client has closed the connection."""
        while await self.reader.read(65536):
            pass
        raise ConnectionResetError

    def reset(self) -> None:
        """Break the connection off with a RST, as a crashed machine's neighbour would."""
        connection: socket.socket = self.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def hang_up(self) -> None:
        """Close the connection in order (FIN) once all is sent."""
        self.writer.close()


Handler: TypeAlias = "Callable[[Visit], Awaitable[None]]"
Raw: TypeAlias = "Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]"


class Site:
    """Answers each path with what was registered for it; keeps the connection between answers.

    `raw` is called with each new connection instead, before anything is read of it.
    An error of a handler, other than its client leaving, is raised at the end.
    """

    def __init__(
        self, tls: ssl.SSLContext | None = None, *, host: str = HOST, listen: str = HOST
    ) -> None:
        self.tls = tls
        self._host = host
        self._listen = listen  # 0.0.0.0 makes it as many hosts as 127.0.0.0/8 has
        self._handlers: dict[str, Handler] = {}
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._news = asyncio.Condition()
        self._errors: list[Exception] = []
        self.raw: Raw | None = None
        self.visits: list[Visit] = []
        self.connections = 0  # opened so far
        self.open = 0  # open now
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, self._listen, 0, backlog=2048)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        if self._errors:
            raise ExceptionGroup("a handler of the site failed", self._errors)

    def url(self, path: str = "/") -> str:
        scheme = "https" if self.tls else "http"
        return f"{scheme}://{self._host}:{self.port}{path}"

    def at(self, path: str, answer: bytes | Handler) -> str:
        """Answer `path` (any query) with these bytes or this handler. Returns its URL."""
        self._handlers[path] = _sender(answer) if isinstance(answer, bytes) else answer
        return self.url(path)

    def seen(self, path: str) -> list[Visit]:
        """The requests for `path`, in the order in which they came."""
        return [visit for visit in self.visits if visit.path == path]

    async def until(self, wanted: Callable[[Site], bool]) -> None:
        """Wait until `wanted` holds; looked at with each request and each end of a connection."""
        try:
            async with asyncio.timeout(PATIENCE), self._news:
                await self._news.wait_for(lambda: wanted(self))
        except TimeoutError:
            raise AssertionError(
                f"not so within {PATIENCE} s: {self.open} of {self.connections} connections open,"
                f" asked for {[visit.target for visit in self.visits][-20:]}"
            ) from None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        number, self.connections, self.open = self.connections, self.connections + 1, self.open + 1
        try:
            if self.tls is not None:  # not by the server: what hangs in a handshake would be lost
                await writer.start_tls(self.tls)
            if self.raw is not None:
                await self.raw(reader, writer)
            else:
                await self._answer(number, reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client has left, which is its right
        except asyncio.CancelledError:
            pass  # the site is closing; the stream's own callback must not see this
        except Exception as error:  # noqa: BLE001 - raised when the site is left
            self._errors.append(error)
        finally:
            writer.transport.abort()
            self._tasks.discard(task)
            self.open -= 1
        await self._tell()

    async def _answer(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while not writer.is_closing():
            head = await reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
            method, target, _ = first.split(" ")
            headers = tuple(_field(line) for line in lines)
            length = next((int(v) for k, v in headers if k.lower() == "content-length"), 0)
            body = await reader.readexactly(length)
            visit = Visit(method, target, headers, body, number, reader, writer)
            self.visits.append(visit)
            await self._tell()
            await self._handlers.get(visit.path, _sender(page(b"no such page", status=404)))(visit)
        await writer.wait_closed()

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()


def page(
    body: bytes = b"<title>A page</title>",
    *,
    status: int = 200,
    content_type: str | None = "text/html; charset=utf-8",
    headers: Iterable[str] = (),
) -> bytes:
    """A whole response with a Content-Length. `headers` are lines, sent as latin-1."""
    reason = HTTPStatus(status).phrase
    lines = [f"HTTP/1.1 {status} {reason}", *headers, f"Content-Length: {len(body)}"]
    if content_type is not None:
        lines.append(f"Content-Type: {content_type}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def redirect(location: str, status: int = 302, *, headers: Iterable[str] = ()) -> bytes:
    """A redirect with a small body, as servers send it."""
    return page(b"<h1>Moved</h1>", status=status, headers=[f"Location: {location}", *headers])


def head(*lines: str, status: str = "200 OK") -> bytes:
    """A status line and header lines, and the empty line that ends them."""
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode("latin-1")


def chunk(data: bytes) -> bytes:
    """One chunk of the chunked coding; an empty one ends the body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


@contextlib.asynccontextmanager
async def full_backlog() -> AsyncIterator[int]:
    """A port whose accept queue is full: a connection to it hangs, as behind a silent firewall."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((HOST, 0))
        listener.listen(0)
        for _ in range(4):  # Linux takes backlog + 1; the others make sure
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def _sender(answer: bytes) -> Handler:
    async def send(visit: Visit) -> None:
        await visit.send(answer)

    return send


def _field(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name, value.strip(" \t")
