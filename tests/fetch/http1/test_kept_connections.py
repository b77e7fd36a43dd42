"""Tests of a kept connection that its site closes as the next request comes.

May touch: sites and proxies on loopback.
Must never: wait for a race: the site closes when it has read what the test says.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from yarl import URL

from scraperd.contract import Failure
from scraperd.fetch.message import Request, Response
from scraperd.wiring import fetcher_of
from tests.rig.page import failed, loopback
from tests.rig.sites.proxies import RealProxy
from tests.rig.sites.site import Site, page

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

    from scraperd.fetch.client import Fetcher
    from tests.rig.sites.certificates import Certificates

LARGE = b"x" * (8 << 20)  # more than the sockets' buffers take
REQUESTS = {
    "GET": ("GET", None),
    "POST": ("POST", b"a=1"),
    "POST without a body": ("POST", None),
    "PUT": ("PUT", b"a=1"),
    "PATCH": ("PATCH", b"a=1"),
    "DELETE": ("DELETE", None),
    "HEAD": ("HEAD", None),
    "OPTIONS": ("OPTIONS", None),
}
TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Ending(NamedTuple):
    """How the site ends a kept connection: what it sends before, and whether by a reset."""

    says: bytes = b""
    reset: bool = False


class Fickle:
    """Answers the first request of each connection of the first `fickle`, and ends it at the next.

    It reads no more of that request than its head. `heads` are those of all requests.
    """

    def __init__(self, ending: Ending, fickle: int = 1) -> None:
        self._ending = ending
        self._fickle = fickle
        self.heads: list[bytes] = []
        self.connections = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        ends = self.connections <= self._fickle
        while head := await reader.readuntil(b"\r\n\r\n"):
            self.heads.append(head)
            if ends and b"/first HTTP/" in head:
                writer.write(page(b"first"))
            elif ends:
                return await self._end(writer)
            else:
                await reader.readexactly(_length(head))
                writer.write(page(b"" if head.startswith(b"HEAD") else b"second"))
        return None

    async def _end(self, writer: asyncio.StreamWriter) -> None:
        if self._ending.says:
            writer.write(self._ending.says)
        if self._ending.reset:
            handle: socket.socket = writer.get_extra_info("socket")
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        else:
            writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _length(head: bytes) -> int:
    _, found, rest = head.lower().partition(b"content-length: ")
    return int(rest.partition(b"\r\n")[0]) if found else 0


@pytest.fixture(scope="module")
def proxies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A real proxy of each kind, by its name."""
    with (
        RealProxy("http", tmp_path_factory.mktemp("http")) as http,
        RealProxy("socks5", tmp_path_factory.mktemp("socks5")) as socks,
    ):
        yield {"http": http.url(), "socks": socks.url()}


async def second(
    server: Fickle, method: str, body: bytes | None, tls: Certificates | None = None, **more: Any
) -> Response | Failure:
    """What the second request of one fetcher gets."""
    proxy = more.pop("proxy", "")
    if tls is not None:
        more["fetch__ca_file"] = str(tls.authority)
    async with Site(tls and tls.good) as site, fetcher_of(loopback(**more)) as fetcher:
        site.raw = server
        sent = [("GET", "/first", None), (method, "/second", body)]
        answers = [
            await fetcher.fetch(
                Request(verb, URL(site.url(path)), {}, data, 20.0, 1000, proxy=proxy)
            )
            for verb, path, data in sent
        ]
    assert isinstance(answers[0], Response), answers[0]
    assert answers[0].body == b"first"
    return failed(answers[1])


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("name", REQUESTS)
async def test_it_is_closed_without_an_answer(
    certificates: Certificates, name: str, *, reset: bool, tls: bool
) -> None:
    """Any method is sent again, once, on a new connection: Chromium does so too."""
    server = Fickle(Ending(reset=reset))
    answer = await second(server, *REQUESTS[name], certificates if tls else None)
    assert isinstance(answer, Response), answer
    assert answer.body == (b"" if name == "HEAD" else b"second")
    assert (len(server.heads), server.connections) == (3, 2)


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("reset", [False, True])
async def test_it_is_closed_while_the_body_is_sent(
    certificates: Certificates, *, reset: bool, tls: bool
) -> None:
    """The whole body is sent again from its begin."""
    server = Fickle(Ending(reset=reset))
    answer = await second(server, "POST", LARGE, certificates if tls else None)
    assert isinstance(answer, Response), answer
    assert answer.body == b"second"
    assert server.connections == 2


@pytest.mark.parametrize(("proxy", "tls"), [("http", True), ("socks", False), ("socks", True)])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_it_leads_through_a_proxy(
    certificates: Certificates, proxies: dict[str, str], method: str, proxy: str, *, tls: bool
) -> None:
    """A kept tunnel is like a kept connection."""
    server, trusted = Fickle(Ending()), certificates if tls else None
    answer = await second(server, *REQUESTS[method], trusted, proxy=proxy, proxies=proxies)
    assert isinstance(answer, Response), answer
    assert answer.body == b"second"
    assert (len(server.heads), server.connections) == (3, 2)


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("name", REQUESTS)
async def test_it_is_that_of_a_proxy(site: Site, name: str, *, reset: bool) -> None:
    """A proxy that reads the requests closes its kept connections too."""
    site.raw = server = Fickle(Ending(reset=reset))
    method, body = REQUESTS[name]
    async with fetcher_of(loopback(proxies={"office": site.url().rstrip("/")})) as fetcher:
        for verb, path, data in (("GET", "first", None), (method, "second", body)):
            url = URL(f"http://127.0.0.1:9/{path}")
            answer = await fetcher.fetch(Request(verb, url, {}, data, 5.0, 1000, proxy="office"))
            assert isinstance(answer, Response), answer
            assert answer.body == (b"" if verb == "HEAD" else path.encode())
    assert (len(server.heads), server.connections) == (3, 2)


@pytest.mark.parametrize("says", [b"H", b"HTTP/1.1 100 Continue\r\n\r\n"])
@pytest.mark.parametrize("name", REQUESTS)
async def test_a_byte_of_an_answer_came(certificates: Certificates, name: str, says: bytes) -> None:
    """Then nothing is sent again here: the site has begun to act on the request."""
    server = Fickle(Ending(says))
    found = await second(server, *REQUESTS[name], certificates)
    assert isinstance(found, Failure), found
    assert (found.kind, found.retryable) == ("connect", True)
    assert (len(server.heads), server.connections) == (2, 1)


@pytest.mark.parametrize("name", REQUESTS)
async def test_what_came_is_no_answer(name: str) -> None:
    """Only an idempotent method is sent again (RFC 9110 section 9.2.2): the site may have acted."""
    server = Fickle(Ending(b"noise\r\n\r\n"))
    answer = await second(server, *REQUESTS[name])
    again = REQUESTS[name][0] not in ("POST", "PATCH")
    assert isinstance(answer, Response) is again, answer
    assert (len(server.heads), server.connections) == ((3, 2) if again else (2, 1))


@pytest.mark.parametrize("name", ["GET", "POST"])
async def test_the_new_connection_is_closed_too(name: str) -> None:
    """The request is not sent a third time."""
    server = Fickle(Ending(), fickle=10)
    found = await second(server, *REQUESTS[name])
    assert found == Failure("connect", "connection lost: the site closed it", retryable=True)
    assert (len(server.heads), server.connections) == (3, 2)


@pytest.mark.parametrize("name", ["GET", "POST", "DELETE"])
async def test_it_was_idle_for_too_long(name: str) -> None:
    """A 408 that crosses the request is about the connection (RFC 9110 section 15.5.9).

    HAProxy sends it before it closes an idle one. Chromium sends the request again.
    """
    server = Fickle(Ending(TIMED_OUT))
    answer = await second(server, *REQUESTS[name])
    assert isinstance(answer, Response), answer
    assert (answer.status, answer.body) == (200, b"second")
    assert (len(server.heads), server.connections) == (3, 2)


async def test_a_new_connection_that_times_out(site: Site, fetcher: Fetcher) -> None:
    """A 408 on a new connection is the site's answer."""
    url = URL(site.at("/", TIMED_OUT))
    answer = await fetcher.fetch(Request("GET", url, {}, None, 5.0, 1000))
    assert isinstance(answer, Response), answer
    assert (answer.status, len(site.visits)) == (408, 1)


async def test_both_connections_time_out() -> None:
    """The second 408 is the answer."""
    server = Fickle(Ending(TIMED_OUT), fickle=10)
    answer = await second(server, "GET", None)
    assert isinstance(answer, Response), answer
    assert (answer.status, len(server.heads), server.connections) == (408, 3, 2)
