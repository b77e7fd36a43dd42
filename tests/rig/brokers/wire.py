"""A proxy between an AMQP client and the broker that reads every frame: who said what, in order.

May touch: loopback sockets, its own thread.
Must never: change, drop or reorder a frame; it may only hold the broker's answers back for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from pamqp import frame as amqp_frame

if TYPE_CHECKING:
    from collections.abc import Callable

_PROTOCOL_HEADER = 8  # bytes of "AMQP" 0 0 9 1, which only the client sends


@dataclass(frozen=True)
class Seen:
    """One method frame: `sent` is true from client to broker; `connection` counts from 0."""

    connection: int
    sent: bool
    name: str
    frame: Any


class Wire:
    """Listens on a port of its own and passes everything on to the broker's."""

    def __init__(self, broker_port: int) -> None:
        self._broker_port = broker_port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._news = threading.Condition()
        self._seen: list[Seen] = []
        self._connections = 0
        self._writers: dict[asyncio.StreamWriter, int] = {}
        self._open_gate = asyncio.Event()
        self._server: asyncio.Server | None = None
        self.port = 0
        self.cut_when: Callable[[Seen], int | None] = lambda _: None
        """Asked of each frame before it is passed on: the number of a connection to reset."""

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    @property
    def seen(self) -> list[Seen]:
        """Every method frame so far, in the order in which it passed."""
        with self._news:
            return list(self._seen)

    def wait_for(self, wanted: Callable[[list[Seen]], bool], timeout: float = 20) -> list[Seen]:
        """Wait until `wanted` holds of what was seen, and return that."""
        with self._news:
            if not self._news.wait_for(lambda: wanted(self._seen), timeout):
                names = [f"{'>' if s.sent else '<'}{s.connection} {s.name}" for s in self._seen]
                raise AssertionError(f"not seen within {timeout} s; the wire: {names[-40:]}")
            return list(self._seen)

    def hold_confirms(self) -> None:
        """Hold back the broker's confirms (its Basic.Ack and Basic.Nack) until `release`."""
        self._loop.call_soon_threadsafe(self._open_gate.clear)
        self._call(asyncio.sleep(0))

    def release(self) -> None:
        """Let held confirms pass."""
        self._loop.call_soon_threadsafe(self._open_gate.set)

    def cut(self) -> None:
        """Reset every connection, as a network that breaks would."""
        self._call(self._abort())

    def _call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    async def _start(self) -> None:
        self._open_gate.set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._abort()
        pending = asyncio.all_tasks() - {asyncio.current_task()}
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)

    async def _abort(self, connection: int | None = None) -> None:
        for writer, number in list(self._writers.items()):
            if connection is None or number == connection:
                writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, self._connections = self._connections, self._connections + 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._broker_port)
            self._writers |= {writer: number, to_writer: number}
            to_writer.write(await reader.readexactly(_PROTOCOL_HEADER))
            await asyncio.gather(
                self._pass(number, reader, to_writer, sent=True),
                self._pass(number, to_reader, writer, sent=False),
            )
        for end in (writer, *([to_writer] if "to_writer" in locals() else [])):
            end.transport.abort()
            self._writers.pop(end, None)

    async def _pass(
        self,
        number: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        sent: bool,
    ) -> None:
        """Pass frames on one by one (AMQP 0-9-1 section 4.2.3) and note each method."""
        while True:
            head = await reader.readexactly(7)
            size = int.from_bytes(head[3:7], "big")
            raw = head + await reader.readexactly(size + 1)
            _, _, frame = amqp_frame.unmarshal(raw)
            name = getattr(frame, "name", "")
            if not sent and name in ("Basic.Ack", "Basic.Nack"):
                await self._open_gate.wait()
            if name and name not in ("ContentHeader", "ContentBody", "Heartbeat"):
                seen = Seen(number, sent, name, frame)
                with self._news:
                    self._seen.append(seen)
                    self._news.notify_all()
                if (connection := self.cut_when(seen)) is not None:
                    await self._abort(connection)
            writer.write(raw)
            await writer.drain()


def settling(seen: list[Seen]) -> list[str]:
    """What of the wire settles a job, in order, as words.

    `publish KEY` and `ack` are the client's; `confirm`, `return` and `refuse` the broker's. An ack
    of several deliveries is as many words.
    """
    words: dict[tuple[bool, str], Callable[[Any], str]] = {
        (True, "Basic.Publish"): lambda f: f"publish {f.routing_key}",
        (True, "Basic.Ack"): lambda _: "ack",
        (False, "Basic.Ack"): lambda _: "confirm",
        (False, "Basic.Nack"): lambda _: "refuse",
        (False, "Basic.Return"): lambda _: "return",
    }
    unacked: dict[int, set[int]] = {}
    said: list[str] = []
    for one in seen:
        tags = unacked.setdefault(one.connection, set())
        if not one.sent and one.name == "Basic.Deliver":
            tags.add(one.frame.delivery_tag)
        if (one.sent, one.name) not in words:
            continue
        count = 1
        if one.sent and one.name == "Basic.Ack":
            last = one.frame.delivery_tag
            covered = {tag for tag in tags if tag == last or (one.frame.multiple and tag < last)}
            tags -= covered
            count = len(covered)
        said += [words[one.sent, one.name](one.frame)] * count
    return said
