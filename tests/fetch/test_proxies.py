"""Tests of fetches through proxies: two that others wrote, and some that answer oddly.

May touch: tinyproxy and microsocks, sites and raw servers, all on loopback.
Must never: let a message pass that holds a proxy's address, user or password.
"""

from __future__ import annotations

import base64
import contextlib
import socket
from typing import TYPE_CHECKING, Any

import pytest
from yarl import URL

from scraperd.contract import Failure
from scraperd.fetch.message import Request, Response
from scraperd.wiring import fetcher_of
from tests.rig.page import loopback
from tests.rig.sites.dns import Nameserver, Record
from tests.rig.sites.proxies import PASSWORD, USER, RealProxy
from tests.rig.sites.site import Site, chunk, page

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from tests.rig.sites.certificates import Certificates

    Reader = asyncio.StreamReader
    Writer = asyncio.StreamWriter
    Raw = Callable[[Reader, Writer], Awaitable[None]]

SCHEMES = ["http", "socks5"]
SECRET = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


@pytest.fixture(scope="module")
def proxies(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[tuple[str, bool], RealProxy]]:
    """Each of the two, with and without a password."""
    with contextlib.ExitStack() as stack:
        yield {
            (scheme, auth): stack.enter_context(
                RealProxy(scheme, tmp_path_factory.mktemp(scheme), auth=auth)
            )
            for scheme in SCHEMES
            for auth in (False, True)
        }


@contextlib.asynccontextmanager
async def through(url: str, **settings: Any) -> AsyncIterator[Callable[..., Awaitable[Any]]]:
    """Yields what fetches a URL through the proxy at `url`; any message it gives is clean."""
    config = loopback(**{"proxies": {"exit-1": url}, "fetch__connect_timeout": 1, **settings})
    port = URL(url).port
    async with fetcher_of(config) as fetcher:

        async def get(target: str, proxy: str = "exit-1", method: str = "GET") -> Any:
            request = Request(method, URL(target), {}, None, 5.0, 1 << 20, proxy=proxy)
            answer = await fetcher.fetch(request)
            if isinstance(answer, Failure):
                for secret in (USER, PASSWORD, SECRET, f":{port}", "@"):
                    assert secret not in answer.message
                assert answer.message.isprintable()
            return answer

        yield get


def is_page(answer: Response | Failure, body: bytes) -> bool:
    assert isinstance(answer, Response), answer
    return answer.body == body


# --- proxies that others wrote


@pytest.mark.parametrize("auth", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_page(
    site: Site, proxies: dict[tuple[str, bool], RealProxy], scheme: str, *, auth: bool
) -> None:
    """It comes, with or without a password, which the site never sees."""
    url = site.at("/", page(b"through"))
    async with through(proxies[scheme, auth].url()) as get:
        for _ in range(3):
            assert is_page(await get(url), b"through")
    assert len(site.visits) == 3
    assert all(visit.header("Proxy-Authorization") is None for visit in site.visits)


@pytest.mark.parametrize("auth", [False, True])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_page_over_tls(
    trusted: Certificates,
    proxies: dict[tuple[str, bool], RealProxy],
    scheme: str,
    host: str,
    *,
    auth: bool,
) -> None:
    """The certificate is checked against the URL's host; connections through it are kept."""
    async with Site(trusted.good) as site, through(proxies[scheme, auth].url()) as get:
        url = site.at("/", page(b"secret")).replace("127.0.0.1", host)
        for _ in range(3):
            assert is_page(await get(url), b"secret")
        assert site.connections == 1
        assert all(visit.header("Proxy-Authorization") is None for visit in site.visits)


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_bad_certificate(
    trusted: Certificates, proxies: dict[tuple[str, bool], RealProxy], scheme: str
) -> None:
    """A proxy is no reason to trust anybody: a `tls` failure, as without one."""
    async with Site(trusted.wrong_host) as site, through(proxies[scheme, False].url()) as get:
        found = await get(site.at("/", page()))
    assert (found.kind, found.retryable) == ("tls", False)
    assert site.visits == []


@pytest.mark.parametrize("userinfo", ["robot:wrong@", ""])
@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_wrong_password(
    proxies: dict[tuple[str, bool], RealProxy],
    scheme: str,
    userinfo: str,
    certificates: Certificates,
    *,
    tls: bool,
) -> None:
    """Said by the proxy's name; trying again would not change it."""
    async with (
        Site(certificates.good if tls else None) as site,
        through(proxies[scheme, True].url(userinfo)) as get,
    ):
        found = await get(site.at("/", page()))
    if (scheme, userinfo, tls) == ("http", "robot:wrong@", False):
        assert found.status == 401  # tinyproxy's; it might be the site's
        return
    assert (found.kind, found.retryable) == ("proxy", False)
    assert found.message.startswith("proxy exit-1: it does not accept our user name and password")
    assert site.connections == 0


async def test_the_target_refuses(proxies: dict[tuple[str, bool], RealProxy]) -> None:
    """A SOCKS proxy tells: it is the site that is down, not the proxy."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        async with through(proxies["socks5", False].url()) as get:
            found = await get(f"http://127.0.0.1:{port}/")
    assert found == Failure("connect", f"127.0.0.1:{port}: connection refused", retryable=True)


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_ways_are_never_mixed(
    site: Site, proxies: dict[tuple[str, bool], RealProxy], scheme: str
) -> None:
    """A connection kept for one way is not taken for another."""
    url = site.at("/", page(b"here"))
    async with through(proxies[scheme, False].url()) as get:
        for proxy in ("", "exit-1", ""):
            assert is_page(await get(url, proxy), b"here")
    assert [visit.connection for visit in site.visits] == [0, 1, 0]


# --- where it may lead


@pytest.mark.parametrize("target", ["http://localhost:{}/", "http://127.0.0.1:{}/"])
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_no_way_round_the_guard(site: Site, scheme: str, target: str) -> None:
    """What may not be fetched directly is not handed to a proxy, though the proxy itself may be."""
    url = target.format(site.port)
    async with (
        Site() as proxy,
        through(f"{scheme}://127.0.0.1:{proxy.port}", fetch__allow_networks=()) as get,
    ):
        found = await get(url)
        assert (found.kind, found.retryable) == ("blocked_address", False)
        assert (await get(url.replace("http:", "https:"))).kind == "blocked_address"
        assert (proxy.connections, site.connections) == (0, 0)


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_name_without_an_address(scheme: str) -> None:
    """The name is looked up here, and the proxy hears nothing of it."""
    async with Site() as proxy, through(f"{scheme}://127.0.0.1:{proxy.port}") as get:
        assert (await get("http://nothing-here.invalid/")).kind == "dns"
        assert proxy.connections == 0


@pytest.mark.parametrize("tls", ["", "s"])
async def test_a_name_with_a_forbidden_address(site: Site, tls: str) -> None:
    """An HTTP proxy would choose for itself, and hears nothing; SOCKS is told the good one."""
    records: list[Record] = [("A", "127.0.0.1", 60), ("A", "169.254.169.254", 60)]
    site.raw = answering()
    async with Nameserver({"mixed.test": records}) as server:
        ways = {
            "http": f"http://127.0.0.1:{site.port}",
            "socks5": f"socks5://127.0.0.1:{site.port}",
        }
        async with through(ways["http"], proxies=ways, fetch__nameservers=(server.address,)) as get:
            found = await get(f"http{tls}://mixed.test:9/", "http")
            assert (found.kind, found.retryable) == ("blocked_address", False)
            assert found.message.startswith("mixed.test: not all of its addresses are known")
            assert site.connections == 0
            assert (await get(f"http{tls}://mixed.test:9/", "socks5")).kind == "proxy"
            assert site.connections == 1


async def test_a_proxy_nobody_configured(site: Site) -> None:
    """Never a direct connection instead."""
    async with through("http://127.0.0.1:1") as get:
        found = await get(site.at("/", page()), "exit-2")
    assert found == Failure("proxy", "no proxy is named exit-2")
    assert site.connections == 0


# --- proxies that fail


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "https://127.0.0.1:9/"])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("host", ["127.0.0.1", "nothing-here.invalid"])
async def test_a_proxy_that_is_away(scheme: str, url: str, host: str) -> None:
    """Nobody listens there, or its name has no address: `proxy`, and it may pass."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        async with through(f"{scheme}://{USER}:{PASSWORD}@{host}:{port}") as get:
            found = await get(url)
    assert found == Failure("proxy", "proxy exit-1: it can't be reached", retryable=True)


def answering(*answers: bytes) -> Raw:
    """A proxy that sends one of `answers` for each thing it hears, then closes."""

    async def raw(reader: Reader, writer: Writer) -> None:
        for answer in answers:
            await reader.read(65536)
            writer.write(answer)
            await writer.drain()
        if answers:
            await reader.read(65536)
        writer.close()

    return raw


@pytest.mark.parametrize(
    ("answer", "words", "retryable"),
    [
        (b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n", "it does not accept our user", False),
        (b"HTTP/1.1 502 127.0.0.1:9\r\n\r\n", "it answered 502 to CONNECT", True),
        (b"HTTP/1.1 403 No\r\nLocation: http://x/\r\n\r\n", "it answered 403 to CONNECT", True),
        (b"\x05\x00 noise\r\n\r\n", "its answer to CONNECT is malformed", True),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n\r\n", "its answer to CONNECT", True),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, "its answer to CONNECT is malformed", True),
        (b"", "it closed the connection", True),
    ],
)
async def test_odd_answers_to_connect(
    site: Site, answer: bytes, words: str, *, retryable: bool
) -> None:
    """Each is the proxy's failure, in words of ours."""
    site.raw = answering(answer) if answer else answering()
    async with through(f"http://{USER}:{PASSWORD}@127.0.0.1:{site.port}") as get:
        found = await get("https://127.0.0.1:9/")
    assert (found.kind, found.retryable) == ("proxy", retryable)
    assert found.message.startswith(f"proxy exit-1: {words}")


async def test_a_flood_behind_the_answer_to_connect(site: Site) -> None:
    """It ends the connection, sooner or later: never the job for good, or as `internal`."""
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"x" * 65_536)
    site.raw = answering(answer * 20)
    async with through(f"http://127.0.0.1:{site.port}") as get:
        found = [await get("https://127.0.0.1:9/") for _ in range(10)]
    assert {failure.kind for failure in found} <= {"proxy", "tls", "connect"}
    assert all(failure.retryable for failure in found)


@pytest.mark.parametrize(
    ("answers", "kind", "words", "retryable"),
    [
        ([b"\x05\xff"], "proxy", "proxy exit-1: it does not accept our user", False),
        ([b"\x05\x02", b"\x01\x01"], "proxy", "proxy exit-1: it does not accept our user", False),
        ([b"HTTP/1.1 400 Bad\r\n\r\n"], "proxy", "proxy exit-1: its handshake broke off", True),
        ([b"\x05"], "proxy", "proxy exit-1: ", True),
        ([], "proxy", "proxy exit-1: ", True),
        ([b"\x05\x00", b"\x05\x01\x00"], "proxy", "proxy exit-1: it failed (SOCKS reply 1)", True),
        ([b"\x05\x00", b"\x05\x02\x00"], "proxy", "proxy exit-1: its rules do not allow", True),
        ([b"\x05\x00", b"\x05\x03\x00"], "connect", "127.0.0.1:9: network unreachable", True),
        ([b"\x05\x00", b"\x05\x04\x00"], "connect", "127.0.0.1:9: no route to host", True),
        ([b"\x05\x00", b"\x05\x05\x00"], "connect", "127.0.0.1:9: connection refused", True),
        ([b"\x05\x00", b"\x05\x06\x00"], "connect", "127.0.0.1:9: timed out", True),
        ([b"\x05\x00", b"\x05\x63\x00"], "proxy", "proxy exit-1: ", True),
        ([b"\x05\x00", b"\x05\x00\x00\x09"], "proxy", "proxy exit-1: ", True),
        ([b"\x05\x00", b"\x05\x00\x00\x03\x01\xff\x00\x50"], "proxy", "proxy exit-1: its", True),
    ],
)
async def test_odd_answers_of_socks(
    site: Site, answers: list[bytes], kind: str, words: str, *, retryable: bool
) -> None:
    """What speaks of the target is `connect`, all else `proxy` (RFC 1928 section 6)."""
    site.raw = answering(*answers)
    async with through(f"socks5://{USER}:{PASSWORD}@127.0.0.1:{site.port}") as get:
        found = await get("http://127.0.0.1:9/")
    assert (found.kind, found.retryable) == (kind, retryable), found
    assert found.message.startswith(words)


@pytest.mark.parametrize(
    ("scheme", "url"), [("http", "https://127.0.0.1:9/"), ("socks5", "http://127.0.0.1:9/")]
)
async def test_a_silent_proxy(site: Site, scheme: str, url: str) -> None:
    """Its handshake has the connect timeout, and its connection does not outlive it."""

    async def silent(reader: Reader, _: Writer) -> None:
        while await reader.read(65536):
            pass

    site.raw = silent
    async with through(f"{scheme}://127.0.0.1:{site.port}", fetch__connect_timeout=0.2) as get:
        found = await get(url)
        assert found.message.startswith("proxy exit-1: no connection through it within the connect")
        assert (found.kind, found.retryable) == ("proxy", True)
        await site.until(lambda s: s.open == 0)


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_site_that_is_silent_in_tls(
    site: Site, proxies: dict[tuple[str, bool], RealProxy], scheme: str
) -> None:
    """The handshake through the proxy ends with the connect timeout, and so does the connection."""

    async def silent(reader: Reader, _: Writer) -> None:
        while await reader.read(65536):
            pass

    site.raw = silent
    async with through(proxies[scheme, False].url(), fetch__connect_timeout=0.3) as get:
        found = await get(site.url().replace("http:", "https:"))
        assert (found.kind, found.retryable) == ("proxy", True)
        await site.until(lambda s: s.connections == 1 and s.open == 0)


@pytest.mark.parametrize("name", ["\u00fc", "u" * 256])
async def test_a_user_name_that_can_not_be_sent(site: Site, name: str) -> None:
    """SOCKS has no room for it (RFC 1929): a failure like the others, not an error of ours."""
    site.raw = answering(b"\x05\x02", b"\x01\x00")
    url = URL.build(scheme="socks5", user=name, password="x", host="127.0.0.1", port=site.port)
    async with through(str(url)) as get:
        found = await get("http://127.0.0.1:9/")
    assert (found.kind, found.retryable) == ("proxy", False)


# --- what they are told


async def test_what_an_http_proxy_is_told(site: Site) -> None:
    """The whole URL for http, CONNECT for https; the password with each (RFC 9110 11.7.1)."""
    heard: list[str] = []

    async def raw(reader: Reader, writer: Writer) -> None:
        while True:
            heard.append((await reader.readuntil(b"\r\n\r\n")).decode())
            writer.write(page(b"forwarded"))

    site.raw = raw
    async with through(f"http://{USER}:{PASSWORD}@127.0.0.1:{site.port}") as get:
        for _ in range(2):
            assert is_page(await get("http://127.0.0.1:9/a?b"), b"forwarded")
        await get("https://127.0.0.1:9/a?b")
    starts = [text.partition("\r\n")[0] for text in heard]
    assert starts == ["GET http://127.0.0.1:9/a?b HTTP/1.1"] * 2 + ["CONNECT 127.0.0.1:9 HTTP/1.1"]
    assert [text.count(f"Proxy-Authorization: Basic {SECRET}\r\n") for text in heard] == [1, 1, 1]
    assert not any("\nAuthorization:" in text for text in heard)


async def test_what_a_socks_proxy_is_told(site: Site) -> None:
    """An address that was checked, not a name that may mean another one tomorrow."""
    heard: list[bytes] = []

    async def raw(reader: Reader, writer: Writer) -> None:
        heard.append(await reader.readexactly(3))
        writer.write(b"\x05\x00")
        heard.append(await reader.read(100))
        writer.write(b"\x05\x05\x00")
        await reader.read()

    site.raw = raw
    async with through(f"socks5://127.0.0.1:{site.port}") as get:
        assert (await get("http://localhost:9/")).kind == "connect"
    v4, v6 = (
        b"\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x09",
        b"\x05\x01\x00\x04" + bytes(15) + b"\x01\x00\x09",
    )
    assert heard[1::2]
    assert set(heard[1::2]) <= {v4, v6}
