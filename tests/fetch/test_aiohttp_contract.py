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
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from scraperd.fetch import connector, errors, protocol
from tests.rig.sites.site import Site, head, page

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

FETCH = Path(protocol.__file__).parent
# The names that our subclasses add: those of protocol.py, and those of connector.py.
OURS = {"_idle", "_parse", "_bound", "_socks", "_guard", "_reading_time", "_held"}
OURS |= {"_asked", "_first", "_dialled"}
OURS |= {"_reader", "_news", "_fault", "_wants_body", "_full", "_is_news", "_read", "_end", "_wake"}
OURS |= {"_is_tls", "_waits", "_wait", "_lost", "_lose", "_see_end"}
PUBLIC = {
    "peer",
    "uses",
    "busy",
    "forget",
    "lend",
    "go_on",
    "ask",
    "send",
    "more",
    "finish",
    "is_quiet",
}
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


@promise("BaseConnector.connect()", "HookedConnector.lend: a Target will do for a ClientRequest")
async def _(site: Site) -> None:
    reached = []
    for url in (f"http://127.0.0.1:{site.port}/", f"http://localhost:{site.port}/"):
        using = aiohttp.TCPConnector()
        target = protocol.Target(URL(url))
        lent = await using.connect(target, [], aiohttp.ClientTimeout())  # type: ignore[arg-type]
        assert isinstance(lent.protocol, ResponseHandler), lent.protocol
        reached.append(lent.protocol.transport)
        lent.release()
        again = await using.connect(protocol.Target(URL(url)), [], aiohttp.ClientTimeout())  # type: ignore[arg-type]
        assert again.protocol is lent.protocol or again.protocol.transport is reached[-1], (
            "not kept"
        )
        again.close()
        await using.close()
    assert all(reached)


@promise("ResponseHandler._parser", "Connection: aiohttp reads by itself if it is not None")
async def _(_: Site) -> None:
    assert connected()._parser is None
    assert asking()._parser is not None


@promise("ResponseHandler._loop", "Connection.more: makes its futures by it")
async def _(_: Site) -> None:
    assert connected()._loop is asyncio.get_running_loop()


@promise("ResponseHandler._drain_helper()", "Connection.send: waits while the transport is full")
async def _(_: Site) -> None:
    handler = connected()
    await handler._drain_helper()
    handler.pause_writing()
    waiting = asyncio.ensure_future(handler._drain_helper())
    await asyncio.sleep(0)
    assert not waiting.done(), "it does not wait"
    handler.resume_writing()
    await waiting


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


@promise("ResponseHandler.eof_received()", "Connection: parses what it holds before the end")
async def _(_: Site) -> None:
    assert parameters(ResponseHandler.eof_received) == "(self)"
    assert connected().eof_received() is None  # type: ignore[func-returns-value]


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


@promise("ClientTimeout(total=, connect=)", "Fetcher._send: what is left of a job bounds both")
async def _(_: Site) -> None:
    limits = aiohttp.ClientTimeout(total=1, connect=2)
    assert (limits.total, limits.connect) == (1, 2), limits


# --- words, and what headers are made of


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
    assert (
        OURS
        | HOOKS
        | {"peer", "busy", "forget", "go_on", "lend", "ask", "send", "more", "finish", "uses"}
    ) & taken == set()


def test_no_other_file_touches_internals() -> None:
    """Only protocol.py imports an undocumented module of aiohttp, or reads a private name.

    Of aiohttp's server the listener does: its promises are in tests/server/.
    """
    files = {path: ast.parse(path.read_text()) for path in FETCH.parent.rglob("*.py")}
    touched = {path.name: found for path, tree in files.items() if (found := touched_in(tree))}
    assert set(touched) == {"protocol.py", "listener.py"}, touched
    assert {"aiohttp.client_proto", "aiohttp.http_exceptions", "_get"} <= touched["protocol.py"]
