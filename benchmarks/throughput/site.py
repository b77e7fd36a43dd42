"""The pages of each workload, and where they are served.

May touch: the stage's folders and servers, .cache/bench/ for the pages that it makes.
Must never: serve a page whose file it does not name: results are checked against the files.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import trustme
import uvloop

from benchmarks.stage import CHECKOUT, PageFile, Stage
from tests.rig import ports, process
from tests.rig.debs import CACHE
from tests.rig.sites.nginx import Nginx
from tests.rig.sites.pages import java_docs, postgres_docs, python_docs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import ExitStack

SEED: Final = 20  # of the order of the pages: the same in each run
LARGE: Final = 10_000_000  # bytes of a large page; fetch.download_maxsize is 10,485,760
LARGE_EVERY: Final = 200  # pages of the mixed workload, one of them is large
DELAY: Final = 1.0  # seconds until the slow site answers
SITES: Final = 50  # with TLS, each at an address of its own
_MADE: Final = CACHE / "bench/pages"


@dataclass(frozen=True, slots=True)
class Ground:
    """Where a workload's servers run: the stage, and what ends with it."""

    stage: Stage
    stack: ExitStack

    @property
    def authority(self) -> Path:
        """The file of the authority that signs the TLS sites, if there are any."""
        return self.stage.folder / "authority.pem"

    def folder(self, *names: str) -> list[PageFile]:
        """The pages of these folders of the stage's web server, in a random order."""
        pages = [page for page in self.stage.pages if page.url.split("/")[3] in names]
        random.Random(SEED).shuffle(pages)
        return pages


def folders() -> dict[str, Path]:
    """Return the folders that the stage serves, by name."""
    manuals = {"java": java_docs(), "python": python_docs(), "postgres": postgres_docs()}
    return {**manuals, "tiny": _tiny(), "large": _large()}


def corpus(ground: Ground) -> list[PageFile]:
    """Return the real pages: all of three manuals."""
    return ground.folder("java", "python", "postgres")


def tiny(ground: Ground) -> list[PageFile]:
    """Return pages of 300 bytes."""
    return ground.folder("tiny")


def mixed(ground: Ground) -> list[PageFile]:
    """Return the real pages, each two-hundredth of them replaced by one of 10 MB."""
    large = ground.folder("large")
    return [
        large[index // LARGE_EVERY % len(large)] if index % LARGE_EVERY == 0 else page
        for index, page in enumerate(corpus(ground))
    ]


def tls(ground: Ground) -> list[PageFile]:
    """Return the real pages, spread over sites that speak TLS."""
    hosts = [f"127.0.1.{number}" for number in range(1, SITES + 1)]
    authority = trustme.CA()
    authority.cert_pem.write_to_path(ground.authority)
    pem = ground.stage.folder / "site.pem"
    authority.issue_cert(*hosts).private_key_and_cert_chain_pem.write_to_path(pem)
    port = ports.free_port()
    listen = "".join(f"listen {host}:{port} ssl backlog=512;\n" for host in hosts)
    extra = f"{listen} ssl_certificate {pem}; ssl_certificate_key {pem};"
    root = ground.stage.folder / "site"
    ground.stack.enter_context(Nginx(root, ground.stage.folder / "nginx-tls", extra=extra))
    return [
        PageFile(f"https://{hosts[index % SITES]}:{port}/{page.url.split('/', 3)[3]}", page.file)
        for index, page in enumerate(corpus(ground))
    ]


def slow(ground: Ground) -> list[PageFile]:
    """Return a page of 11 kB at a site that answers after a second."""
    port = ports.free_port()
    file = _once("slow.html", lambda path: path.write_text(_page(11_000)))
    child = process.spawn(
        [sys.executable, "-m", "benchmarks.throughput.site", str(port), file], cwd=CHECKOUT
    )
    ground.stack.callback(process.end, child, 5)
    deadline = time.monotonic() + 20
    while not ports.answers(port):
        if child.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("the slow site did not start")
        time.sleep(0.05)
    return [PageFile(f"http://{ports.HOST}:{port}/{number}.html", file) for number in range(1000)]


def sizes(pages: list[PageFile]) -> str:
    """Return the distribution of the pages' sizes in kB, in words."""
    found = sorted(page.file.stat().st_size for page in pages)
    shares = (0, 10, 25, 50, 75, 90, 99, 100)
    values = [found[min(len(found) - 1, len(found) * share // 100)] / 1000 for share in shares]
    named = ", ".join(
        f"{share}%: {value:,.1f}" for share, value in zip(shares, values, strict=True)
    )
    return f"{len(found):,} pages of {sum(found) / len(found) / 1000:,.1f} kB on average ({named})"


def _tiny() -> Path:
    def make(folder: Path) -> None:
        folder.mkdir()
        for number in range(1000):
            (folder / f"{number}.html").write_text(_page(300))

    return _once("tiny", make)


def _large() -> Path:
    def make(folder: Path) -> None:
        folder.mkdir()
        (folder / "large.html").write_text(_page(LARGE))

    return _once("large", make)


def _once(name: str, make: Callable[[Path], object]) -> Path:
    """Return a file or folder of .cache/bench/pages/, made if it is not there yet."""
    path = _MADE / name
    if not path.exists():
        _MADE.mkdir(parents=True, exist_ok=True)
        half = _MADE / f".{name}"
        make(half)
        half.rename(path)
    return path


def _page(size: int) -> str:
    """Return a page of about `size` bytes with a link in each paragraph."""
    return "".join(_parts(size))


def _parts(size: int) -> Iterator[str]:
    head = "<!DOCTYPE html><html><head><title>A page</title></head><body>\n"
    words = "what is written here is of no use to anybody but a parser "
    yield head
    done, number = len(head), 0
    while done < size - 40:
        text = words * min(6, (size - done) // len(words))
        part = f'<p>{text}<a href="chapter/{number % 40}.html#part-{number}">more</a></p>\n'
        yield part
        done, number = done + len(part), number + 1
    yield "</body></html>\n"


class _Slow(asyncio.Protocol):
    """Answers each request after DELAY, and keeps the connection open; it has no robots.txt."""

    answer = b""
    _transport: asyncio.Transport
    _half = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; that of uvloop is of a class of its own."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer each request that is complete: all are GET."""
        *requests, self._half = (self._half + data).split(b"\r\n\r\n")
        for request in requests:
            if request.startswith(b"GET /robots.txt "):
                self._transport.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            else:
                asyncio.get_running_loop().call_later(DELAY, self._send)

    def _send(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(self.answer)


async def _serve(port: int, page: bytes) -> None:
    """Serve the slow site until the process is ended."""
    head = "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n"
    _Slow.answer = f"{head}Content-Length: {len(page)}\r\n\r\n".encode() + page
    server = await asyncio.get_running_loop().create_server(_Slow, ports.HOST, port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), Path(sys.argv[2]).read_bytes()))
