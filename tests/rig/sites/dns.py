"""A nameserver that can answer anything: UDP and TCP on one port of 127.0.0.1.

May touch: loopback sockets, tasks of the running loop; a thread of its own.
Must never: ask another nameserver, or hide an error of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import struct
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping

HOST: Final = "127.0.0.1"
PATIENCE: Final = 5.0  # seconds `until` waits
UDP_SIZE: Final = 1232  # bytes; a longer answer is cut short and asked for again over TCP
SPOOFED: Final = "192.0.2.66"  # the address in the answer with the wrong id

Record: TypeAlias = tuple[str, str, int]  # type, value, TTL in seconds


class Manner(enum.Enum):
    """How a name is answered, other than by its records. Unknown names do not exist."""

    SERVFAIL = enum.auto()
    REFUSED = enum.auto()
    SILENCE = enum.auto()
    GARBAGE = enum.auto()  # the right id, then bytes that are no message
    TRUNCATED = enum.auto()  # cut short over UDP, whole over TCP
    WRONG_ID = enum.auto()  # an answer with another id and SPOOFED in it, then the right one


@dataclass(frozen=True)
class Question:
    """One question as it came."""

    name: str  # in lower case, without the final dot
    type: str
    transport: str  # udp or tcp
    id: int
    port: int  # it came from


class Nameserver:
    """An async context manager; all of it runs in the loop it was entered in.

    `records` is by name, without a final dot: `[("A", "127.0.0.1", 60)]`; with an
    empty list the name exists and has no data. A CNAME is followed through
    `records`. `sequences` gives each further question of a type the next list
    of records, the last for ever. `manners` is by name, or by (name, type).
    `unheard` says how many questions of a (name, type) get no answer before the first that does.
    While `gate` is cleared, nothing is answered.
    """

    def __init__(self, records: Mapping[str, list[Record]] | None = None) -> None:
        self.records: dict[str, list[Record]] = dict(records or {})
        self.sequences: dict[str, list[list[Record]]] = {}
        self.manners: dict[str | tuple[str, str], Manner] = {}
        self.unheard: dict[tuple[str, str], int] = {}
        self.questions: list[Question] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.port = 0
        self._news = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._errors: list[Exception] = []
        self._tcp: asyncio.Server | None = None
        self._udp: asyncio.DatagramTransport | None = None

    @property
    def address(self) -> str:
        """As the setting `nameservers` wants it."""
        return f"{HOST}:{self.port}"

    def asked(self, name: str, kind: str = "A") -> int:
        """How many questions of a type came for a name. A lookup asks for A and for AAAA."""
        return sum((question.name, question.type) == (name, kind) for question in self.questions)

    async def until(self, wanted: Callable[[], bool]) -> None:
        """Wait until `wanted` holds; looked at with each question."""
        async with asyncio.timeout(PATIENCE), self._news:
            await self._news.wait_for(wanted)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        while self._udp is None:  # until a port is free for both
            self._tcp = await asyncio.start_server(self._serve, HOST, 0)
            self.port = self._tcp.sockets[0].getsockname()[1]
            try:
                self._udp, _ = await loop.create_datagram_endpoint(
                    lambda: _Datagrams(self), local_addr=(HOST, self.port)
                )
            except OSError:
                self._tcp.close()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._tcp is not None
        assert self._udp is not None
        self._udp.close()
        self._tcp.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._tcp.wait_closed()
        if self._errors:
            raise ExceptionGroup("the nameserver failed", self._errors)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` until the server is left; its error is raised then."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._errors.append(error if isinstance(error, Exception) else RuntimeError(error))

    async def answers(self, query: bytes, transport: str, port: int) -> Iterable[bytes]:
        """The messages that answer one, in the order they are to be sent."""
        asked = dns.message.from_wire(query)
        name, kind = _subject(asked)
        before = self.asked(name, kind)
        self.questions.append(Question(name, kind, transport, asked.id, port))
        async with self._news:
            self._news.notify_all()
        await self.gate.wait()
        if before < self.unheard.get((name, kind), 0):
            return []
        answer = self._answer(asked, name, kind, before)
        return self._as_it_goes(query, asked, answer, transport)

    def _as_it_goes(
        self,
        query: bytes,
        asked: dns.message.Message,
        answer: dns.message.Message,
        transport: str,
    ) -> list[bytes]:
        """The answer's messages, in the manner of the name."""
        wire = answer.to_wire(max_size=65535)
        sent = [wire]
        match self._manner(asked):
            case Manner.SILENCE:
                sent = []
            case Manner.GARBAGE:
                sent = [query[:2] + b"\x81\x80\xff\xff\xff\xff garbage"]
            case Manner.SERVFAIL:
                sent = [_refusal(asked, dns.rcode.SERVFAIL)]
            case Manner.REFUSED:
                sent = [_refusal(asked, dns.rcode.REFUSED)]
            case Manner.WRONG_ID:
                sent = [_spoofed(asked), wire]
            case manner if transport == "udp":
                sent = [_cut(asked) if manner or len(wire) > UDP_SIZE else wire]
        return sent

    def _manner(self, asked: dns.message.Message) -> Manner | None:
        name, kind = _subject(asked)
        return self.manners.get((name, kind), self.manners.get(name))

    def _answer(
        self, asked: dns.message.Message, name: str, kind: str, before: int
    ) -> dns.message.Message:
        answer = dns.message.make_response(asked, recursion_available=True)
        if name not in self.records and name not in self.sequences:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        seen: set[str] = set()
        while name and name not in seen:
            seen.add(name)
            steps = self.sequences.get(name, [self.records.get(name, [])])
            records = steps[min(before, len(steps) - 1)]
            owner, name = name, ""
            for record_type, value, ttl in records:
                if record_type in (kind, "CNAME"):
                    found = dns.rrset.from_text(f"{owner}.", ttl, "IN", record_type, value)
                    answer.answer.append(found)
                    name = value.rstrip(".").lower() if record_type == "CNAME" else ""
        return answer

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = writer.get_extra_info("peername")[1]
        self.start(self._talk(reader, writer, port))

    async def _talk(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int
    ) -> None:
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):  # the client left
                while True:
                    (length,) = struct.unpack("!H", await reader.readexactly(2))
                    for message in await self.answers(
                        await reader.readexactly(length), "tcp", port
                    ):
                        writer.write(struct.pack("!H", len(message)) + message)
                    await writer.drain()
        finally:
            writer.transport.abort()


@contextlib.contextmanager
def threaded(records: Mapping[str, list[Record]]) -> Iterator[str]:
    """The address of a nameserver that runs in a thread of its own."""
    up, done, loop = threading.Event(), asyncio.Event(), asyncio.new_event_loop()
    address = ""

    async def serve() -> None:
        nonlocal address
        async with Nameserver(records) as server:
            address = server.address
            up.set()
            await done.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert up.wait(10)
        yield address
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join(10)
        loop.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: Nameserver) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self._server.start(self._reply(data, addr))

    async def _reply(self, data: bytes, addr: tuple[Any, ...]) -> None:
        assert self._transport is not None
        for message in await self._server.answers(data, "udp", addr[1]):
            self._transport.sendto(message, addr)


def _subject(asked: dns.message.Message) -> tuple[str, str]:
    question = asked.question[0]
    name = question.name.to_text(omit_final_dot=True).lower()
    return name, dns.rdatatype.to_text(question.rdtype)


def _refusal(asked: dns.message.Message, code: dns.rcode.Rcode) -> bytes:
    answer = dns.message.make_response(asked, recursion_available=True)
    answer.set_rcode(code)
    return answer.to_wire()


def _cut(asked: dns.message.Message) -> bytes:
    answer = dns.message.make_response(asked, recursion_available=True)
    answer.flags |= dns.flags.TC
    return answer.to_wire()


def _spoofed(asked: dns.message.Message) -> bytes:
    answer = dns.message.make_response(asked, recursion_available=True)
    answer.id ^= 1
    owner = asked.question[0].name.to_text()
    answer.answer.append(dns.rrset.from_text(owner, 3600, "IN", "A", SPOOFED))
    return answer.to_wire()
