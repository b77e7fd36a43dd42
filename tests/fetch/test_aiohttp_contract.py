"""What we rely on in aiohttp without its documentation's word: one promise a test, by name.

May touch: aiohttp's own classes, not ours; a raw site on loopback.
Must never: test our mends; a promise that fails names what an upgrade changed, and who needs it.
"""

from __future__ import annotations

import ast
import asyncio
import errno
import inspect
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
import pytest
from aiohttp import http_parser
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError

from scraperd.fetch import connector, errors, protocol
from tests.rig.site import Site, chunk, head, page

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

FETCH = Path(protocol.__file__).parent
# The names that our subclasses add: those of protocol.py, and those of connector.py.
OURS = {"_idle", "_head_limit", "_head_room", "_feed", "_parse", "_bound", "_socks", "_guard"}
OURS |= {"_reading_time", "_held", "_flush"}
HOOKS = {"may_reuse", "connecting", "through_proxy", "before_tunnel_tls", "dial"}
TWO_HEADS = head("Content-Length: 0") * 2
MARK: ContextVar[str] = ContextVar("mark", default="")


class Promise(NamedTuple):
    """What aiohttp has to keep, where we need it and for what, and how to see that it does."""

    need: str
    probe: Callable[[Site], Awaitable[None]]


PROMISES: dict[str, Promise] = {}


def promise(name: str, need: str) -> Callable[[Callable[[Site], Awaitable[None]]], None]:
    """Register a probe of `name`, which is how aiohttp spells it."""

    def register(probe: Callable[[Site], Awaitable[None]]) -> None:
        assert name not in PROMISES
        PROMISES[name] = Promise(need, probe)

    return register


class Wire(asyncio.Transport):
    """The transport of a connection that is fed by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.closing = False

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


def connected(handler: type[ResponseHandler] = ResponseHandler) -> ResponseHandler:
    """A connection of aiohttp's own, on which no request has begun."""
    made = handler(asyncio.get_running_loop())
    made.connection_made(Wire())
    return made


def asking(handler: type[ResponseHandler] = ResponseHandler) -> ResponseHandler:
    """The same after a request was sent."""
    made = connected(handler)
    made.set_response_params()
    return made


def parameters(function: Any) -> str:
    """The names of a function's parameters, without types and defaults."""
    plain = [
        one.replace(annotation=one.empty, default=one.empty)
        for one in inspect.signature(function).parameters.values()
    ]
    return str(inspect.Signature(plain))


class Called(aiohttp.TCPConnector):
    """Notes which private methods aiohttp calls, with what, and what they returned."""

    def __init__(self, **options: Any) -> None:
        super().__init__(limit=0, **options)
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any], Any]] = []

    async def _note(self, name: str, args: Any, options: Any, result: Awaitable[Any]) -> Any:
        at = len(self.calls)
        self.calls.append((name, args, options, None))
        returned = await result
        self.calls[at] = (name, args, options, returned)
        return returned

    async def _get(self, *args: Any, **kw: Any) -> Any:
        return await self._note("_get", args, kw, super()._get(*args, **kw))

    async def _create_connection(self, *args: Any, **kw: Any) -> Any:
        made = super()._create_connection(*args, **kw)
        return await self._note("_create_connection", args, kw, made)

    async def _create_proxy_connection(self, *args: Any, **kw: Any) -> Any:
        made = super()._create_proxy_connection(*args, **kw)
        return await self._note("_create_proxy_connection", args, kw, made)

    async def _start_tls_connection(self, *args: Any, **kw: Any) -> Any:
        made = super()._start_tls_connection(*args, **kw)
        return await self._note("_start_tls_connection", args, kw, made)

    async def _wrap_create_connection(self, *args: Any, **kw: Any) -> Any:
        kw = {**kw, "addr_infos": list(kw["addr_infos"])}
        made = super()._wrap_create_connection(*args, **kw)
        return await self._note("_wrap_create_connection", args, kw, made)

    def _release(self, *args: Any, **kw: Any) -> None:
        self.calls.append(("_release", args, kw, None))
        super()._release(*args, **kw)

    def of(self, name: str) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
        """The arguments and the result of the one call of a method."""
        (found,) = [call[1:] for call in self.calls if call[0] == name]
        return found


def making(handler: type[ResponseHandler], **options: Any) -> aiohttp.TCPConnector:
    """A connector of aiohttp's own that makes connections of this kind."""
    using = Called(**options)
    using._factory = lambda: handler(asyncio.get_running_loop())  # type: ignore[assignment]
    return using


class TwoAddresses(AbstractResolver):
    """Every name has an address of each family."""

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=one, port=port, family=family, proto=6, flags=0)
            for one in ("::1", "127.0.0.1")
        ]

    async def close(self) -> None:
        pass


async def fetched(site: Site, using: aiohttp.BaseConnector | None = None, **options: Any) -> Any:
    """The head of the answer to one request by a plain session."""
    async with (
        aiohttp.ClientSession(connector=using, **options) as session,
        session.get(site.at("/", page(b"here"))) as answer,
    ):
        await answer.read()
        return answer


async def refused(site: Site, answer: bytes, **options: Any) -> aiohttp.ClientError:
    """The error of one request by a plain session, its body's included."""
    async with aiohttp.ClientSession(**options) as session:
        with pytest.raises(aiohttp.ClientError) as caught:
            async with session.get(site.at("/", answer)) as response:
                await response.read()
        return caught.value


# --- the connector: its state


@promise("BaseConnector._factory", "HookedConnector: makes each connection a protocol.Connection")
async def _(site: Site) -> None:
    made: list[ResponseHandler] = []

    def make() -> ResponseHandler:
        made.append(ResponseHandler(asyncio.get_running_loop()))
        return made[-1]

    using = aiohttp.TCPConnector()
    assert callable(using._factory)
    using._factory = make  # type: ignore[assignment]
    await fetched(site, using)
    assert len(made) == 1, f"called {len(made)} times for one connection"


@promise("BaseConnector._acquired", "HookedConnector.busy: connections in use and being made")
async def _(site: Site) -> None:
    using = Called()
    while_dialled: list[int] = []

    def dialled(info: Any) -> Any:
        while_dialled.append(len(using._acquired))
        return connector._new(info)

    using._socket_factory = dialled
    async with aiohttp.ClientSession(connector=using) as session:
        async with session.get(site.at("/", page(b"here"))) as answer:
            in_use = set(using._acquired)
            assert answer.connection is None or answer.connection.protocol in in_use
            await answer.read()
        assert len(using._acquired) == 0, "a connection that was given back still counts"
    assert while_dialled == [1], "a connection that is being made does not count"


@promise("BaseConnector._conns", "HookedConnector.forget: idle connections by key, oldest first")
async def _(site: Site) -> None:
    using = Called()
    async with aiohttp.ClientSession(connector=using) as session:
        for _ in range(2):
            async with session.get(site.at("/", page(b"here"))) as answer:
                await answer.read()
            (key, protocol), _, _ = [call[1:] for call in using.calls if call[0] == "_release"][-1]
            assert list(using._conns) == [key]
            first = using._conns[key][0]
            assert first[0] is protocol, "an entry begins with the connection"
            assert using._conns[key].popleft() is first, "the entries of a key are a deque"
            using._conns[key].append(first)


# --- the connector: its methods

SIGNATURES = {
    "_get": ("(self, key, traces)", "HookedConnector._get passes on what it is given"),
    "_release": ("(self, key, protocol, *, should_close)", "HookedConnector._release names them"),
    "_create_connection": (
        "(self, req, traces, timeout)",
        "HookedConnector.connecting is given the timeout, the third",
    ),
    "_create_proxy_connection": (
        "(self, req, traces, timeout)",
        "HookedConnector.through_proxy passes on what it is given",
    ),
    "_start_tls_connection": (
        "(self, underlying_transport, req, timeout, client_error)",
        "HookedConnector.before_tunnel_tls is given the transport, the first",
    ),
    "_wrap_create_connection": (
        "(self, *args, addr_infos, req, timeout, client_error, **kwargs)",
        "HookedConnector.dial is given addr_infos",
    ),
    "_wrap_existing_connection": (
        "(self, *args, req, timeout, client_error, **kwargs)",
        "HookedConnector hands it the socket that SocksConnector.dial connected",
    ),
}


def signature_of(name: str, expected: str) -> Callable[[Site], Awaitable[None]]:
    async def probe(_: Site) -> None:
        found = parameters(getattr(aiohttp.TCPConnector, name))
        assert found == expected, f"its parameters are {found}, not {expected}"

    return probe


for method, (expected, need) in SIGNATURES.items():
    promise(f"TCPConnector.{method}()", need)(signature_of(method, expected))


@promise("TCPConnector._get is asked", "HookedConnector._get: no full address is reused")
async def _(site: Site) -> None:
    using = Called()
    await fetched(site, using)
    assert using.of("_get")[2] is None, "there was no connection to keep"


@promise("TCPConnector._get returns a Connection", "HookedConnector._get: .protocol and .close()")
async def _(site: Site) -> None:
    using = Called()
    async with aiohttp.ClientSession(connector=using) as session:
        for _ in range(2):
            async with session.get(site.at("/", page(b"here"))) as answer:
                await answer.read()
    found = [call for call in using.calls if call[0] == "_get"]
    assert len(found) == 2, f"asked {len(found)} times by two requests"
    kept = found[1][3]
    assert hasattr(kept, "protocol")
    assert callable(kept.close)


@promise("TCPConnector._release is told", "HookedConnector._release: notes what became idle")
async def _(site: Site) -> None:
    using = Called()
    await fetched(site, using)
    (key, handler), options, _ = using.of("_release")
    assert isinstance(handler, ResponseHandler)
    assert options in ({}, {"should_close": False})
    assert hash(key) is not None


@promise("ResponseHandler.force_close()", "Connection: LAST, a connection that is not kept")
async def _(site: Site) -> None:
    made: list[ResponseHandler] = []

    class Handler(ResponseHandler):
        def set_response_params(self, **options: Any) -> None:
            made.append(self)
            self.force_close()
            super().set_response_params(**options)

    await fetched(site, making(Handler))
    (handler,) = made
    assert handler.should_close
    assert handler.transport is None, "it was kept"


@promise("TCPConnector._create_connection makes", "HookedConnector.connecting: one new connection")
async def _(site: Site) -> None:
    using = Called()
    await fetched(site, using, timeout=aiohttp.ClientTimeout(total=7, connect=3))
    (_, _, timeout), options, made = using.of("_create_connection")
    assert (timeout.total, timeout.connect, options) == (7, 3, {})
    assert isinstance(made, ResponseHandler)


async def tunnelled(site: Site, answer: bytes) -> tuple[Called, Exception]:
    """A connector whose request goes through a proxy that answers CONNECT, and how that ended."""

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    site.raw = proxy
    using = Called()
    async with aiohttp.ClientSession(connector=using) as session:
        with pytest.raises(aiohttp.ClientError) as caught:
            await session.get("https://a.test/", proxy=site.url())
    return using, caught.value


@promise(
    "TCPConnector._create_proxy_connection makes", "HookedConnector.through_proxy: CONNECT too"
)
async def _(site: Site) -> None:
    using, error = await tunnelled(site, b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n")
    assert len(using.of("_create_proxy_connection")[0]) == 3
    assert isinstance(error, aiohttp.ClientHttpProxyError)
    assert error.status == 407


@promise("TCPConnector._start_tls_connection starts", "HookedConnector.before_tunnel_tls")
async def _(site: Site) -> None:
    using, _ = await tunnelled(site, b"HTTP/1.1 200 OK\r\n\r\n")
    args, options, _ = using.of("_start_tls_connection")
    transport = args[0] if args else options["underlying_transport"]
    assert args, "the transport is no longer given by position"
    assert callable(transport.is_closing)


@promise("TCPConnector._wrap_create_connection dials", "HookedConnector.dial: addr_infos, by name")
async def _(site: Site) -> None:
    using = Called()
    await fetched(site, using)
    _, options, _ = using.of("_wrap_create_connection")
    ((family, kind, number, _, address),) = options["addr_infos"]
    assert address == ("127.0.0.1", site.port)
    assert all(isinstance(part, int) for part in (family, kind, number))
    assert {"req", "timeout", "client_error"} <= set(options)


@promise("ClientRequest.connection_key", "HookedConnector._wrap_create_connection: its errors")
async def _(site: Site) -> None:
    using = Called()
    await fetched(site, using)
    key = using.of("_wrap_create_connection")[1]["req"].connection_key
    error = aiohttp.ClientConnectorError(key, OSError(errno.ECONNREFUSED, "x"))
    assert (error.host, error.port) == ("127.0.0.1", site.port)


@promise("addr_infos is the caller's list", "SocksConnector.dial: an empty one ends the trials")
async def _(site: Site) -> None:
    class Once(aiohttp.TCPConnector):
        tried = 0

        async def _wrap_create_connection(self, *_: Any, **options: Any) -> Any:
            self.tried += 1
            options["addr_infos"].clear()
            raise options["client_error"](options["req"].connection_key, OSError("x"))

    using = Once(resolver=TwoAddresses())
    async with aiohttp.ClientSession(connector=using) as session:
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(f"http://a.test:{site.port}/")
    assert using.tried == 1, f"tried {using.tried} times"


@promise("TCPConnector._wrap_existing_connection takes sock", "HookedConnector: SOCKS5")
async def _(site: Site) -> None:
    class Given(aiohttp.TCPConnector):
        async def _wrap_create_connection(self, *args: Any, addr_infos: Any, **options: Any) -> Any:
            wrap = self._wrap_existing_connection
            sock = connector._new(addr_infos[0])
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, addr_infos[0][4])
            return await wrap(*args, sock=sock, **options)

    assert (await fetched(site, Given())).status == 200


@promise(
    "the task's context", "LAST and REACH: _get, socket_factory and set_response_params see it"
)
async def _(site: Site) -> None:
    seen: dict[str, str] = {}

    class Handler(ResponseHandler):
        def set_response_params(self, **options: Any) -> None:
            seen["set_response_params"] = MARK.get()
            super().set_response_params(**options)

    class Marked(aiohttp.TCPConnector):
        async def _get(self, *args: Any) -> Any:
            seen["_get"] = MARK.get()
            return await super()._get(*args)

    def new(info: Any) -> Any:
        seen["socket_factory"] = MARK.get()
        return connector._new(info)

    using = Marked(socket_factory=new)
    using._factory = lambda: Handler(asyncio.get_running_loop())  # type: ignore[assignment]
    MARK.set("mine")
    await fetched(site, using)
    assert seen == dict.fromkeys(("_get", "socket_factory", "set_response_params"), "mine")


# --- the connection


@promise("ResponseHandler()", "protocol.Connection calls it with the loop alone")
async def _(_: Site) -> None:
    assert parameters(ResponseHandler.__init__) == "(self, loop)"


@promise("ResponseHandler.set_response_params()", "Connection: begins a request, knows its limit")
async def _(site: Site) -> None:
    begun: list[int] = []

    class Handler(ResponseHandler):
        def set_response_params(self, *, max_field_size: int = 8190, **others: Any) -> None:
            begun.append(max_field_size)
            super().set_response_params(max_field_size=max_field_size, **others)

    known = inspect.signature(ResponseHandler.set_response_params).parameters
    assert known["max_field_size"].default == 8190, "the default that Connection repeats"
    kinds = {one.kind for name, one in known.items() if name != "self"}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY}
    using = making(Handler)
    await fetched(site, using, max_field_size=4096)
    assert begun == [4096], f"called with {begun}"


@promise("ResponseHandler.transport", "Connection: None after close() and abort()")
async def _(_: Site) -> None:
    for end in ("close", "abort"):
        handler = asking()
        getattr(handler, end)()
        assert handler.transport is None, end


@promise("ResponseHandler.is_connected()", "Connection: a connection that says no is not reused")
async def _(site: Site) -> None:
    class Handler(ResponseHandler):
        def is_connected(self) -> bool:
            return False

    assert connected().is_connected()
    using = making(Handler)
    async with aiohttp.ClientSession(connector=using) as session:
        for _ in range(2):
            async with session.get(site.at("/", page(b"here"))) as answer:
                await answer.read()
    assert site.connections == 2


@promise("ResponseHandler.close()", "Connection.close aborts: the connector closes by it")
async def _(site: Site) -> None:
    closed: list[object] = []

    class Handler(ResponseHandler):
        def close(self) -> None:
            closed.append(self)
            super().close()

    using = making(Handler)
    async with aiohttp.ClientSession(connector=using) as session:
        async with session.get(site.at("/", head("Content-Length: 5"))):
            pass  # leaving the body unread
        assert len(closed) == 1


@promise("ResponseHandler.data_received() before a request", "Connection: a few bytes are kept")
async def _(_: Site) -> None:
    handler = connected()
    handler.data_received(head("Content-Length: 0"))
    assert len(handler) == 0
    handler.set_response_params()
    assert len(handler) == 1, "what came before the request is lost"


@promise("ResponseHandler.data_received(b'')", "Connection: no data means that the parser goes on")
async def _(_: Site) -> None:
    came: list[bytes] = []

    class Handler(ResponseHandler):
        def data_received(self, data: bytes) -> None:
            came.append(data)
            super().data_received(data)

    handler = asking(Handler)
    handler.data_received(head("Content-Length: 5"))
    handler.pause_reading()
    handler.resume_reading()
    assert came[1:] == [b""], came


class Paused(ResponseHandler):
    """Notes when the transport is told to stop reading, and to go on."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.told: list[str] = []

    def _pause_transport_reading(self) -> None:
        self.told.append("pause")
        super()._pause_transport_reading()

    def _resume_transport_reading(self) -> None:
        self.told.append("resume")
        super()._resume_transport_reading()


@promise(
    "ResponseHandler._pause_transport_reading() and _resume_transport_reading()",
    "Connection: the one way to the transport's, so that what is held keeps it paused",
)
async def _(_: Site) -> None:
    handler = asking(Paused)
    assert isinstance(handler, Paused)
    handler.data_received(head("Content-Length: 5"))
    handler.pause_reading()
    handler.resume_reading()
    assert handler.told == ["pause", "resume"]
    source = inspect.getsource(inspect.getmodule(ResponseHandler.__mro__[1]))  # type: ignore[arg-type]
    assert source.count("self.transport.pause_reading()") == 1, "there is another way"
    assert source.count("self.transport.resume_reading()") == 1, "there is another way"


@promise("ResponseHandler._reading_paused", "Connection.go_on: the reader of the body is behind")
async def _(_: Site) -> None:
    handler = asking()
    handler.data_received(head("Content-Length: 5"))
    states = [handler._reading_paused]
    handler.pause_reading()
    states.append(handler._reading_paused)
    handler.resume_reading()
    states.append(handler._reading_paused)
    assert states == [False, True, False]


@promise("ResponseHandler._buffer_paused", "Connection.go_on: aiohttp's own tail is full")
async def _(_: Site) -> None:
    handler = connected()
    assert not handler._buffer_paused
    handler.data_received(b"x" * 1_000_000)  # before a request
    tail_is_full = handler._buffer_paused
    assert tail_is_full


@promise("ResponseHandler.resume_reading()", "Connection: called where the reader has caught up")
async def _(_: Site) -> None:
    assert parameters(ResponseHandler.resume_reading) == "(self, resume_parser)"
    went_on: list[ResponseHandler] = []

    class Handler(ResponseHandler):
        def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002
            went_on.append(self)
            super().resume_reading(resume_parser)

    handler = connected(Handler)
    handler.set_response_params(read_bufsize=1_000)
    handler.data_received(head("Content-Length: 1000000") + b"x" * 500_000)
    body = handler._payload
    assert body is not None
    assert handler._reading_paused, "a body that nobody reads is read on"
    await body.readany()
    assert went_on == [handler]


@promise("ResponseHandler.eof_received()", "Connection: parses what it holds before the end")
async def _(_: Site) -> None:
    assert parameters(ResponseHandler.eof_received) == "(self)"
    assert connected().eof_received() is None  # type: ignore[func-returns-value]


@promise("ResponseHandler._payload", "Connection._feed: the body that is being read")
async def _(_: Site) -> None:
    handler = asking()
    assert handler._payload is None, "there is a body before any response"
    handler.data_received(head("Content-Length: 5") + b"he")
    body = handler._payload
    assert isinstance(body, aiohttp.StreamReader)
    assert not body.is_eof()
    handler.data_received(b"llo")
    assert handler._payload is body, "the body was replaced while it was read"
    assert body.is_eof()


@promise("ResponseHandler._payload of no body", "Connection._feed: it has ended, or is not there")
async def _(_: Site) -> None:
    handler = asking()
    handler.data_received(head(status="204 No Content"))
    assert handler._payload is None or handler._payload.is_eof()


@promise("StreamReader.total_bytes", "Connection._feed: counts what the parser took for body")
async def _(_: Site) -> None:
    handler = asking()
    handler.data_received(head("Transfer-Encoding: chunked") + chunk(b"hello"))
    body = handler._payload
    assert body is not None
    assert body.total_bytes == 5, "it counts other bytes than the body's"
    handler.data_received(b"3;extension=")
    assert body.total_bytes == 5, "a chunk's extension counts as body"


@promise("DataQueue.__len__", "Connection: how many responses nobody has taken yet")
async def _(_: Site) -> None:
    handler = asking()
    assert len(handler) == 0
    handler.data_received(TWO_HEADS)
    assert len(handler) == 2
    await handler.read()
    assert len(handler) == 1


@promise("ResponseHandler.feed_data()", "Connection: called with each response, also with a 1xx")
async def _(_: Site) -> None:
    statuses: list[int] = []

    class Handler(ResponseHandler):
        def feed_data(self, *args: Any, **options: Any) -> None:
            statuses.append(args[0][0].code)
            super().feed_data(*args, **options)

    handler = asking(Handler)
    handler.data_received(head(status="100 Continue") + head("Content-Length: 0"))
    assert statuses == [100, 200]


@promise("ResponseHandler.set_exception()", "Connection: is told what the parser found wrong")
async def _(_: Site) -> None:
    told: list[tuple[Any, ...]] = []

    class Handler(ResponseHandler):
        def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
            told.append((exc, *cause))
            super().set_exception(exc, *cause)

    handler = asking(Handler)
    handler.data_received(b"no HTTP\r\n\r\n")
    error = told[0][0]
    assert isinstance(error, HttpProcessingError)
    assert error.message
    with pytest.raises(HttpProcessingError):
        await handler.read()


@promise("StreamReader.set_exception()", "Connection.set_exception: ends the reader of a body")
async def _(_: Site) -> None:
    handler = asking()
    handler.data_received(head("Content-Length: 5"))
    body = handler._payload
    assert body is not None
    reading = asyncio.ensure_future(body.read())
    await asyncio.sleep(0)
    cause = HttpProcessingError(code=0, message="why")
    body.set_exception(aiohttp.ClientPayloadError("broken"), cause)
    with pytest.raises(aiohttp.ClientPayloadError) as caught:
        await reading
    assert caught.value.__cause__ is cause


@promise("HttpProcessingError(code=, message=)", "Connection: its message reaches the failure")
async def _(site: Site) -> None:
    class Handler(ResponseHandler):
        def data_received(self, _: bytes) -> None:
            self.set_exception(HttpProcessingError(code=0, message="our words"))

    using = making(Handler)
    error = await refused(site, page(b"here"), connector=using)
    assert isinstance(error, aiohttp.ClientResponseError)
    assert error.message == "our words"


@promise("ClientTimeout(total=, connect=)", "Fetcher._send: what is left of a job bounds both")
async def _(_: Site) -> None:
    limits = aiohttp.ClientTimeout(total=1, connect=2)
    assert (limits.total, limits.connect) == (1, 2), limits


@promise("the compiled parser", "Connection.set_exception, and the figures of docs/performance.md")
async def _(_: Site) -> None:
    module = http_parser.HttpResponseParser.__module__
    assert module == "aiohttp._http_parser", f"responses are parsed by {module}"


# --- words, and what headers are made of


@promise("the words 'Got more than '", "errors._malformed: names max_header_size")
async def _(site: Site) -> None:
    error = await refused(site, head("a: " + 9000 * "x"), max_field_size=8190)
    assert isinstance(error, aiohttp.ClientResponseError)
    assert error.message.startswith(errors.TOO_LONG), error.message


@promise("the words 'Too many headers'", "errors._malformed: names max_headers")
async def _(site: Site) -> None:
    error = await refused(site, head(*(f"a{n}: x" for n in range(20))), max_headers=10)
    assert isinstance(error, aiohttp.ClientResponseError)
    assert error.message.startswith(errors.TOO_MANY), error.message


@promise("the arrow under a fault", "errors._one_line: on a line of its own, the last, if at all")
async def _(site: Site) -> None:
    error = await refused(site, b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n")
    assert isinstance(error, aiohttp.ClientResponseError)
    *_, last = error.message.splitlines()
    assert last.strip() == "^" or "^" not in error.message, error.message


async def dial_failing(site: Site, v6: OSError, v4: OSError) -> OSError:
    """The error that stands for those of two addresses."""

    def new(info: Any) -> Any:
        raise v6 if ":" in info[4][0] else v4

    using = aiohttp.TCPConnector(resolver=TwoAddresses(), socket_factory=new)
    async with aiohttp.ClientSession(connector=using) as session:
        with pytest.raises(aiohttp.ClientConnectorError) as caught:
            await session.get(f"http://a.test:{site.port}/")
    return caught.value.os_error


@promise("the words 'Multiple exceptions'", "errors._reason: addresses that fail differently")
async def _(site: Site) -> None:
    found = await dial_failing(site, OSError(errno.EPERM, "a"), OSError(errno.EIO, "b"))
    assert found.errno is None
    assert str(found).startswith(errors.SEVERAL), found


@promise("the first of equal errors", "guard._NOT_LET, connector.Crowded: raised as they are")
async def _(site: Site) -> None:
    class OursError(OSError):
        pass

    first, second = OursError("the same words"), OursError("the same words")
    assert await dial_failing(site, first, second) is first


@promise("ClientPayloadError.__cause__.message", "errors._broken_off: the words without wrapping")
async def _(site: Site) -> None:
    answer = head("Content-Length: 50") + b"short"

    async def hang_up(visit: Any) -> None:
        await visit.send(answer)
        visit.hang_up()

    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientPayloadError) as caught:
            async with session.get(site.at("/", hang_up)) as response:
                await response.read()
    message = getattr(caught.value.__cause__, "message", "")
    assert "Not enough data" in message, repr(caught.value.__cause__)


@promise("surrogate-escaped headers", "base.urls, scrape.content: a header's bytes, each one")
async def _(site: Site) -> None:
    answer = b"HTTP/1.1 200 OK\r\na: \xe9\xc3\xa9\r\nContent-Length: 0\r\n\r\n"
    async with aiohttp.ClientSession() as session, session.get(site.at("/", answer)) as found:
        value = found.headers["a"]
    assert value.encode("utf-8", "surrogateescape") == b"\xe9\xc3\xa9", ascii(value)


# --- the tests


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    """A site that forgives a client that leaves."""
    async with Site() as made:
        yield made


@pytest.mark.parametrize("name", PROMISES)
async def test_aiohttp_keeps(name: str, site: Site) -> None:
    """The attribute, method or text is as we rely on it; a failure says who relies on it."""
    need, probe = PROMISES[name]
    found = ""
    try:
        await probe(site)
    except Exception as error:  # noqa: BLE001 - told with the name of the promise
        found = f"{type(error).__name__}: {error}"
    except pytest.fail.Exception as error:  # from pytest.raises: nothing was raised
        found = str(error)
    if found:
        words = f"aiohttp {aiohttp.__version__} does not keep {name}\n  needed by {need}\n  {found}"
        pytest.fail(words, pytrace=False)


def is_private(name: str) -> bool:
    """Say if a name has one leading underscore."""
    return name.startswith("_") and not name.startswith("__")


def private_names(tree: ast.AST) -> set[str]:
    """The private names that some code reads of objects, or gives to methods of its classes."""
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            methods = (ast.FunctionDef, ast.AsyncFunctionDef)
            names |= {part.name for part in node.body if isinstance(part, methods)}
    return {name for name in names if is_private(name)}


@cache
def internals() -> set[str]:
    """The private names of aiohttp's client, whatever object they belong to."""
    parts = (aiohttp.TCPConnector, ResponseHandler, aiohttp.ClientSession, aiohttp.ClientResponse)
    modules = {inspect.getmodule(kind) for part in parts for kind in part.__mro__[:-1]}
    sources = [inspect.getsource(module) for module in modules if module is not None]
    return {name for source in sources for name in private_names(ast.parse(source))} - OURS


def touched_in(tree: ast.AST) -> set[str]:
    """What a file touches of aiohttp's insides: modules, names of its objects, its methods."""
    modules: set[str] = set()
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module)):
                modules.add(module)
            case ast.Import(names=imported):
                modules |= {one.name for one in imported}
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                pass
            case ast.Attribute(attr=name):
                names.add(name)
            case ast.ClassDef() if any("Connector" in ast.unparse(base) for base in node.bases):
                names |= private_names(node)
    ours = {module for module in modules if module.partition(".")[0] == "aiohttp"}
    if not ours and not any(module.startswith("scraperd.fetch") for module in modules):
        return set()
    undocumented = {module for module in ours if module not in ("aiohttp", "aiohttp.abc")}
    return undocumented | {name for name in names if is_private(name)} & internals()


def test_each_internal_has_a_promise() -> None:
    """protocol.py reads no private name of aiohttp that no promise above is about."""
    used = private_names(ast.parse((FETCH / "protocol.py").read_text())) - OURS
    told = " ".join(PROMISES)
    assert {name for name in used if name not in told} == set()


@pytest.mark.parametrize("kind", [aiohttp.TCPConnector, ResponseHandler])
def test_our_names_are_free(kind: type) -> None:
    """What our subclasses add has no name that aiohttp's class uses: one would break the other."""
    taken = set(dir(kind))
    for part in kind.__mro__:
        if part.__module__.startswith("aiohttp."):
            taken |= private_names(ast.parse(inspect.getsource(part)))
    assert (OURS | HOOKS | {"peer", "busy", "forget", "go_on"}) & taken == set()


def test_no_other_file_touches_internals() -> None:
    """Only protocol.py imports an undocumented module of aiohttp, or reads a private name."""
    files = {path: ast.parse(path.read_text()) for path in FETCH.parent.rglob("*.py")}
    touched = {path.name: found for path, tree in files.items() if (found := touched_in(tree))}
    assert set(touched) == {"protocol.py"}, touched
    assert {"aiohttp.client_proto", "aiohttp.http_exceptions", "_get"} <= touched["protocol.py"]
