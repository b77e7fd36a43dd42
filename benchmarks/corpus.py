"""Every page of two real manuals through the real daemon, each result checked against html5lib.

May touch: the stage's private servers, the daemon it starts.
Must never: use the daemon's own parser to check it, or pass over a difference in silence.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.stage import CHECKOUT, PageFile, Stage
from tests.oracles.truth import Truth, read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

RULES: Final = {
    "title": "title",
    "h1": {"selector": "h1", "type": "list"},
    "links": {"selector": "a", "output": "@href", "type": "list"},
}
INCLUDE: Final = ["links", "metadata"]
TIMEOUT: Final = 300.0  # seconds for all results
SHOWN: Final = 10


def _same_words(ours: Any, theirs: Any) -> bool:
    """The same but for the kind of white space between words, in a text or in a link's text."""
    if isinstance(ours, tuple) and isinstance(theirs, tuple):
        return (ours[0], ours[2]) == (theirs[0], theirs[2]) and _same_words(ours[1], theirs[1])
    return isinstance(ours, str) and isinstance(theirs, str) and ours == " ".join(theirs.split())


# A difference that is known: why it is no mistake -> is it this one?
KNOWN: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "white space: U+00A0 and its like come back as a space (the HTML standard collapses ASCII"
    " white space only)": _same_words,
}


@dataclass(slots=True)
class Run:
    """What came back, and what the instruments said."""

    results: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    count: int = 0
    seconds: float = 0.0
    cpu: float = 0.0
    peak_rss: float = 0.0
    queued: int = 0


def main() -> None:
    """Read the command line, run, check, print; exit 1 if anything is not as it must be."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.corpus", description=__doc__)
    parser.add_argument("--repeat", type=int, default=3, help="jobs a page (default: 3)")
    parser.add_argument("--tree", type=Path, default=CHECKOUT, help="another checkout's daemon")
    options = parser.parse_args()
    with Stage() as stage:
        urls = {f"{n}-{i}": p for i in range(options.repeat) for n, p in enumerate(stage.pages)}
        run = scrape(stage, urls, options.tree.resolve())
        print_figures(run, len(stage.pages))
        pages = {page.url: page for page in stage.pages}
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            read_pages = pool.map(_truth, pages.values(), chunksize=8)
            truths = dict(zip(pages, read_pages, strict=True))
        problems, known = check(urls, run, truths)
    for name, count in known.items():
        print(f"{count:8,} known differences, {name}")
    print(f"{len(problems):8,} mismatches")
    for problem in problems[:SHOWN]:
        print(f"         {problem}")
    sys.exit(1 if problems else 0)


def _truth(page: PageFile) -> Truth:
    return read(page.file.read_bytes(), page.url)


def scrape(stage: Stage, urls: dict[str, PageFile], tree: Path) -> Run:
    """Publish a job for each id, let the daemon run, and collect every result."""
    stage.publish(
        {"id": ident, "url": page.url, "extract": RULES, "include": INCLUDE}
        for ident, page in urls.items()
    )
    run = Run()
    with stage.daemon(tree) as child:
        started = cpu = 0.0
        for body in consume(stage, len(urls)):
            if not run.count:
                started, cpu = time.monotonic(), child.cpu()
            run.count += 1
            result = json.loads(body)
            run.results.setdefault(result["id"], []).append(result)
        run.seconds, run.cpu = time.monotonic() - started, child.cpu() - cpu
        run.peak_rss = child.peak_rss()
        time.sleep(1.0)  # a result too many would come now
        run.queued = stage.depth(stage.jobs) + stage.depth(stage.results)
    return run


def consume(stage: Stage, count: int) -> Iterator[bytes]:
    """Take `count` results, or those that come within the timeout."""
    deadline = time.monotonic() + TIMEOUT
    stage.channel.basic_qos(prefetch_count=500)
    taken = 0
    for method, _, body in stage.channel.consume(stage.results, inactivity_timeout=1.0):
        if method is not None and body is not None:
            taken += 1
            stage.channel.basic_ack(method.delivery_tag or 0)
            yield body
        if taken == count or time.monotonic() > deadline:
            break
    stage.channel.cancel()


def print_figures(run: Run, pages: int) -> None:
    """What the run cost."""
    count = max(run.count, 1)
    print(f"{run.count:8,} results of {pages:,} pages")
    print(f"{run.count / run.seconds:8,.0f} pages/s, a client reading them on the same machine")
    print(f"{run.cpu / count * 1e6:8,.0f} us of the daemon's CPU a page")
    print(f"{run.peak_rss:8,.0f} MiB of memory at its peak")


def check(
    urls: dict[str, PageFile], run: Run, truths: dict[str, Truth]
) -> tuple[list[str], Counter[str]]:
    """Compare everything; returns the mismatches in words, and the known differences counted."""
    problems = [f"{run.queued} messages left over"] if run.queued else []
    known: Counter[str] = Counter()
    for ident, page in urls.items():
        results = run.results.pop(ident, [])
        if len(results) != 1:
            problems.append(f"{page.url}: {len(results)} results for one job")
        for result in results:
            if result["status"] != "ok":
                problems.append(f"{page.url}: {result['error']}")
                continue
            for where, ours, theirs in differences(result, truths[page.url]):
                names = [name for name, is_it in KNOWN.items() if is_it(ours, theirs)]
                known.update(names[:1])
                if not names:
                    problems.append(f"{page.url} {where}: got {ours!r}, html5lib has {theirs!r}")
    problems += [f"a result nobody asked for: {ident}" for ident in run.results]
    return problems, known


def differences(result: dict[str, Any], truth: Truth) -> Iterator[tuple[str, Any, Any]]:
    """Where a result and the page differ: where, what came, what should have come."""
    data, metadata = result["data"], result["metadata"]
    links = [(link["url"], link["text"], link.get("rel")) for link in result["links"]]
    if data["title"] != truth.title:
        yield "title", data["title"], truth.title
    yield from _each("h1", data["h1"], truth.h1)
    yield from _each("a", data["links"], truth.anchors)
    yield from _each("link", links, truth.links)
    for name in sorted({*metadata, *truth.metadata}):
        if metadata.get(name) != truth.metadata.get(name):
            yield f"metadata.{name}", metadata.get(name), truth.metadata.get(name)


def _each(name: str, ours: list[Any], theirs: list[Any]) -> Iterable[tuple[str, Any, Any]]:
    if len(ours) != len(theirs):
        yield f"number of {name}", len(ours), len(theirs)
        return
    for number, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        if mine != other:
            yield f"{name}[{number}]", mine, other


if __name__ == "__main__":
    main()
