"""Tests of one hop: every way a site can fail, and what thousands of hops at once must not do.

May touch: the fault site and its sockets on loopback.
Must never: reach beyond this machine, or trust a fetch that only a mock answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import random
import resource
import socket
import time
import tracemalloc
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import brotli
import pytest
from backports import zstd
from yarl import URL

from scraperd import __version__
from scraperd.base.clocks import SYSTEM
from scraperd.base.inflate import STEP
from scraperd.config.settings import Config
from scraperd.config.tables import FetchSettings
from scraperd.contract import Failure, decode_job
from scraperd.fetch.http1.reader import MAX_INTERIM
from scraperd.fetch.memory import Budget
from scraperd.fetch.message import Request, Response
from scraperd.scrape.request import Target
from scraperd.wiring import fetcher_of, scraper_of
from tests.rig.clocks.lived import lived
from tests.rig.page import failed, loopback
from tests.rig.settings import configured
from tests.rig.sites.site import Site, Visit, chunk, full_backlog, head, page

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Iterator

    from scraperd.config.settings import Config
    from scraperd.fetch.client import Fetcher
    from tests.rig.sites.certificates import Certificates

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
CHUNKED = "Transfer-Encoding: chunked"
LIMIT = 1 << 20
MAX_HEADER = FetchSettings().max_header_size
MAX_HEADERS = FetchSettings().max_headers


def request(url: str, **changes: Any) -> Request:
    fields = {
        "method": "GET",
        "url": URL(url),
        "headers": {},
        "body": None,
        "timeout": 2.0,
        "max_body": LIMIT,
    }
    return Request(**{**fields, **changes})


async def failure(fetcher: Fetcher, url: str, **changes: Any) -> Failure:
    answer = failed(await fetcher.fetch(request(url, **changes)))
    assert isinstance(answer, Failure), answer
    return answer


async def body(fetcher: Fetcher, url: str, **changes: Any) -> bytes:
    answer = await fetcher.fetch(request(url, **changes))
    assert isinstance(answer, Response), answer
    return answer.body


# --- no answer at all


async def test_a_name_that_does_not_exist(fetcher: Fetcher) -> None:
    """`.invalid` never resolves (RFC 6761): `dns`, in the resolver's words."""
    found = await failure(fetcher, "http://nothing-here.invalid/")
    assert (found.kind, found.retryable) == ("dns", False)
    assert "NXDOMAIN" in found.message


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]"])
async def test_where_no_connection_may_lead(site: Site, host: str) -> None:
    """An address as it stands or behind a name: `blocked_address`, and nothing was dialled."""
    async with fetcher_of(loopback(fetch__allow_networks=())) as fetcher:
        found = await failure(fetcher, f"http://{host}:{site.port}/")
    assert (found.kind, found.retryable) == ("blocked_address", False)
    assert site.connections == 0
    if host == "localhost":
        assert "127." not in found.message
        assert "::" not in found.message


async def test_a_port_that_is_not_allowed(site: Site) -> None:
    """`allow_ports` holds for every connection, before it is made."""
    async with fetcher_of(loopback(fetch__allow_ports=(80, 443))) as fetcher:
        found = await failure(fetcher, site.url())
    message = f"port {site.port} is not among fetch.allow_ports"
    assert found == Failure("blocked_address", message)
    assert site.connections == 0


async def test_a_port_and_an_address_that_are_not_allowed(site: Site) -> None:
    """Of a name too both are told at once, and no address that the name resolved to."""
    closed = loopback(fetch__allow_ports=(80, 443), fetch__allow_networks=())
    async with fetcher_of(closed) as fetcher:
        found = await failure(fetcher, f"http://localhost:{site.port}/")
        unknown = await failure(fetcher, f"http://nothing-here.invalid:{site.port}/")
    port = f"port {site.port} is not among fetch.allow_ports"
    assert found == Failure(
        "blocked_address",
        f"{port}; none of its addresses is allowed (fetch.allow_networks, fetch.deny_networks)",
    )
    assert unknown == Failure("blocked_address", port)


async def test_a_name_with_addresses_that_refuse(fetcher: Fetcher) -> None:
    """Several addresses, one word for all of them; none is named, for it may be a private one."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        found = await failure(fetcher, f"http://localhost:{port}/")
    assert found == Failure("connect", f"localhost:{port}: connection refused", retryable=True)


async def test_nobody_listens(fetcher: Fetcher) -> None:
    """A port that refuses is told apart from one that is silent."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        found = await failure(fetcher, f"http://127.0.0.1:{port}/")
    assert found == Failure("connect", f"127.0.0.1:{port}: connection refused", retryable=True)


async def reset(visit: Visit) -> None:
    visit.reset()


async def hang_up(visit: Visit) -> None:
    visit.hang_up()


async def reset_in_headers(visit: Visit) -> None:
    await visit.send(b"HTTP/1.1 200 OK\r\nContent-Ty")
    visit.reset()


async def hang_up_in_interim(visit: Visit) -> None:
    await visit.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    visit.hang_up()


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "handler", [reset, hang_up, reset_in_headers, hang_up_in_interim], ids=lambda h: h.__name__
)
async def test_the_connection_is_lost_before_an_answer(
    site: Site, fetcher: Fetcher, handler: Callable[[Visit], Awaitable[None]], method: str
) -> None:
    """A `connect` failure. It was sent once: the connection was new, and the site is to blame."""
    found = await failure(fetcher, site.at("/", handler), method=method)
    assert (found.kind, found.retryable) == ("connect", True)
    assert len(site.visits) == 1


# --- TLS


@pytest.mark.parametrize(
    ("certificate", "words"),
    [
        ("expired", "certificate has expired"),
        ("wrong_host", "IP address mismatch"),
        ("self_signed", "self-signed certificate"),
        ("stranger", "unable to get local issuer certificate"),
    ],
)
async def test_a_bad_certificate(trusted: Certificates, certificate: str, words: str) -> None:
    """OpenSSL's own words reach the operator; trying again would change nothing."""
    context: ssl.SSLContext = getattr(trusted, certificate)
    async with Site(context) as site, fetcher_of(loopback()) as fetcher:
        found = await failure(fetcher, site.at("/", page()))
    assert (found.kind, found.retryable) == ("tls", False)
    assert words in found.message
    assert site.visits == []


async def test_a_good_certificate(trusted: Certificates) -> None:
    """Without this, the four above could fail for any reason. Connections are kept here too."""
    async with Site(trusted.good) as site, fetcher_of(loopback()) as fetcher:
        url = site.at("/", page(b"secret"))
        assert [await body(fetcher, url) for _ in range(3)] == [b"secret"] * 3
        assert site.connections == 1


async def test_certificates_can_be_left_unchecked(certificates: Certificates) -> None:
    """`verify_tls = false` takes a certificate that nothing is right about."""
    async with (
        Site(certificates.self_signed) as site,
        fetcher_of(loopback(fetch__verify_tls=False)) as fetcher,
    ):
        assert await body(fetcher, site.at("/", page(b"anyway"))) == b"anyway"


async def test_plain_http_on_an_https_url(site: Site, fetcher: Fetcher) -> None:
    """A server that speaks no TLS is a `tls` failure, not a riddle."""

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        await reader.read()

    site.raw = plain
    found = await failure(fetcher, site.url().replace("http:", "https:"))
    assert found.kind == "tls"
    assert found.message.startswith("handshake: what the site speaks on this port is not TLS")
    assert not found.retryable


async def test_a_handshake_that_is_cut(site: Site, fetcher: Fetcher) -> None:
    """The far end closes after the first byte of the handshake: `connect`, and it may pass."""

    async def cut(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read(1)

    site.raw = cut
    found = await failure(fetcher, site.url().replace("http:", "https:"))
    assert (found.kind, found.retryable) == ("connect", True)
    assert found.message.endswith("closed during the TLS handshake")


# --- time


async def silence(visit: Visit) -> None:
    await visit.gone()


async def drip_of_headers(visit: Visit) -> None:
    await visit.send(b"HTTP/1.1 200 OK\r\n")
    await visit.drip(b"X-More: to come\r\n")


async def drip_of_one_header(visit: Visit) -> None:
    await visit.send(b"HTTP/1.1 200 OK\r\nX-More: ")
    await visit.drip(b"a")


async def drip_of_1xx(visit: Visit) -> None:
    await visit.drip(CONTINUE)


async def drip_of_body(visit: Visit) -> None:
    await visit.send(head("Content-Length: 100000"))
    await visit.drip(b"a")


async def drip_of_chunks(visit: Visit) -> None:
    await visit.send(head(CHUNKED))
    await visit.drip(chunk(b"a"))


async def drip_of_a_chunk_extension(visit: Visit) -> None:
    await visit.send(head(CHUNKED), b"1;")
    await visit.drip(b"a")


async def drip_of_gzip(visit: Visit) -> None:
    await visit.send(head(CHUNKED, "Content-Encoding: gzip"))
    for byte in gzip.compress(random.Random(1).randbytes(10_000)):
        await visit.send(chunk(bytes([byte])))
        await asyncio.sleep(0.02)


async def body_that_stalls(visit: Visit) -> None:
    await visit.send(head("Content-Length: 100"), b"the first bytes only")
    await visit.gone()


@pytest.mark.parametrize(
    "handler",
    [
        silence,
        drip_of_headers,
        drip_of_one_header,
        drip_of_1xx,
        drip_of_body,
        drip_of_chunks,
        drip_of_a_chunk_extension,
        drip_of_gzip,
        body_that_stalls,
    ],
    ids=lambda h: h.__name__,
)
async def test_nothing_holds_a_fetch_beyond_its_timeout(
    site: Site, fetcher: Fetcher, handler: Callable[[Visit], Awaitable[None]]
) -> None:
    """However little comes, and however steadily: the timeout is for all of it."""
    started = time.monotonic()
    async with lived() as seconds:
        found = await failure(fetcher, site.at("/", handler), timeout=0.2)
    assert found == Failure("timeout", "not finished within 0.2 s", retryable=True)
    assert time.monotonic() - started > 0.15
    assert seconds() < 1
    await site.until(lambda s: s.open == 0)


async def test_a_silent_tls_handshake(site: Site, fetcher: Fetcher) -> None:
    """A handshake that never goes on ends at the timeout."""

    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    site.raw = silent
    url = site.url().replace("http:", "https:")
    assert (await failure(fetcher, url, timeout=0.2)).kind == "timeout"


async def test_connecting_has_a_timeout_of_its_own() -> None:
    """A firewall that drops packets costs `connect_timeout`, not the whole `timeout`."""
    config = loopback(fetch__connect_timeout=0.2)
    async with full_backlog() as port, fetcher_of(config) as fetcher, lived() as seconds:
        found = await failure(fetcher, f"http://127.0.0.1:{port}/", timeout=5)
    assert found == Failure("timeout", "no connection within the connect timeout", retryable=True)
    assert seconds() < 1


async def test_a_slow_answer_is_not_a_slow_connection(site: Site) -> None:
    """`connect_timeout` ends once the connection stands: the answer may take longer."""

    async def late(visit: Visit) -> None:
        await asyncio.sleep(0.3)
        await visit.send(page(b"late"))

    async with fetcher_of(loopback(fetch__connect_timeout=0.1)) as fetcher:
        assert await body(fetcher, site.at("/", late)) == b"late"


# --- not HTTP


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"220 mail.example ESMTP\r\n\r\n", id="another protocol"),
        pytest.param(b"<html>HTTP/0.9</html>", id="no status line"),
        pytest.param(b"HTTP/1.1 99999 Many\r\n\r\n", id="five digits"),
        pytest.param(b"HTTP/1.1 OK\r\n\r\n", id="no digits"),
        pytest.param(b"HTTP/7.7 200 OK\r\n\r\n", id="unknown version"),
        pytest.param(b"\x00\xff" * 100 + b"\r\n\r\n", id="noise"),
        pytest.param(head("Content-Length: -1"), id="negative length"),
        pytest.param(head("Content-Length: 3", "Content-Length: 4") + b"abcd", id="two lengths"),
        pytest.param(head("Content-Length: 3", CHUNKED) + b"xyz", id="length, and no chunks"),
        pytest.param(head(f"X-Big: {'a' * MAX_HEADER}", "Content-Length: 0"), id="big header"),
        pytest.param(head(*["X-Many: a"] * MAX_HEADERS, "Content-Length: 0"), id="many headers"),
        pytest.param(b"HTTP/1.1 200 " + b"O" * (MAX_HEADER + 1) + b"\r\n\r\n", id="big reason"),
        pytest.param(head(CHUNKED) + b"zz\r\nabc\r\n0\r\n\r\n", id="no chunk size"),
        pytest.param(head(CHUNKED) + b"f" * 17 + b"\r\nabc", id="huge chunk size"),
    ],
)
async def test_what_is_no_http(site: Site, fetcher: Fetcher, answer: bytes) -> None:
    """Said at once, in one printable line; the same answer would come again."""
    found = await failure(fetcher, site.at("/", answer))
    assert (found.kind, found.retryable) == ("protocol", False)
    assert found.message.startswith("malformed response: ")
    assert found.message.isprintable()
    assert not found.message.endswith("^")


@pytest.mark.parametrize("pieces", [1, 3])
async def test_a_broken_chunk_in_the_middle(site: Site, fetcher: Fetcher, pieces: int) -> None:
    """After good chunks, in a packet of its own: at once too, not at the timeout."""
    going_on = asyncio.Event()

    async def handler(visit: Visit) -> None:
        await visit.send(head(CHUNKED), *[chunk(b"x" * 1000)] * pieces)
        await going_on.wait()
        await visit.send(b"zz\r\nabc\r\n")
        await visit.gone()

    fetching = asyncio.create_task(failure(fetcher, site.at("/", handler), timeout=30))
    await site.until(lambda s: bool(s.visits))
    await body(fetcher, site.at("/other", page()))  # a round trip: the good part has arrived
    going_on.set()
    async with asyncio.timeout(5):
        found = await fetching
    assert found.kind == "protocol"
    assert "chunk size" in found.message


@pytest.mark.parametrize("end", [Visit.hang_up, Visit.reset])
@pytest.mark.parametrize(
    "start",
    [
        pytest.param(head("Content-Length: 100") + b"some", id="length"),
        pytest.param(head(CHUNKED) + chunk(b"some"), id="chunks"),
        pytest.param(head(CHUNKED) + b"64\r\nsome", id="chunk"),
    ],
)
async def test_a_body_that_breaks_off(
    site: Site, fetcher: Fetcher, start: bytes, end: Callable[[Visit], None]
) -> None:
    """Half a page is no page; the next attempt may bring all of it."""

    async def handler(visit: Visit) -> None:
        await visit.send(start)
        end(visit)

    found = await failure(fetcher, site.at("/", handler))
    assert found.retryable
    assert found.kind in ("protocol", "connect")  # a RST can overtake the headers
    if end is Visit.hang_up:
        assert found.kind == "protocol"
        assert found.message.startswith("the body broke off: the site closed it")


async def test_a_flood_of_1xx(site: Site, fetcher: Fetcher) -> None:
    """Interim responses by the thousand end the fetch before they fill a second of the loop."""

    async def flood(visit: Visit) -> None:
        await visit.flood(CONTINUE * 1000)

    found = await failure(fetcher, site.at("/", flood), timeout=30)
    assert found == Failure("protocol", "malformed response: too many responses at once")


@pytest.mark.parametrize("interim", [1, MAX_INTERIM - 1])
async def test_a_few_1xx_are_passed_over(site: Site, fetcher: Fetcher, interim: int) -> None:
    """RFC 9110 section 15.2: interim responses may come before the answer, in one packet too."""
    early = head("Link: </style.css>; rel=preload", status="103 Early Hints")
    url = site.at("/", early * interim + page(b"final"))
    assert await body(fetcher, url) == b"final"


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(head(f"X-Big: {'a' * (MAX_HEADER - 100)}", "Content-Length: 2"), id="header"),
        pytest.param(b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\n", id="no reason"),
        pytest.param(b"HTTP/1.1 200 OK\nContent-Length: 2\n\n", id="bare line feeds"),
        pytest.param(head("X-Folded: a", "  b", "Content-Length: 2"), id="folded header"),
        pytest.param(head("X-Odd: \x01\x7f\xe9", "Content-Length: 2"), id="odd bytes"),
        pytest.param(head("content-length:2"), id="lower case"),
    ],
)
async def test_what_browsers_take_is_taken(site: Site, fetcher: Fetcher, answer: bytes) -> None:
    """Real sites send large headers and old-fashioned ones."""
    assert await body(fetcher, site.at("/", answer + b"hi")) == b"hi"


# --- size


def raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(data) + stream.flush()


def fast_brotli(data: bytes) -> bytes:
    return brotli.compress(data, quality=5)


ENCODERS = {
    "gzip": ("gzip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "bare deflate": ("deflate", raw_deflate),
    "br": ("br", fast_brotli),
    "zstd": ("zstd", zstd.compress),
}


@contextlib.contextmanager
def traced() -> Iterator[Callable[[], int]]:
    """Yields what tells the most memory that Python took at once since here, in bytes."""
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ENCODERS)
async def test_bombs(site: Site, fetcher: Fetcher, name: str) -> None:
    """64 MiB out of a few kB stop at the limit, and so does the memory they take."""
    coding, encode = ENCODERS[name]
    bomb = encode(bytes(64 * LIMIT))
    url = site.at("/", page(bomb, headers=[f"Content-Encoding: {coding}"]))
    with traced() as peak:
        found = await failure(fetcher, url)
        assert peak() < 3 * LIMIT
    assert found == Failure("too_large", f"the body is larger than {LIMIT} bytes")


async def endless_length(visit: Visit) -> None:
    await visit.send(head(f"Content-Length: {1 << 60}"))
    await visit.flood(b"x" * 65536)


async def endless_chunks(visit: Visit) -> None:
    await visit.send(head(CHUNKED))
    await visit.flood(chunk(b"x" * 65536))


async def endless_until_close(visit: Visit) -> None:
    await visit.send(head("Connection: close"))
    await visit.flood(b"x" * 65536)


async def endless_gzip(visit: Visit) -> None:
    await visit.send(head(CHUNKED, "Content-Encoding: gzip"))
    stream = zlib.compressobj(wbits=31)
    noise = random.Random(1).randbytes(65536)
    while True:
        await visit.send(chunk(stream.compress(noise) + stream.flush(zlib.Z_SYNC_FLUSH)))


@pytest.mark.parametrize(
    "handler",
    [endless_length, endless_chunks, endless_until_close, endless_gzip],
    ids=lambda h: h.__name__,
)
async def test_endless_bodies(
    site: Site, fetcher: Fetcher, handler: Callable[[Visit], Awaitable[None]]
) -> None:
    """The connection is closed soon after the limit, and memory stays near it."""
    with traced() as peak:
        found = await failure(fetcher, site.at("/", handler))
        assert peak() < 6 * LIMIT  # the site's own buffers are among them
    assert found == Failure("too_large", f"the body is larger than {LIMIT} bytes")
    await site.until(lambda s: s.open == 0)


async def test_a_declared_length_is_believed(site: Site, fetcher: Fetcher) -> None:
    """Too large by its own Content-Length: refused without waiting for a byte of it."""

    async def handler(visit: Visit) -> None:
        await visit.send(head(f"Content-Length: {LIMIT + 1}"))
        await visit.gone()

    assert (await failure(fetcher, site.at("/", handler))).kind == "too_large"


@pytest.mark.parametrize("coding", [None, "gzip"])
@pytest.mark.parametrize("over", [0, 1])
async def test_the_limit_is_exact(
    site: Site, fetcher: Fetcher, coding: str | None, over: int
) -> None:
    """A body of exactly the limit passes, one byte more does not; decoded bytes count."""
    text = b"x" * 5000
    sent = gzip.compress(text) if coding else text
    headers = [f"Content-Encoding: {coding}"] if coding else []
    answer = await fetcher.fetch(
        request(site.at("/", page(sent, headers=headers)), max_body=5000 - over)
    )
    assert isinstance(answer, Response)
    if over:
        assert answer.trouble == Failure("too_large", "the body is larger than 4999 bytes")
    else:
        assert answer.body == text


@pytest.mark.parametrize("more", [[], ["Content-Encoding: gzip"]])
async def test_a_head_may_speak_of_any_length(
    site: Site, fetcher: Fetcher, more: list[str]
) -> None:
    """The Content-Length of a HEAD is what a GET would bring; nothing comes, nothing is large."""
    url = site.at("/", head("Content-Length: 99999999999", *more))
    assert await body(fetcher, url, method="HEAD") == b""


# --- content codings


async def test_a_small_packed_body_is_unpacked_as_it_comes(site: Site, fetcher: Fetcher) -> None:
    """A few bytes can stand for a large body: they do not wait for more, or for the end."""
    bomb = gzip.compress(bytes(1 << 20))[:900]

    async def handler(visit: Visit) -> None:
        await visit.send(head("Content-Encoding: gzip"))
        await going_on.wait()
        await visit.send(bomb)
        await visit.gone()

    going_on = asyncio.Event()
    fetching = asyncio.create_task(
        failure(fetcher, site.at("/", handler), max_body=100_000, timeout=30)
    )
    await site.until(lambda s: bool(s.visits))
    await body(fetcher, site.at("/other", page()))  # a round trip: the head has arrived
    going_on.set()
    async with asyncio.timeout(5):
        assert (await fetching).kind == "too_large"


@pytest.mark.parametrize("name", ENCODERS)
async def test_codings_are_undone(site: Site, fetcher: Fetcher, name: str) -> None:
    """Each coding that is asked for, sent in chunks as servers do."""
    coding, encode = ENCODERS[name]
    text = random.Random(1).randbytes(200_000)
    data = encode(text)
    parts = b"".join(chunk(data[i : i + 30_000]) for i in range(0, len(data), 30_000))
    url = site.at("/", head(CHUNKED, f"Content-Encoding: {coding}") + parts + chunk(b""))
    assert await body(fetcher, url) == text


def early(coding: str) -> Failure:
    return Failure("decode", f"content encoding {coding}: it ends early", retryable=True)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("missing", [1, 20_000])
async def test_a_coding_that_ends_early(
    site: Site, fetcher: Fetcher, name: str, missing: int, *, chunked: bool
) -> None:
    """All of the message came: what its stream gives is kept, as in browsers, and marked as cut."""
    coding, encode = ENCODERS[name]
    text = random.Random(1).randbytes(300_000)
    data = encode(text)[:-missing]
    lines = [f"Content-Encoding: {coding}"]
    if chunked:
        url = site.at("/", head(*lines, CHUNKED) + chunk(data) + chunk(b""))
    else:
        url = site.at("/", page(data, headers=lines))
    answer = await fetcher.fetch(request(url))
    assert isinstance(answer, Response)
    assert (answer.trouble, answer.cut) == (None, early(coding))
    assert text.startswith(answer.body)
    assert len(text) - missing - (1 << 17) <= len(answer.body), "zstd gives whole blocks only"
    await body(fetcher, url)
    assert site.connections == 1, "the message was whole, so its connection is kept"


@pytest.mark.parametrize(("wbits", "coding"), [(31, "gzip"), (15, "deflate"), (-15, "deflate")])
async def test_all_that_a_cut_stream_gives_is_kept(
    site: Site, fetcher: Fetcher, wbits: int, coding: str
) -> None:
    """Cut at any byte, the page is what zlib itself gives of the bytes that came."""
    stream = zlib.compressobj(wbits=wbits)
    data = stream.compress(b"".join(b"<p>%d</p>" % n for n in range(500))) + stream.flush()
    for end in range(40, len(data), 97):
        expected = zlib.decompressobj(wbits).decompress(data[:end])
        url = site.at("/", page(data[:end], headers=[f"Content-Encoding: {coding}"]))
        answer = await fetcher.fetch(request(url))
        assert isinstance(answer, Response)
        if expected:
            assert (answer.body, answer.cut) == (expected, early(coding))
        else:
            assert answer.trouble == early(coding)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("keep", [1, 5])
async def test_a_coding_that_ends_before_its_first_byte(
    site: Site, fetcher: Fetcher, name: str, keep: int
) -> None:
    """Nothing is no beginning of a page: it is a failure, and is tried again."""
    coding, encode = ENCODERS[name]
    data = encode(b"<p>a page</p>" * 1000)[:keep]
    url = site.at("/", page(data, headers=[f"Content-Encoding: {coding}"]))
    assert await failure(fetcher, url) == early(coding)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("lines", [[], ["Transfer-Encoding: gzip"]])
async def test_an_early_end_that_may_be_the_networks(
    site: Site, fetcher: Fetcher, name: str, lines: list[str]
) -> None:
    """Where only the end of the connection ends the body, it may have been cut on its way."""
    coding, encode = ENCODERS[name]
    data = encode(random.Random(1).randbytes(300_000))
    data = gzip.compress(data)[:-200] if lines else data[:-200]

    async def handler(visit: Visit) -> None:
        await visit.send(head(f"Content-Encoding: {coding}", *lines) + data)
        visit.hang_up()

    found = await failure(fetcher, site.at("/", handler))
    assert found == early(f"{coding}, gzip" if lines else coding)


async def test_a_message_that_is_cut_stays_a_failure(site: Site, fetcher: Fetcher) -> None:
    """A Content-Length that is not reached, or a missing last chunk: the network's, and retried."""
    data = gzip.compress(random.Random(1).randbytes(300_000))

    async def cut(visit: Visit) -> None:
        is_chunked = visit.path == "/chunks"
        length = CHUNKED if is_chunked else f"Content-Length: {len(data)}"
        part = chunk(data[:-9]) if is_chunked else data[:-9]
        await visit.send(head("Content-Encoding: gzip", length) + part)
        visit.hang_up()

    for path in ("/chunks", "/length"):
        found = await failure(fetcher, site.at(path, cut))
        assert (found.kind, found.retryable) == ("protocol", True)


@pytest.mark.parametrize("at", [-6, -1])
async def test_a_wrong_checksum_is_a_failure(site: Site, fetcher: Fetcher, at: int) -> None:
    """RFC 1952 section 2.3.1: the page is not what was packed. Curl refuses it too (61)."""
    data = bytearray(gzip.compress(b"<p>a page</p>" * 1000))
    data[at] ^= 1
    url = site.at("/", page(bytes(data), headers=["Content-Encoding: gzip"]))
    found = await failure(fetcher, url)
    assert (found.kind, found.retryable) == ("decode", False)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
@pytest.mark.parametrize(
    "data", [b"<html>never encoded</html>" * 10, b"\x1f\x8b\x08\x00" + b"\xff" * 100]
)
async def test_a_coding_that_is_none(
    site: Site, fetcher: Fetcher, coding: str, data: bytes
) -> None:
    """It says gzip and is not, or is broken: `decode`, in one printable line."""
    found = await failure(
        fetcher, site.at("/", page(data, headers=[f"Content-Encoding: {coding}"]))
    )
    assert found.kind == "decode"
    assert found.message.startswith(f"content encoding {coding}: ")
    assert found.message.isprintable()


@pytest.mark.parametrize("value", ["identity", "UTF-8", "none", ""])
async def test_a_content_encoding_that_names_none(site: Site, fetcher: Fetcher, value: str) -> None:
    """Sites send their charset there; the page is as it is."""
    url = site.at("/", page(b"plain", headers=[f"Content-Encoding: {value}"]))
    assert await body(fetcher, url) == b"plain"


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["Content-Encoding: compress"], "content encoding compress: not one of"),
        (["Content-Encoding: gzip, foo"], "content encoding foo: not one of"),
        (["Transfer-Encoding: foo, chunked"], "transfer coding foo: not one of"),
        ([f"Content-Encoding: {', '.join(['gzip'] * 6)}"], "content encoding 6 codings lie"),
    ],
)
async def test_a_coding_that_is_not_undone(
    site: Site, fetcher: Fetcher, lines: list[str], words: str
) -> None:
    """Packed bytes never pass for a page (curl: exit code 61); a HEAD has none, and no failure."""
    data = chunk(b"packed") + chunk(b"") if "chunked" in lines[0] else b"packed"
    url = site.at("/", head(*lines, "Connection: close") + data)
    site.at("/end", head(*lines, "Content-Length: 7", "Connection: close"))
    asked = request(url)
    fetching = asyncio.create_task(fetcher.fetch(asked))
    await site.until(lambda s: bool(s.visits))
    site.visits[0].hang_up()
    found = failed(await fetching)
    assert isinstance(found, Failure)
    assert (found.kind, found.retryable) == ("decode", False)
    assert found.message.startswith(words)
    assert await body(fetcher, site.url("/end"), method="HEAD") == b""


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        (["Content-Encoding: gzip, br"], ["gzip", "br"]),
        (["Content-Encoding: BR", "content-encoding: x-gzip"], ["br", "gzip"]),
        (["Content-Encoding: gzip, gzip"], ["gzip", "gzip"]),
        (["Transfer-Encoding: gzip"], ["gzip"]),
        (["Transfer-Encoding: deflate", "Content-Encoding: zstd"], ["zstd", "deflate"]),
        (["Transfer-Encoding: x-gzip, deflate"], ["gzip", "deflate"]),
        (["Content-Encoding: ,gzip, zstd,, br, identity, gzip, deflate"],
         ["gzip", "zstd", "br", "gzip", "deflate"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 1000, 10**6])
async def test_codings_one_over_another(
    site: Site, fetcher: Fetcher, lines: list[str], names: list[str], size: int
) -> None:
    """The last one named is undone first, and a transfer coding before all (RFC 9112 section 7)."""
    text = random.Random(1).randbytes(2_000) * 2
    data = text
    for name in names:
        data = ENCODERS[name][1](data)
    parts = b"".join(chunk(data[i : i + size]) for i in range(0, len(data), size))
    url = site.at("/", head(*lines, CHUNKED) + parts + chunk(b""))
    assert await body(fetcher, url) == text


@pytest.mark.parametrize("names", [("gzip", "br"), ("br", "gzip"), ("zstd", "zstd", "gzip")])
async def test_bombs_in_bombs(site: Site, fetcher: Fetcher, names: tuple[str, ...]) -> None:
    """64 MiB in codings one over another stop at the limit, and so does their memory."""
    data = bytes(64 * LIMIT)
    for name in names:
        data = ENCODERS[name][1](data)
    url = site.at("/", page(data, headers=[f"Content-Encoding: {', '.join(names)}"]))
    with traced() as peak:
        found = await failure(fetcher, url)
        assert peak() < 3 * LIMIT
    assert found == Failure("too_large", f"the body is larger than {LIMIT} bytes")


@pytest.mark.parametrize("truncate", [False, True])
async def test_what_codings_hand_on_is_limited(site: Site, *, truncate: bool) -> None:
    """Bytes between two codings count as sent, or some bytes could keep the loop busy for long.

    Others have their turn meanwhile, and a file that may be cut ends there.
    """
    inner = gzip.compress(b"page", 1) + bytes(64 << 20)  # padding behind the end is ignored
    headers = ["Content-Encoding: gzip, br"]
    async with fetcher_of(loopback(fetch__transfer_maxsize=LIMIT)) as fetcher:
        url = site.at("/", page(fast_brotli(inner), headers=headers))
        turns, claim = 0, Budget(LIMIT).open()
        asked = request(url, truncate=truncate, claim=claim)
        fetching = asyncio.create_task(fetcher.fetch(asked))
        while not fetching.done():
            turns += claim.size > 0  # the page has come out, and what follows is being undone
            await asyncio.sleep(0)
        answer = await fetching
    assert turns >= LIMIT // STEP // 2
    assert isinstance(answer, Response)
    if truncate:
        assert (answer.body, answer.trouble) == (b"page", None)
    else:
        words = f"one coding of the body holds more than {LIMIT} bytes of another"
        assert answer.trouble == Failure("too_large", f"{words} (fetch.transfer_maxsize)")


async def test_an_empty_body_with_a_coding(site: Site, fetcher: Fetcher) -> None:
    """Nothing, encoded, is nothing."""
    url = site.at("/", page(b"", headers=["Content-Encoding: gzip"]))
    assert await body(fetcher, url) == b""


# --- what is sent


async def test_the_headers_that_are_sent(site: Site, config: Config, fetcher: Fetcher) -> None:
    """These and no others, each once: the site is told who we are and what we can read."""
    await body(fetcher, site.at("/", page()))
    [visit] = site.visits
    assert sorted(visit.headers) == [
        ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
        ("Accept-Encoding", "gzip, deflate, br, zstd"),
        ("Host", f"127.0.0.1:{site.port}"),
        ("User-Agent", f"scraperd/{__version__}"),
    ]


@pytest.mark.parametrize("name", ["User-Agent", "ACCEPT", "accept-encoding"])
async def test_given_headers_replace_ours(site: Site, fetcher: Fetcher, name: str) -> None:
    """Whatever their case, they come once and as they were given."""
    await body(fetcher, site.at("/", page()), headers={name: "mine"})
    assert site.visits[0].header(name) == "mine"


async def test_the_environment_is_not_asked(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """No proxy and no password slips in from http_proxy or ~/.netrc."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login who password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1/")
    async with fetcher_of(loopback()) as fetcher:
        await body(fetcher, site.at("/", page()))
    assert site.visits[0].header("Authorization") is None


@pytest.mark.parametrize("size", [0, 1, 3 << 20])
async def test_bodies_are_sent_whole(site: Site, fetcher: Fetcher, size: int) -> None:
    """Of any size, with a Content-Length and nothing else added."""
    sent = random.Random(1).randbytes(size)
    await body(fetcher, site.at("/", page()), method="PUT", body=sent)
    [visit] = site.visits
    assert visit.body == sent
    assert visit.header("Content-Length") == str(size)
    assert visit.header("Content-Type") is None


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_no_body_has_no_type(site: Site, fetcher: Fetcher, method: str) -> None:
    """A Content-Type would speak of a body that is not there."""
    await body(fetcher, site.at("/", page()), method=method)
    assert site.visits[0].header("Content-Type") is None
    assert site.visits[0].body == b""


async def test_an_answer_before_the_body_was_read(site: Site, fetcher: Fetcher) -> None:
    """A server may refuse an upload by its head (413); its answer counts, and nothing hangs."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(page(b"too much", status=413))
        await writer.drain()
        while await reader.read(65536):
            pass

    site.raw = refuse
    answer = await fetcher.fetch(request(site.url(), method="POST", body=b"x" * (8 << 20)))
    assert isinstance(answer, Response)
    assert (answer.status, answer.body) == (413, b"too much")
    await site.until(lambda s: s.open == 0)


# --- connections


async def test_connections_are_kept(site: Site, fetcher: Fetcher) -> None:
    """One after the other, ten pages take one connection, whatever their framing."""
    texts = [b"a" * n for n in (0, 1, 1000, 300_000)]
    site.at("/length", lambda v: v.send(page(texts[int(v.target.partition("?")[2])])))
    site.at(
        "/chunks",
        lambda v: v.send(
            head(CHUNKED),
            *[chunk(t) for t in (texts[int(v.target.partition("?")[2])],) if t],
            chunk(b""),
        ),
    )
    for path in ("/length", "/chunks"):
        for number, text in enumerate(texts):
            assert await body(fetcher, site.url(f"{path}?{number}")) == text
    await body(fetcher, site.at("/empty", head(status="204 No Content")))
    await body(fetcher, site.at("/head", head("Content-Length: 10")), method="HEAD")
    assert (len(site.visits), site.connections) == (10, 1)


async def test_a_kept_connection_may_have_been_closed(site: Site, fetcher: Fetcher) -> None:
    """The site closed it after its answer: the next fetch opens another, and does not fail."""

    async def once(visit: Visit) -> None:
        await visit.send(page(b"answer"))
        visit.hang_up()

    url = site.at("/", once)
    assert [await body(fetcher, url) for _ in range(5)] == [b"answer"] * 5
    assert site.connections == 5


@pytest.mark.parametrize("stray", [page(b"for nobody"), b"HTTP/1.1 408 Timeout\r\n\r\n", b"noise"])
async def test_an_answer_nobody_asked_for_reaches_nobody(
    site: Site, fetcher: Fetcher, stray: bytes
) -> None:
    """Sent on an idle connection, it is not taken for the next job's page (RFC 9112 6.3)."""
    idle, sent = asyncio.Event(), asyncio.Event()

    async def first(visit: Visit) -> None:
        await visit.send(page(b"first"))
        await idle.wait()
        await visit.send(stray)
        sent.set()

    assert await body(fetcher, site.at("/1", first)) == b"first"
    idle.set()
    await sent.wait()
    site.at("/probe", page(b"probe"))
    async with fetcher_of(loopback()) as other:  # a round trip of its own: the stray has arrived
        assert await body(other, site.url("/probe")) == b"probe"
    assert await body(fetcher, site.at("/2", page(b"second"))) == b"second"


async def test_five_hundred_at_once(site: Site) -> None:
    """All of them are with the site at the same time: nothing queues in the dark."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # as the systemd unit does
    together = asyncio.Barrier(500)

    async def handler(visit: Visit) -> None:
        await together.wait()
        await visit.send(page(visit.target.encode()))

    url = site.at("/", handler)
    async with fetcher_of(
        loopback(fetch__connect_timeout=60)
    ) as fetcher:  # one that queues never ends
        bodies = await asyncio.gather(
            *(body(fetcher, f"{url}?{n}", timeout=60.0) for n in range(500))
        )
    assert bodies == [f"/?{n}".encode() for n in range(500)]
    assert site.connections == 500


async def test_drips_do_not_delay_their_neighbours(site: Site, fetcher: Fetcher) -> None:
    """While fifty fetches of one host hang on drips, a hundred others come and go."""
    drips = [drip_of_headers, drip_of_1xx, drip_of_chunks, drip_of_body, silence]
    hanging = [
        asyncio.create_task(fetcher.fetch(request(site.at(f"/drip{n}", drips[n % 5]), timeout=30)))
        for n in range(50)
    ]
    await site.until(lambda s: len(s.visits) == 50)
    url = site.at("/page", page(b"quick"))
    async with asyncio.timeout(2):
        for _ in range(10):
            assert await asyncio.gather(*(body(fetcher, url) for _ in range(10))) == [b"quick"] * 10
    assert not any(task.done() for task in hanging)
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)


# --- cancelling


async def redirect_that_drips(visit: Visit) -> None:
    await visit.send(head(CHUNKED, "Location: /elsewhere", status="302 Found"))
    await visit.drip(chunk(b"a"))


def sockets() -> int:
    """How many sockets this process has open."""
    count = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            count += str(descriptor.readlink()).startswith("socket:")
    return count


async def closed_down_to(count: int) -> bool:
    """Whether no more than `count` sockets stay open; the resolver closes its own in a thread."""
    for _ in range(200):
        if sockets() <= count:
            return True
        await asyncio.sleep(0.01)
    return False


@pytest.mark.parametrize(
    "handler",
    [silence, drip_of_headers, drip_of_chunks, drip_of_gzip, redirect_that_drips],
    ids=lambda h: h.__name__,
)
async def test_a_cancelled_scrape_leaves_nothing_open(
    site: Site, config: Config, handler: Callable[[Visit], Awaitable[None]]
) -> None:
    """In whatever state it is: CancelledError comes out, and its connection is closed."""
    before = sockets()
    job = decode_job(f'{{"url": "{site.at("/", handler)}"}}'.encode())
    async with fetcher_of(config) as fetcher:
        scraper = scraper_of(
            configured(config, politeness__per_host_concurrency=10), fetcher, SYSTEM
        )
        scrapes = [scraper.scrape(Target.of(job), None, scraper.claim()) for _ in range(10)]
        tasks = [asyncio.create_task(one) for one in scrapes]
        await site.until(lambda s: len(s.visits) == 10)
        await asyncio.sleep(0.05)  # let what was sent arrive, so that each is in the midst of it
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(end) for end in ended] == [asyncio.CancelledError] * 10
        await site.until(lambda s: s.open == 0)
    assert await closed_down_to(before)


async def test_cancelled_while_connecting() -> None:
    """Neither a handshake nor a connection attempt outlives its scrape."""
    before = sockets()
    async with full_backlog() as port, fetcher_of(loopback()) as fetcher:
        open_before = sockets()
        fetching = asyncio.create_task(fetcher.fetch(request(f"http://127.0.0.1:{port}/")))
        await asyncio.sleep(0.05)
        assert sockets() > open_before
        fetching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetching
        assert await closed_down_to(open_before)
    assert await closed_down_to(before)


async def test_a_deadline_from_outside_is_no_failure_of_the_site(
    site: Site, fetcher: Fetcher
) -> None:
    """The worker's own `jobs.timeout` comes out as what it is, not as the site's timeout."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await fetcher.fetch(request(site.at("/", drip_of_chunks), timeout=30))


async def test_a_closed_fetcher_leaves_no_descriptor(trusted: Certificates) -> None:
    """Kept connections, with and without TLS, end with the session; names were resolved too."""
    async with Site() as plain, Site(trusted.good, host="localhost") as secure:
        before = sockets()
        async with fetcher_of(loopback()) as fetcher:
            for _ in range(5):
                await body(fetcher, plain.at("/", page()))
                await body(fetcher, secure.at("/", page()))
            await failure(fetcher, "http://nothing-here.invalid/")
        await plain.until(lambda s: s.open == 0)
        await secure.until(lambda s: s.open == 0)
        assert await closed_down_to(before)


# --- Retry-After


@pytest.mark.parametrize(
    ("sent", "connections"),
    [
        (("GET", {}, None), 1),
        (("GET", {"Authorization": "Basic YTpi"}, None), 1),
        (("GET", {"Authorization": "Bearer Negotiate"}, None), 1),
        (("GET", {"authorization": "negotiate YII="}, None), 2),
        (("GET", {"AUTHORIZATION": "NTLM TlRM"}, None), 2),
        (("DELETE", {}, None), 1),
        (("POST", {}, b"x"), 2),
        (("POST", {}, b""), 2),
        (("PUT", {}, b"x" * 100_000), 2),
        (("HEAD", {}, None), 2),
    ],
)
async def test_a_connection_is_kept_only_if_nothing_of_its_request_can_be_left_in_it(
    site: Site, fetcher: Fetcher, sent: tuple[str, dict[str, str], bytes | None], connections: int
) -> None:
    """After a body, which a server may not have read, a HEAD, to which one may send a body all the
    same, or credentials that hold for a whole connection, the next request has one of its own.
    """
    url = URL(site.at("/", page(b"")))
    first = Request(sent[0], url, *sent[1:], 5.0, 1000)
    for request in (first, Request("GET", url, {}, None, 5.0, 1000)):
        assert isinstance(await fetcher.fetch(request), Response)
    one, other = site.visits
    assert other.connection - one.connection == connections - 1
    assert (one.header("connection") == "close") is (connections == 2)
