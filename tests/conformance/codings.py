"""The test data of brotli, sent by a real server and fetched as a page is.

May touch: tests/data/conformance/brotli, the site of the rig and sockets on loopback.
Must never: leave a case out without a reason that is counted.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

from yarl import URL

from scraperd.contract import Failure
from scraperd.fetch.message import Request
from scraperd.wiring import fetcher_of
from tests.conformance.urls import Corpus
from tests.rig.page import loopback
from tests.rig.sites.site import Site, Visit, chunk, head

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from scraperd.fetch.client import Fetcher

FOLDER: Final = Path(__file__).parents[1] / "data" / "conformance"
PARTS: Final = 200  # sends of one body at most: long ones are not sent byte by byte
SLICES: Final = (1, 7, 1000, 10**9)  # bytes that are sent at once
MAX_BODY: Final = 1 << 20


def corpora() -> list[Corpus]:
    """Run all of them."""
    return [asyncio.run(_run("google/brotli testdata, bodies", "br", "brotli"))]


async def _run(name: str, coding: str, folder: str) -> Corpus:
    """Fetch each file in slices of each size, once by its length and once in chunks."""
    corpus = Corpus(name)
    wanted: dict[str, object] = {
        file: tuple(original)
        for file, original in json.loads((FOLDER / folder / "originals.json").read_text()).items()
    }
    async with Site() as site, fetcher_of(loopback()) as fetcher:
        for file, original in wanted.items():
            data = (FOLDER / folder / file).read_bytes()
            for size in SLICES:
                if len(data) / size > PARTS and size < max(SLICES):
                    continue
                for chunked in (False, True):
                    url = site.at("/", _sender(coding, data, size, chunked=chunked))
                    what = f"{file} by {size} bytes{', in chunks' * chunked}"
                    corpus.judge(what, await _fetched(fetcher, url), original)
    return corpus


def _sender(
    coding: str, data: bytes, size: int, *, chunked: bool
) -> Callable[[Visit], Awaitable[None]]:
    """Send `data` in slices; the loop takes a turn after each, so that it is read alone."""
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(data)}"

    async def send(visit: Visit) -> None:
        await visit.send(head(f"Content-Encoding: {coding}", length))
        for at in range(0, len(data), size):
            part = data[at : at + size]
            await visit.send(chunk(part) if chunked else part)
            await asyncio.sleep(0)
        if chunked:
            await visit.send(chunk(b""))

    return send


async def _fetched(fetcher: Fetcher, url: str) -> object:
    """The body's size and SHA-256 as an original is told; or the failure's kind, or the cut's."""
    request = Request("GET", URL(url), {}, None, 10.0, MAX_BODY)
    answer = await fetcher.fetch(request)
    if isinstance(answer, Failure):
        return answer.kind
    if (trouble := answer.trouble or answer.cut) is not None:
        return trouble.kind if answer.trouble else f"cut: {trouble.kind}"
    return len(answer.body), hashlib.sha256(answer.body).hexdigest()
