"""Tests of what bounds a fetch: headers, bytes as sent, memory, and connections over all hosts.

May touch: sites on loopback, /proc for the sockets of this process.
Must never: reach beyond this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import random
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from yarl import URL

from scraperd.contract import Failure
from scraperd.fetch.memory import Budget
from scraperd.fetch.message import Request, Response
from scraperd.wiring import fetcher_of
from tests.rig.clocks.lived import lived
from tests.rig.page import failed, loopback
from tests.rig.sites.site import Site, Visit, chunk, head, page

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from scraperd.fetch.client import Fetcher
    from scraperd.fetch.memory import Claim
    from tests.rig.sites.certificates import Certificates

NOISE = random.Random(1).randbytes(5000)
CHUNKED = "Transfer-Encoding: chunked"


async def get(url: str, fetcher: Fetcher | None = None, **changes: Any) -> Response | Failure:
    """Fetch `url`; what is no field of a request is a setting of a fetcher of its own."""
    own = {name: changes.pop(name) for name in list(changes) if name in SETTINGS}
    fields = {"timeout": 5.0, "max_body": 1 << 20, "body": None, "method": "GET", **changes}
    request = Request(url=URL(url), headers={}, **fields)
    if fetcher is not None:
        return failed(await fetcher.fetch(request))
    async with fetcher_of(loopback(**own)) as fresh:
        return failed(await fresh.fetch(request))


SETTINGS = {"fetch__max_headers", "fetch__max_header_size", "fetch__transfer_maxsize"}


def bytes_of(answer: Response | Failure) -> bytes:
    assert isinstance(answer, Response), answer
    return answer.body


# --- headers


@pytest.mark.parametrize("over", [0, 1])
async def test_how_many_headers(site: Site, over: int) -> None:
    """`max_headers` is exact, and named by the failure."""
    url = site.at("/", head(*["X-Many: a"] * (9 + over), "Content-Length: 0"))
    answer = await get(url, fetch__max_headers=10)
    if over:
        message = "malformed response: more headers than fetch.max_headers (10)"
        assert answer == Failure("protocol", message)
    else:
        assert bytes_of(answer) == b""


@pytest.mark.parametrize(
    "start",
    [
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 2000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a" * 2000 + b": x\r\n\r\n",
        b"HTTP/1.1 200 " + b"a" * 2000 + b"\r\n\r\n",
    ],
    ids=["value", "name", "status line"],
)
async def test_how_long_a_header(site: Site, start: bytes) -> None:
    """`max_header_size` is for names, values and the status line; the failure names it."""
    long = "a header or the status line is longer than fetch.max_header_size (1024)"
    message = f"malformed response: {long}"
    assert await get(site.at("/", start), fetch__max_header_size=1024) == Failure(
        "protocol", message
    )
    pieces = [start[i : i + 100] for i in range(0, len(start), 100)]

    async def slowly(visit: Visit) -> None:
        for piece in pieces:
            await visit.send(piece)
            await asyncio.sleep(0)
        await visit.gone()

    assert await get(site.at("/", slowly), fetch__max_header_size=1024) == Failure(
        "protocol", message
    )


HEAD_LIMIT = 4 * 1024
TOO_MUCH = "more than 4096 bytes of headers (4 times fetch.max_header_size)"


def of_size(size: int, *lines: str, status: str = "200 OK") -> bytes:
    """A response's head of so many bytes, in headers that are short enough each."""
    start = head(*lines, status=status)[:-2]
    filler = size - len(start) - 2
    count = -(-filler // 500)
    sizes = [filler // count + (n < filler % count) for n in range(count)]
    return start + b"".join(b"X: " + b"a" * (each - 5) + b"\r\n" for each in sizes) + b"\r\n"


@pytest.mark.parametrize("over", [0, 1])
@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("early", [False, True])
async def test_how_much_of_headers(site: Site, over: int, *, split: bool, early: bool) -> None:
    """All of a head, with the 1xx before it, is bounded to the byte, anew for each request.

    However it comes: in one piece with its body, or in several.
    """
    hints = of_size(1000, status="103 Early Hints") if early else b""
    start = hints + of_size(HEAD_LIMIT + over - len(hints), "Content-Length: 5000")

    async def handler(visit: Visit) -> None:
        for piece in (start[:1500], start[1500:], NOISE) if split else (start + NOISE,):
            await visit.send(piece)
            await asyncio.sleep(0.005 if split else 0)

    url = site.at("/", handler)
    async with fetcher_of(loopback(fetch__max_header_size=1024)) as fetcher:
        for _ in range(3):
            answer = await get(url, fetcher)
            if over:
                assert answer == Failure("protocol", f"malformed response: {TOO_MUCH}")
            else:
                assert bytes_of(answer) == NOISE
    assert site.connections == (3 if over else 1)


async def test_a_head_and_its_body_at_once(site: Site) -> None:
    """Only what comes before a body is counted, however much of the body comes with the head."""
    noise = random.Random(2).randbytes(900_000)
    whole = head(CHUNKED) + b"".join(chunk(bytes([n])) for n in noise[:50_000]) + chunk(b"")
    site.at("/chunks", whole)
    url = site.at("/", page(noise))
    async with fetcher_of(loopback(fetch__max_header_size=1024)) as fetcher:
        for _ in range(3):
            assert bytes_of(await get(url, fetcher)) == noise
            assert bytes_of(await get(site.url("/chunks"), fetcher)) == noise[:50_000]
    assert site.connections == 1


async def test_long_words_around_small_chunks(site: Site) -> None:
    """What is no body is counted anew after each byte that is."""

    async def handler(visit: Visit) -> None:
        await visit.send(head(CHUNKED))
        for _ in range(50):
            await visit.send(b"1;" + b"a" * 100)
            await asyncio.sleep(0.002)
            await visit.send(b"\r\nb\r\n")
            await asyncio.sleep(0.002)
        await visit.send(chunk(b""))

    assert bytes_of(await get(site.at("/", handler), fetch__max_header_size=1024)) == b"b" * 50


@pytest.mark.parametrize("after", [b"0\r\n", b"1;"], ids=["trailers", "chunk extension"])
async def test_how_much_that_is_no_body(site: Site, after: bytes) -> None:
    """Trailers and chunk extensions have the same bound: in a body, too, they are kept or read."""
    line = b"X: " + b"a" * 500 + b"\r\n" if after[:1] == b"0" else b"a" * 500

    async def handler(visit: Visit) -> None:
        await visit.send(head(CHUNKED), chunk(b"here"), after)
        for _ in range(10):
            await visit.send(line)
            await asyncio.sleep(0.002)
        await visit.gone()

    answer = await get(site.at("/", handler), fetch__max_header_size=1024)
    assert answer == Failure("protocol", f"malformed response: {TOO_MUCH}")


async def test_what_comes_while_nothing_is_due(site: Site) -> None:
    """A byte on an idle connection closes it: nothing is kept, and the next page is whole."""
    idle = asyncio.Event()

    async def handler(visit: Visit) -> None:
        await visit.send(page(b"here"))
        if visit.connection == 0:
            await idle.wait()
            await visit.send(b"HTTP/1.1 200 OK\r\nX: half a head\r\n")
            await visit.gone()

    url = site.at("/", handler)
    async with fetcher_of(loopback()) as fetcher:
        assert bytes_of(await get(url, fetcher)) == b"here"
        idle.set()
        await site.until(lambda s: s.open == 0)
        assert bytes_of(await get(url, fetcher)) == b"here"


async def flood_of_headers(visit: Visit) -> None:
    await visit.send(b"HTTP/1.1 200 OK\r\n")
    await visit.flood(b"X-More: to come\r\n" * 1000)


async def flood_of_one_header(visit: Visit) -> None:
    await visit.send(b"HTTP/1.1 200 OK\r\nX: ")
    await visit.flood(b"a" * 65536)


async def flood_of_trailers(visit: Visit) -> None:
    await visit.send(head(CHUNKED), b"0\r\n")
    await visit.flood(b"X-More: to come\r\n" * 1000)


async def flood_of_a_chunk_extension(visit: Visit) -> None:
    await visit.send(head(CHUNKED), b"1;")
    await visit.flood(b"a" * 65536)


async def flood_of_small_chunks(visit: Visit) -> None:
    await visit.send(head(CHUNKED))
    await visit.flood(chunk(b"a") * 1000)


@pytest.mark.parametrize(
    "handler",
    [
        flood_of_headers,
        flood_of_one_header,
        flood_of_trailers,
        flood_of_a_chunk_extension,
        flood_of_small_chunks,
    ],
    ids=lambda h: h.__name__,
)
async def test_floods(
    site: Site, fetcher: Fetcher, handler: Callable[[Visit], Awaitable[None]]
) -> None:
    """Each ends at a limit or at the timeout, and leaves nothing open."""
    async with lived() as seconds:
        answer = await get(site.at("/", handler), fetcher, timeout=0.5)
    assert isinstance(answer, Failure)
    assert answer.kind in ("protocol", "too_large", "timeout")
    assert seconds() < 1.5
    await site.until(lambda s: s.open == 0)


# --- bytes as they are sent


@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("over", [0, 1])
async def test_bytes_as_sent(site: Site, framing: str, over: int) -> None:
    """`transfer_maxsize` counts what comes over the wire, to the byte, compressed or not."""
    for sent, coding in ((NOISE, []), (gzip.compress(NOISE), ["Content-Encoding: gzip"])):
        whole = head(CHUNKED, *coding) + chunk(sent) + chunk(b"")
        url = site.at("/", page(sent, headers=coding) if framing == "length" else whole)
        limit = len(sent) - over
        answer = await get(url, fetch__transfer_maxsize=limit)
        if over:
            message = f"the body is larger than {limit} bytes as sent (fetch.transfer_maxsize)"
            assert answer == Failure("too_large", message)
        else:
            assert bytes_of(answer) == NOISE


async def test_a_declared_length_is_believed(site: Site) -> None:
    """A compressed body that is too large by its own Content-Length is not waited for."""

    async def handler(visit: Visit) -> None:
        await visit.send(head("Content-Length: 1001", "Content-Encoding: gzip"))
        await visit.gone()

    answer = await get(site.at("/", handler), fetch__transfer_maxsize=1000)
    assert isinstance(answer, Failure)
    assert answer.kind == "too_large"


@pytest.mark.parametrize("limits", [{"max_body": 1000}, {"fetch__transfer_maxsize": 1000}])
@pytest.mark.parametrize("coding", [None, "gzip"])
async def test_cut_off_instead(site: Site, coding: str | None, limits: dict[str, int]) -> None:
    """With `truncate`, what is past a limit is not there, and nothing else is wrong."""
    text = b"0123456789" * 100_000
    sent = gzip.compress(random.Random(1).randbytes(10) + text) if coding else text
    answer = await get(
        site.at("/", page(sent, headers=[f"Content-Encoding: {coding}"] if coding else [])),
        truncate=True,
        **limits,
    )
    body = bytes_of(answer)
    assert len(body) == 1000 if "max_body" in limits else 0 < len(body) <= len(text)
    assert body[10:] in text


async def test_nothing_to_cut_off(site: Site) -> None:
    """With `truncate`, a body of exactly the limit is whole, and its connection is kept."""
    url = site.at("/", page(NOISE))
    async with fetcher_of(loopback()) as fetcher:
        for _ in range(2):
            answer = await get(url, fetcher, truncate=True, max_body=len(NOISE))
            assert bytes_of(answer) == NOISE
    assert site.connections == 1


# --- memory


@pytest.mark.parametrize("coding", [None, "gzip"])
async def test_a_body_is_claimed(site: Site, fetcher: Fetcher, coding: str | None) -> None:
    """The claim holds what the body holds, after decompression, not more and not less."""
    sent = gzip.compress(NOISE) if coding else NOISE
    url = site.at("/", page(sent, headers=[f"Content-Encoding: {coding}"] if coding else []))
    budget = Budget(1 << 20)
    claim = budget.open()
    assert bytes_of(await get(url, fetcher, claim=claim)) == NOISE
    assert budget.used == claim.size == len(NOISE)


async def spent(budget: Budget, size: int) -> Claim:
    """A claim that has taken up the budget and more, so that others wait."""
    claim = budget.open()
    await claim.grow(size)
    await claim.grow(1)
    return claim


async def test_a_body_waits_for_memory(site: Site, fetcher: Fetcher) -> None:
    """When somebody gives it back, the body goes on where it was."""
    budget = Budget(1 << 20)
    other = await spent(budget, 1 << 20)
    fetching = asyncio.create_task(get(site.at("/", page(NOISE)), fetcher, claim=budget.open()))
    await site.until(lambda s: bool(s.visits))
    done, _ = await asyncio.wait([fetching], timeout=0.1)
    assert not done
    other.close()
    assert bytes_of(await fetching) == NOISE
    assert budget.used == len(NOISE)


async def test_waiting_for_memory_has_an_end(site: Site, fetcher: Fetcher) -> None:
    """The fetch's own timeout, as for all that it waits for."""
    budget = Budget(1 << 20)
    await spent(budget, 1 << 20)
    url = site.at("/", page(NOISE))
    answer = await get(url, fetcher, claim=budget.open(), timeout=0.2)
    assert answer == Failure("timeout", "not finished within 0.2 s", retryable=True)


# --- connections


def connected(port: int) -> int:
    """How many open sockets of this process lead to `port`, by the kernel's own word.

    Not from /proc/net/tcp: that lists the whole machine's, 40 ms and more on the loop each time.
    """
    count = 0
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile, no socket, or not connected
            one = socket.socket(fileno=int(entry.name))
            try:
                count += one.family == socket.AF_INET and one.getpeername()[1] == port
            finally:
                one.detach()  # it is somebody else's
    return count


def hosts(site: Site, count: int) -> list[str]:
    url = site.url().replace("127.0.0.1", "127.0.{}.{}")
    return [url.format(1 + n // 200, 1 + n % 200) for n in range(count)]


async def test_connections_over_all_hosts() -> None:
    """Three hundred hosts, one after another: idle connections give way, the oldest first."""
    most = 0

    async def handler(visit: Visit) -> None:
        nonlocal most
        most = max(most, connected(site.port))
        await visit.send(page(b"here"))

    config = loopback(fetch__max_connections=50, concurrency=50)
    async with Site(listen="0.0.0.0") as site, fetcher_of(config) as fetcher:
        site.at("/", handler)
        urls = hosts(site, 300)
        for url in urls:
            assert bytes_of(await get(url, fetcher)) == b"here"
        assert most == 50
        assert site.connections == 300
        for url in urls[-49:]:
            await get(url, fetcher)
        assert site.connections == 300
        await get(urls[0], fetcher)
        assert site.connections == 301


async def test_tls_connections_give_way(certificates: Certificates) -> None:
    """They are idle connections like the others."""
    config = loopback(fetch__max_connections=5, concurrency=5, fetch__verify_tls=False)
    async with Site(certificates.good, listen="0.0.0.0") as site, fetcher_of(config) as fetcher:
        site.at("/", page(b"here"))
        for url in hosts(site, 20):
            assert bytes_of(await get(url, fetcher)) == b"here"
            assert connected(site.port) <= 5


async def test_nobody_waits_for_a_connection() -> None:
    """With `concurrency` in use while idle ones of other hosts are kept, each gets its own."""
    together = asyncio.Barrier(40)
    most = 0

    async def handler(visit: Visit) -> None:
        nonlocal most
        if not await together.wait():
            most = max(most, connected(site.port))
        await visit.send(page(b"together"))

    config = loopback(fetch__max_connections=40, concurrency=40)
    async with Site(listen="0.0.0.0") as site, fetcher_of(config) as fetcher:
        site.at("/", handler)
        urls = hosts(site, 200)
        async with asyncio.timeout(60):  # one that waits does so for ever
            for start in range(0, 200, 40):
                batch = [get(url, fetcher) for url in urls[start : start + 40]]
                assert {bytes_of(one) for one in await asyncio.gather(*batch)} == {b"together"}
        assert most == 40


async def test_a_site_that_says_no_goodbye(trusted: Certificates) -> None:
    """TLS ends with a word of each side; a site that withholds its own keeps no connection open."""
    ended = threading.Event()

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, trusted.good.wrap_socket(connection, server_side=True) as secure:
            secure.recv(65536)
            secure.sendall(page(b"here", headers=["Connection: close"]))
            ended.wait(10)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = asyncio.create_task(asyncio.to_thread(serve, listener))
        port = listener.getsockname()[1]
        async with fetcher_of(loopback()) as fetcher:
            assert bytes_of(await get(f"https://127.0.0.1:{port}/", fetcher)) == b"here"
            await asyncio.sleep(0.05)  # the loop closes sockets in its next round
            assert connected(port) == 0
        ended.set()
        await server
