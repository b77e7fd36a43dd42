"""A bad network: a TCP proxy in a thread that can fall silent, stall, crawl and reset.

May touch: loopback sockets, its own thread.
Must never: change, lose or reorder a byte while a connection lives, or read more than it passes on.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from typing import Any, Final, Literal, Self, TypeAlias

Direction: TypeAlias = Literal["up", "down"]  # to the server, and from it

SEGMENT: Final = 1460  # bytes: as on Ethernet; loopback's own 64 KiB would fill any buffer at once
BUFFER: Final = 4 * 1024  # bytes the kernel may keep on this side of each connection
PIECE: Final = 512  # bytes passed on at a time while the pipe is narrow


class Pipe:
    """Listens on a port of its own, and passes bytes both ways to `target_port` of 127.0.0.1.

    What a direction does holds for all connections together, present and to come. A connection
    is always accepted: how the network is, shows only in what passes.
    """

    def __init__(self, target_port: int) -> None:
        self._target = target_port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._listener = _listen()
        self._ways = {name: _Way() for name in ("up", "down")}
        self._live: set[asyncio.Task[None]] = set()
        self._accepting: asyncio.Task[None] | None = None
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0  # accepted so far

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self._listener.close()

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    @property
    def open(self) -> int:
        """How many connections are open now."""
        return len(self._live)

    def passed(self, direction: Direction) -> int:
        """How many bytes have passed so far."""
        return self._ways[direction].passed

    def silence(self) -> None:
        """Pass nothing, either way, as if a cable were out; connections stay open and hang."""
        self._each(lambda way: way.stop(), "up", "down")

    def stall(self, direction: Direction) -> None:
        """Pass nothing this way; the other goes on."""
        self._each(lambda way: way.stop(), direction)

    def throttle(self, bytes_per_second: float, *directions: Direction) -> None:
        """Pass no more than this, each way or only in `directions`."""
        self._each(lambda way: way.narrow(bytes_per_second), *(directions or ("up", "down")))

    def heal(self) -> None:
        """Pass everything on again, at once."""
        self._each(lambda way: way.heal(), "up", "down")

    def reset(self) -> None:
        """Break off every connection with a RST to both sides. New ones are as before."""
        self._call(self._abort())

    def _each(self, change: Any, *directions: str) -> None:
        async def apply() -> None:
            for direction in directions:
                change(self._ways[direction])

        self._call(apply())

    def _call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    async def _start(self) -> None:
        self._accepting = asyncio.create_task(self._accept())

    async def _stop(self) -> None:
        assert self._accepting is not None
        self._accepting.cancel()
        await asyncio.gather(self._accepting, return_exceptions=True)
        await self._abort()

    async def _abort(self) -> None:
        for task in self._live:
            task.cancel()
        await asyncio.gather(*self._live, return_exceptions=True)

    async def _accept(self) -> None:
        while True:
            client, _ = await self._loop.sock_accept(self._listener)
            self.connections += 1
            task = asyncio.create_task(self._serve(client))
            self._live.add(task)
            task.add_done_callback(self._live.discard)

    async def _serve(self, client: socket.socket) -> None:
        """One connection, until both sides have ended it, one breaks it off, or we are told to."""
        server = _frugal(socket.socket())
        server.setblocking(False)
        orderly = False
        try:
            await self._loop.sock_connect(server, ("127.0.0.1", self._target))
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(client, server, self._ways["up"]))
                group.create_task(self._pass(server, client, self._ways["down"]))
            orderly = True
        except* OSError:
            pass  # broken off by one side, and so by us to the other
        finally:
            for end in (client, server):
                _close(end, orderly=orderly)

    async def _pass(self, source: socket.socket, sink: socket.socket, way: _Way) -> None:
        while True:
            await way.opened.wait()
            data = await self._loop.sock_recv(source, PIECE if way.rate else BUFFER)
            await way.turn(len(data))
            if not data:
                sink.shutdown(socket.SHUT_WR)
                return
            await self._loop.sock_sendall(sink, data)
            way.passed += len(data)


class _Way:
    """One direction of the pipe."""

    def __init__(self) -> None:
        self.rate = 0.0  # bytes a second; 0 is as many as come
        self.passed = 0
        self.opened = asyncio.Event()
        self.opened.set()
        self._due = 0.0

    def stop(self) -> None:
        self.opened.clear()

    def narrow(self, rate: float) -> None:
        self.rate, self._due = rate, 0.0

    def heal(self) -> None:
        self.rate = 0.0
        self.opened.set()

    async def turn(self, size: int) -> None:
        """Wait until so many bytes may pass: the connections share the rate."""
        if self.rate:
            now = asyncio.get_running_loop().time()
            self._due = max(now, self._due) + size / self.rate
            await asyncio.sleep(self._due - now)
        await self.opened.wait()


def _listen() -> socket.socket:
    listener = _frugal(socket.socket())  # accepted sockets inherit its options
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    listener.setblocking(False)
    return listener


def _frugal(sock: socket.socket) -> socket.socket:
    """Let back-pressure reach the sender soon."""
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, BUFFER)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _close(sock: socket.socket, *, orderly: bool) -> None:
    if not orderly:  # closed so, a connection ends with a RST
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
