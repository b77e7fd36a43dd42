"""The worst pages and rules there are, and a site of its own that serves them.

May touch: listening sockets on loopback addresses, its own priority.
Must never: be measured as part of the daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import uvloop

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from collections.abc import Callable, Iterator

HOSTS: Final = [f"127.0.9.{n}" for n in range(1, 251)]
NICE: Final = 10
MOST: Final = 10 * 1024**2  # bytes: fetch.download_maxsize
TITLE: Final[dict[str, Any]] = {"extract": {"title": "h1"}}
HTML: Final = "text/html; charset=utf-8"
JSON: Final = "application/json"


@dataclass(frozen=True, slots=True)
class Sort:
    """A sort of attack: the page, how it is sent, what is asked of it, and how many at once.

    Those that are `together` are answered when all have been asked for. `rules` makes the n-th
    job's own rules, which no cache knows.
    """

    page: Callable[[], bytes]
    job: dict[str, Any]
    media: str = HTML
    count: int = 3
    together: bool = False
    rules: Callable[[int], dict[str, Any]] | None = field(default=None)

    def asked(self, n: int) -> dict[str, Any]:
        """What the n-th job asks."""
        return {"extract": self.rules(n)} if self.rules is not None else self.job


def _full(piece: bytes, start: bytes = b"") -> Callable[[], bytes]:
    return lambda: start + piece * ((MOST - len(start)) // len(piece))


def _many(selector: str, output: object = "text", **more: Any) -> dict[str, Any]:
    return {"selector": selector, "type": "list", "output": output, **more}


def _rule(rule: object) -> dict[str, Any]:
    return {"extract": {"found": rule}}


def _reopened() -> bytes:
    return b"<p>" + b"".join(b"<b c=%x>" % n for n in range(1200)) + b"<p>x" * 4000


def _attributes() -> bytes:
    return b"<p " + b" ".join(b"a%x" % n for n in range(1_000_000)) + b">"


def _document(piece: bytes, end: bytes, start: bytes = b"[") -> bytes:
    return start + piece * ((MOST - 100) // len(piece)) + end


def _feed() -> bytes:
    entry = (
        b"<item><title>A &amp; b</title><link>http://h/x</link><pubDate>Mon, 6 Sep 2021 00:01:00"
    )
    entry += b" GMT</pubDate><description>&lt;p&gt;Some text&lt;/p&gt;</description></item>\n"
    head = b"<rss version='2.0'><channel><title>t</title>"
    return head + entry * ((MOST - 200) // len(entry)) + b"</channel></rss>"


def _articles() -> bytes:
    piece = b"<h2>A heading</h2><p>%s <a href=/x>a link</a></p>\n" % (
        b"Some words of a text. " * 20
    )
    return b"<html><body><article>" + piece * ((MOST - 100) // len(piece)) + b"</article>"


def _divided() -> bytes:
    return b"<div>" * 250 + b"<p>Some words of a text.</p>" * 200_000


_DEEP: Final = 3_000  # elements: enough for a chain to take hours
_LISTS: Final = _many("b", {"b": _many("b", {"c": _many("b", {"d": "x"})})})
_DOUBLING: Final = "|".join(["[@,@]"] * 60)
_PROSE: Final = "漢字と日本語のテキスト。" * 8


def _trees() -> dict[str, Sort]:
    deep = b"<b>" * _DEEP
    siblings = _full(b"<p>x</p>")
    return {
        "10 MB of nested <b>": Sort(_full(b"<b>"), TITLE),
        "10 MB of nested <div>": Sort(_full(b"<div>"), TITLE),
        "nested <div>, text": Sort(_full(b"<div>x"), {"include": ["text"]}),
        "a million siblings": Sort(siblings, TITLE),
        "a million, as a list": Sort(siblings, _rule(_many("p"))),
        "links and metadata": Sort(
            _full(b"<a href=/x>x</a>"), {**TITLE, "include": ["body", "links", "metadata"]}
        ),
        "five million reopened": Sort(_reopened, TITLE),
        "a million attributes": Sort(_attributes, TITLE),
        "chain of x * * *": Sort(lambda: deep, _rule("x * * *")),
        "chain of :has": Sort(lambda: deep, _rule("b:has(b b x)")),
        ":has on siblings": Sort(siblings, _rule("p:has(~ x)")),
        ":is of 150": Sort(siblings, _rule(f":is({','.join(f'x{n}' for n in range(150))})")),
        ":nth-last-child": Sort(siblings, _rule("p:nth-last-child(3 of p)")),
        "500 lists": Sort(
            lambda: b"<p>x</p>" * 20_000,
            {"extract": {f"r{n}": _many(f"p.x{n}") for n in range(500)}},
        ),
        "list in list in list": Sort(lambda: b"<b>" * 400, _rule(_LISTS)),
        "a table of 10 MB": Sort(
            _full(b"<tr><td>x", b"<table>"), _rule({"selector": "table", "output": "table"})
        ),
        "html of all": Sort(_full(b"<b>x</b>"), _rule(_many("*", "html"))),
        "regex on 5 MB": Sort(
            lambda: b"<p>" + b"x" * 5_000_000, _rule({"selector": "p", "regex": "((x+x+)+y)"})
        ),
    }


def _documents() -> dict[str, Sort]:
    return {
        "jmespath doubling": Sort(lambda: b"[1,2,3]", _rule({"jmespath": _DOUBLING}), JSON),
        "JSON, nested": Sort(lambda: _document(b"[", b""), _rule({"jmespath": "a"}), JSON),
        "JSON, flat": Sort(lambda: _document(b"1,", b"1]"), _rule({"jmespath": "[?@>`1`]"}), JSON),
        "JSON, objects": Sort(
            lambda: _document(b'{"a":1},', b"{}]"), _rule({"jmespath": "[*].a"}), JSON
        ),
        "a feed of 10 MB": Sort(_feed, {"include": ["feed"]}, "application/rss+xml"),
        "text of 10 MB": Sort(_articles, {"include": ["text"]}),
        "text, 250 deep": Sort(_divided, {"include": ["text"]}),
        "gb18030": Sort(
            _encoded("gb18030"), {**TITLE, "include": ["body"]}, "text/html; charset=gb18030"
        ),
        "iso-2022-jp": Sort(
            _encoded("iso-2022-jp"),
            {**TITLE, "include": ["body"]},
            "text/html; charset=iso-2022-jp",
        ),
        "utf-16": Sort(
            _encoded("utf-16-le"), {**TITLE, "include": ["body"]}, "text/html; charset=utf-16le"
        ),
        "a body of 10 MB": Sort(_full(b"<p>x</p>"), {"include": ["body"]}),
        "a body, binary": Sort(lambda: bytes(MOST), {"include": ["body"]}, "image/png"),
    }


def _encoded(encoding: str) -> Callable[[], bytes]:
    def made() -> bytes:
        once = f"<p>{_PROSE}<a href='/x'>語</a></p>".encode(encoding)
        return once * (7_000_000 // len(once))

    return made


def _for_the_loop() -> dict[str, Sort]:
    """What never sees a helper: rules that are dear to compile, and pages just cheap enough."""

    def each(rule: Callable[[str], object], count: int = 480) -> Callable[[int], dict[str, Any]]:
        return lambda n: {f"r{k}": rule(f"x{n}y{k}") for k in range(count)}

    page = b"<h1>x</h1>"
    return {
        "dear regexes": Sort(
            lambda: page,
            {},
            rules=each(lambda x: {"selector": "a", "regex": x + r"\pL" * 30}, 100),
        ),
        "dear expressions": Sort(
            lambda: b"{}", {}, JSON, rules=each(lambda x: {"jmespath": "[]" * 240 + f".{x}"})
        ),
        "dear selectors": Sort(lambda: page, {}, rules=each(lambda x: ",".join(["a"] * 230 + [x]))),
        "20 nested links at once": Sort(
            lambda: b"<a href=1><object>x" * 630,
            {**TITLE, "include": ["links"]},
            count=20,
            together=True,
        ),
        "200 light pages at once": Sort(
            lambda: b"<p>Some <i>text</i> and <a href=/x>a link</a></p>\n" * 600,
            {**TITLE, "include": ["links"]},
            count=200,
            together=True,
        ),
    }


def _small() -> dict[str, Sort]:
    """Pages of up to 32 KiB, each dear in a way of its own: what must not be done on the loop."""
    return {
        "classes of 480": Sort(
            lambda: b"<p class='" + b"z " * 15_000 + b"a'>",
            {"extract": {f"r{n}": ".a" * 480 for n in range(50)}},
        ),
        "a needle in a value": Sort(
            lambda: b"<p z='" + b"a" * 30_000 + b"'>",
            {"extract": {f"r{n}": f"[z*='{'a' * 900}b' i]" for n in range(50)}},
        ),
        "names that no page has": Sort(
            lambda: b"<p>" * 8_000,
            {"extract": {f"r{n}": ",".join(f"[zzz{k}]" for k in range(100)) for n in range(60)}},
        ),
        "one long name": Sort(lambda: b"<b>" * 900, _rule(f"{'z' * 900} b")),
        "each of its type": Sort(lambda: b"<p>" * 8_000, _rule("p" + ":not(:last-of-type)" * 50)),
        "roots behind comments": Sort(lambda: b"<!>" * 8_000, _rule(",".join(["x :root"] * 80))),
        "each 400 times": Sort(lambda: b"<p>" * 8_000, _rule(_many(",".join(["*"] * 400)))),
        "a link of 3,000 attributes": Sort(
            lambda: b"<p><a " + b" ".join(b"%x" % n for n in range(3_000)) + b">" + b"<p>x" * 4_000,
            TITLE,
        ),
        "a link of a long value": Sort(
            lambda: b"<p><a z='" + b"y" * 15_000 + b"'>" + b"<p>x" * 4_000, TITLE
        ),
        "a page of 6,500 attributes": Sort(
            lambda: b"<p " + b" ".join(b"%x" % n for n in range(6_500)) + b">", TITLE
        ),
        "bytes that are no gb18030": Sort(
            lambda: b"<p>" + bytes(range(129, 255)) * 250, TITLE, "text/html; charset=gb18030"
        ),
    }


def _bounded() -> dict[str, Sort]:
    """Pages of up to 512 KiB that take what the loop may give to one, or come near to it."""
    return {
        "formatting up to its bound": Sort(
            lambda: b"<p>" + b"<b><i><u><s><tt><em>" * 3 + b"<p>x" * 100_000, TITLE, count=20
        ),
        "100,000 tags": Sort(lambda: b"<p>" * 99_000, TITLE, count=20),
        "depth up to its bound": Sort(
            lambda: (b"<div>" * 500 + b"</div>" * 500) * 90, TITLE, count=20
        ),
        "names all different": Sort(
            lambda: b"".join(b"<p %x>" % n for n in range(40_000)), TITLE, count=20
        ),
        "comments before 300 rules": Sort(
            lambda: b"<!>" * 90_000,
            {"extract": {f"r{n}": _many(f"div.x{n}") for n in range(300)}},
            count=20,
        ),
        "20 large pages of links at once": Sort(
            lambda: b"<p>Some <i>text</i> and <a href=/x>a link</a></p>\n" * 10_000,
            {**TITLE, "include": ["links"]},
            count=20,
            together=True,
        ),
    }


SORTS: Final = _trees() | _documents() | _for_the_loop() | _small() | _bounded()


class _Site:
    """Serves each sort at its number, and holds back what is to come together."""

    def __init__(self, folder: Path | None) -> None:
        self._made: Callable[[str], bytes] = cache(lambda name: SORTS[name].page())
        self._held: dict[str, list[asyncio.Future[None]]] = {}
        self._folder = folder

    async def meet(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Answer one connection's requests."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while not writer.is_closing():
                request = await reader.readuntil(b"\r\n\r\n")
                body, media = await self._answer(request.split(b" ")[1].decode())
                head = f"HTTP/1.1 200 OK\r\nContent-Type: {media}\r\nContent-Length: {len(body)}"
                writer.write(head.encode() + b"\r\n\r\n")
                writer.write(body)
                await writer.drain()
        writer.transport.abort()

    async def _answer(self, path: str) -> tuple[bytes, str]:
        if path == "/robots.txt":
            return b"", "text/plain"
        if path.startswith("/held/"):
            _, _, count, name = path.split("/", 3)
            await self._together("held", int(count))
            assert self._folder is not None
            return (self._folder / name).read_bytes(), HTML
        name = list(SORTS)[int(path[1:])]
        sort = SORTS[name]
        if sort.together:
            await self._together(name, sort.count)
        return self._made(name), sort.media

    async def _together(self, name: str, count: int) -> None:
        """Wait until `count` are asked for, and those of `held` for a file that says go."""
        line = self._held.setdefault(name, [])
        mine = asyncio.get_running_loop().create_future()
        line.append(mine)
        if len(line) == count:
            if name == "held":
                await self._word(count)
            for one in line:
                if not one.done():
                    one.set_result(None)
            line.clear()
        await mine

    async def _word(self, count: int) -> None:
        print(f"held {count}", flush=True)
        assert self._folder is not None
        go = Path(f"{self._folder}.go")
        while not go.exists():  # noqa: ASYNC110, ASYNC240 - another process writes it
            await asyncio.sleep(0.02)


async def serve(port: int, folder: Path | None) -> None:
    """Listen until the process is ended."""
    site = _Site(folder)
    server = await asyncio.start_server(site.meet, HOSTS, port, backlog=4096)
    print("ready", flush=True)
    await server.serve_forever()


def jobs(name: str, port: int) -> Iterator[dict[str, Any]]:
    """The jobs of a sort, each of another host; tried once."""
    sort, number = SORTS[name], list(SORTS).index(name)
    for n in range(sort.count):
        url = f"http://{HOSTS[n]}:{port}/{number}"
        yield {"id": f"{name}/{n}", "url": url, "max_retries": 0, "include": [], **sort.asked(n)}


if __name__ == "__main__":
    os.nice(NICE)
    uvloop.run(serve(int(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None))
