"""What the attacker owns: sites under endless names, and the names; also the names of the honest.

May touch: listening sockets on loopback addresses, the bombs in .cache/, its own priority.
Must never: be measured as part of the daemon, or serve a page of the honest tenant's but `/flaky`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections import Counter
from typing import TYPE_CHECKING, Final

import uvloop

from benchmarks.hostile_site import bomb
from tests.rig.sites.dns import Manner, Nameserver

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from collections.abc import Awaitable, Callable

HOSTS: Final = [f"127.0.11.{n}" for n in range(1, 201)]  # the attacker's
FLAKY: Final = [f"127.0.12.{n}" for n in range(1, 201)]  # honest, and busy at the first try
WEB: Final = [f"127.0.8.{n}" for n in range(1, 21)]  # honest sites, the first ten with names
LIMITED: Final = "127.0.8.30"  # an honest site that permits little
NAMES: Final = 3000  # of each family
NICE: Final = 10
HOLD: Final = 2.0  # seconds that /hold takes
PACE: Final = 0.05  # seconds between two pieces of a drip
ZEROS: Final = "http://h.example:" + "0" * 4300 + "80/"  # a port that int() refuses to read
_TTL: Final = 3600
_MUTE: Final = 200  # names that no nameserver answers for

Answer = tuple[str, list[str], bytes]


def page(body: bytes, *headers: str, status: str = "200 OK") -> Answer:
    """An answer of HTML."""
    return status, ["Content-Type: text/html; charset=utf-8", *headers], body


def redirect(where: str, *headers: str) -> Answer:
    """An answer that leads on."""
    return page(b"moved", f"Location: {where}", *headers, status="302 Found")


def _links() -> Answer:
    zeros = ZEROS.encode()
    links = b"".join(b'<a href="%s%d">x</a>' % (zeros, n) for n in range(5))
    return page(b"<title>x</title><link rel=canonical href='%s'>%s" % (zeros, links))


def _classes() -> Answer:
    return page(b'<p class="' + b"b " * 15_000 + b'a">x</p>')


def _value() -> Answer:
    return page(b'<p z="' + b"a" * 30_000 + b'">x</p>')


def _attributes() -> Answer:
    return page(b"<p " + b" ".join(b"a%x" % n for n in range(5000)) + b" zzz1>x</p>")


def _cookies() -> list[str]:
    return [f"Set-Cookie: c{n}={'v' * 300}; Path=/" for n in range(180)]


_PAGES: Final[dict[str, Answer]] = {
    "/page": page(b"<title>A page</title><p>text</p>"),
    "/zeros": _links(),
    "/classes": _classes(),
    "/value": _value(),
    "/attributes": _attributes(),
    "/nested": page(b"<b>" * 14_000),
    "/big": page(b"<p>0123456789</p>" * 600_000),
    "/busy": page(b"busy", "Retry-After: 0", status="503 Service Unavailable"),
}


class Site:
    """One handler for all names; counts what is held at once."""

    def __init__(self, port: int, web: int) -> None:
        self._port = port
        self._web = web
        self._tried: set[str] = set()
        self.seen: Counter[str] = Counter()
        self._held = 0
        self._special: dict[str, Callable[[StreamWriter], Awaitable[None]]] = {
            "/hang": self._hang,
            "/drip": self._drip,
            "/slow": self._slow,
        }

    async def meet(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Answer one connection's requests."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            while not writer.is_closing():
                lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                path = lines[0].split(" ")[1]
                host = next(line[6:] for line in lines if line.lower().startswith("host: "))
                if (special := self._special_of(path, host)) is not None:
                    await special(writer)
                    break
                status, headers, body = await self._answer(path, host)
                headers = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}"]
                writer.write("\r\n".join([*headers, "", ""]).encode() + body)
                await writer.drain()
        writer.transport.abort()

    def _special_of(self, path: str, host: str) -> Callable[[StreamWriter], Awaitable[None]] | None:
        if path == "/robots.txt":
            return self._hang if host.startswith("h") else None
        if path.startswith("/bomb/"):
            return lambda writer: self._bomb(writer, path.removeprefix("/bomb/"))
        return self._special.get(path.partition("?")[0])

    async def _answer(self, path: str, host: str) -> Answer:  # noqa: PLR0911 - a table of paths
        name, _, rest = path.removeprefix("/").partition("/")
        match name.partition("?")[0]:
            case "robots.txt" if host.startswith("r"):
                return redirect(f"http://{self.victim}/robots-{host.partition('.')[0]}")
            case "stats":
                return self._stats()
            case "hold":
                return await self._hold()
            case "to-victim":
                return redirect(f"http://{self.victim}/python/index.html?{rest}")
            case "chain":
                return self._chain(int(rest))
            case "cookies":
                left = int(rest)
                return redirect(f"/cookies/{left - 1}" if left else "/page", *_cookies())
            case "flaky":
                return self._flaky(rest)
            case found:
                return _PAGES.get(f"/{found}", page(b"", status="404 Not Found"))

    def _stats(self) -> Answer:
        """What was seen since the last time."""
        seen = json.dumps(self.seen).encode()
        self.seen.clear()
        return page(seen)

    @property
    def victim(self) -> str:
        """The honest host that permits little, and its port."""
        return f"limited.honest.example:{self._web}"

    async def _hold(self) -> Answer:
        self._held += 1
        self.seen["held at once"] = max(self._held, self.seen["held at once"])
        await asyncio.sleep(HOLD)
        self._held -= 1
        return _PAGES["/page"]

    def _chain(self, left: int) -> Answer:
        """Each hop at another name."""
        if not left:
            return _PAGES["/page"]
        self.seen["redirects"] += 1
        name = f"n{self.seen['redirects'] % NAMES}.evil.example"
        return redirect(f"http://{name}:{self._port}/chain/{left - 1}")

    def _flaky(self, which: str) -> Answer:
        if which in self._tried:
            return _PAGES["/page"]
        self._tried.add(which)
        return page(b"", status="503 Service Unavailable")

    async def _hang(self, writer: StreamWriter) -> None:
        del writer
        await asyncio.sleep(3600)

    async def _drip(self, writer: StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n")
        writer.write(b"Transfer-Encoding: chunked\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"1\r\nx\r\n")
            await writer.drain()
            await asyncio.sleep(PACE)

    async def _slow(self, writer: StreamWriter) -> None:
        """9 MB at 1 MB/s, and then nothing more."""
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 9900000\r\n\r\n"
        )
        for _ in range(90):
            writer.write(b"<p>0123456</p>" * 7143)
            await writer.drain()
            await asyncio.sleep(0.1)
        await asyncio.sleep(3600)

    async def _bomb(self, writer: StreamWriter, coding: str = "gzip") -> None:
        head = f"Content-Type: text/html\r\nContent-Encoding: {coding}\r\nConnection: close\r\n\r\n"
        writer.write(b"HTTP/1.1 200 OK\r\n" + head.encode())
        data = bomb(coding)
        for start in range(0, len(data), 65536):
            if writer.is_closing():
                return
            writer.write(data[start : start + 65536])
            await writer.drain()


def zone() -> Nameserver:
    """All names, honest and not."""
    server = Nameserver()
    for n, host in enumerate(WEB[:10]):
        server.records[f"w{n}.honest.example"] = [("A", host, _TTL)]
    server.records["limited.honest.example"] = [("A", LIMITED, _TTL)]
    for n in range(NAMES):
        server.records[f"n{n}.one.example"] = [("A", HOSTS[0], _TTL)]
        server.records[f"f{n}.honest.example"] = [("A", FLAKY[n % len(FLAKY)], _TTL)]
        for family in "nrh":
            server.records[f"{family}{n}.evil.example"] = [("A", HOSTS[n % len(HOSTS)], _TTL)]
    for n in range(_MUTE):
        server.manners[f"n{n}.mute.example"] = Manner.SILENCE
    return server


async def serve(port: int, web: int) -> None:
    """Listen until the process is ended."""
    site = Site(port, web)
    bomb("gzip"), bomb("zstd")  # made the first time
    async with zone() as names:
        server = await asyncio.start_server(site.meet, [*HOSTS, *FLAKY], port, backlog=4096)
        print(f"ready {names.port}", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    os.nice(NICE)
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
