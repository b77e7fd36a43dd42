"""How many instructions a job takes, from its delivery to its ack: the same on a busy machine.

May touch: valgrind in .cache/, child processes, the stored figures.
Must never: use a socket or the clock for a figure: what is counted must not vary with the load.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import uvloop
from multidict import CIMultiDict, CIMultiDictProxy

from benchmarks.throughput.workloads import TITLE_AND_LINKS
from scraperd.base.clocks import SYSTEM
from scraperd.broker.memory import MemoryBroker
from scraperd.broker.ports import Limits, Message
from scraperd.extract.compile import compile_rules
from scraperd.extract.document import ExtractRequest, extract_document
from scraperd.fetch.message import Response
from scraperd.jobs.settle import Settler
from scraperd.jobs.signing import Keys
from scraperd.ops.log import configure
from scraperd.ops.telemetry import Observer
from scraperd.sandbox.extractor import for_the_loop
from scraperd.wiring import extract_limits, scraper_of, worker_of
from tests.rig import process
from tests.rig.debs import debs
from tests.rig.settings import configured

if TYPE_CHECKING:
    from scraperd.config.settings import Config
    from scraperd.fetch.client import Fetcher
    from scraperd.fetch.message import Request
    from scraperd.jobs.record import Record

STORED: Final = Path(__file__).with_suffix(".json")
WORSE: Final = 1.05  # times the stored figure
FEW, MANY = 50, 450  # jobs; the difference leaves out what a process does once
RULES: Final = json.dumps(TITLE_AND_LINKS).encode()
SECTIONS: Final = (2, 6, 12, 20)  # of a page: 1 to 9 kB; valgrind must not pass the limits of time
HEADERS: Final = CIMultiDictProxy(
    CIMultiDict(
        {
            "Server": "nginx/1.22.1",
            "Date": "Fri, 27 Nov 2026 10:00:00 GMT",
            "Content-Type": "text/html; charset=utf-8",
            "Last-Modified": "Tue, 01 Sep 2026 09:30:00 GMT",
            "ETag": '"64f1b2c8-6c2e"',
        }
    )
)


def page(sections: int) -> bytes:
    """A page as a manual has it: headings, paragraphs, links, lists, code."""
    head = (
        "<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'><title>Section</title>"
        "<link rel='stylesheet' href='../_static/basic.css'></head><body><div class='body'>"
    )
    return (head + "".join(map(section, range(sections))) + "</div></body></html>").encode()


def section(n: int) -> str:
    """About 450 characters, with five links."""
    return (
        f"<section id='s{n}'><h2>{n}. Of things<a class='headerlink' href='#s{n}'>¶</a></h2>"
        f"<p>A paragraph with <em>words</em>, a <a class='reference' href='../library/m{n}.html"
        f"#f'>link to <code>m{n}</code></a> and <a href='https://example.com/{n % 7}'>another"
        f"</a> &mdash; and text that goes on for a while, as text of manuals does.</p><ul>"
        f"<li><a href='m{n}.html'>one</a></li><li>two</li></ul><div class='highlight'><pre>"
        f"def f{n}(x):\n    return x &lt; {n}\n</pre></div></section>"
    )


class Canned:
    """A fetcher whose pages are here already: it has no socket."""

    def __init__(self) -> None:
        self._pages = [page(sections) for sections in SECTIONS]

    async def located(self, _request: Request) -> str:
        """Return the address of every host."""
        return "192.0.2.1"

    async def fetch(self, request: Request) -> Response:
        """Return the page that its URL names."""
        number = int(request.url.path.rpartition("/")[2]) % len(self._pages)
        return Response(200, request.url, HEADERS, self._pages[number])


class Counting(Observer):
    """An observer that says when so many jobs have ended."""

    def expect(self, count: int) -> None:
        """Begin to count."""
        self._left = count
        self.all_done = asyncio.get_running_loop().create_future()

    def record(self, record: Record) -> None:
        """Count one, and write its line."""
        super().record(record)
        self._left -= 1
        if not self._left:
            self.all_done.set_result(None)


def _warm_up(config: Config) -> None:
    """Compile the rules and search each page once, before the clock runs.

    Under valgrind the first time takes so long that helpers would have to do it.
    """
    limits = extract_limits(config)
    rules = compile_rules(RULES, limits.bounds)
    for sections in SECTIONS:
        asked = ExtractRequest(
            "http://h.example/", "text/html", False, False, False, False, False, False, RULES
        )
        extract_document(asked, page(sections), rules, for_the_loop(limits))


async def run(count: int) -> None:
    """Take so many jobs, one after the other, from a queue in memory to its results."""
    config = configured(politeness__robotstxt_obey=False, log__format="json")
    log = configure(config.log)
    _warm_up(config)
    broker = MemoryBroker(prefetch=1)
    async with scraper_of(config, cast("Fetcher", Canned()), SYSTEM) as scraper:
        keys = Keys([b"k"], "bench", SYSTEM.wall)
        settler = Settler(broker, Limits(2**24, 1800), keys, SYSTEM)
        observer = Counting(lines=log)
        observer.expect(count)
        worker = worker_of(config, scraper, settler, observer, "w", SYSTEM)
        running = asyncio.create_task(worker.run())
        await asyncio.sleep(0)
        for n in range(count):
            job = f'{{"url": "http://h{n % 5}.example/{n}", "id": "job-{n}", "extract": '
            broker.put(Message(job.encode() + RULES + b"}"), f"m{n}")
        with log.sink.turns(observer.lost_lines):
            broker.begin(worker.accept, worker.abandon)
            await observer.all_done
            helpers = process.helpers(os.getpid())
            broker.stop()
            await worker.drain(1)
            await running
    assert observer.tally.done == count, observer.tally
    assert not observer.tally.failed, broker.results[-1]
    assert not helpers, "pages were searched by helpers, which are not counted"


def valgrind() -> tuple[str, dict[str, str]]:
    """Return the program that counts, and what its environment needs: the machine's own or ours."""
    if found := shutil.which("valgrind"):
        return found, {}
    root = debs("valgrind")
    return str(root / "usr/bin/valgrind"), {"VALGRIND_LIB": str(root / "usr/libexec/valgrind")}


def counted(count: int) -> int:
    """Return the instructions of a process that takes so many jobs."""
    program, own = valgrind()
    argv = [
        program,
        "--tool=cachegrind",
        "--cache-sim=no",
        "--cachegrind-out-file=/dev/null",
        *(sys.executable, "-m", "benchmarks.instructions", "--jobs", str(count)),
    ]
    env = {**os.environ, "PYTHONHASHSEED": "0", **own}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"valgrind ended with {done.returncode}:\n{done.stderr[-2000:]}")
    found = re.search(r"I\s+refs:\s+([0-9,]+)", done.stderr)
    assert found, done.stderr
    return int(found[1].replace(",", ""))


def name() -> str:
    """What a stored figure is for: other versions take other numbers of instructions."""
    python = ".".join(platform.python_version_tuple()[:2])
    return f"{platform.machine()}, Python {python}, selectolax {version('selectolax')}"


def main() -> None:
    """Count, and compare with the stored figure; exit 1 if it is 5 % more."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description=__doc__)
    parser.add_argument("--store", action="store_true", help="store the figure")
    parser.add_argument("--jobs", type=int, help="take so many jobs, and count nothing")
    options = parser.parse_args()
    if options.jobs:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(options.jobs))
        return
    began = time.monotonic()
    a_job = (counted(MANY) - counted(FEW)) // (MANY - FEW)
    stored: dict[str, int] = json.loads(STORED.read_text()) if STORED.exists() else {}
    known = stored.get(name())
    took = f"{time.monotonic() - began:.0f} s"
    if options.store:
        STORED.write_text(json.dumps({**stored, name(): a_job}, indent=1, sort_keys=True) + "\n")
        print(f"{a_job:,} instructions a job, stored for {name()}; took {took}")
    elif known is None:
        print(f"{a_job:,} instructions a job; none are stored for {name()}; took {took}")
    else:
        print(f"{a_job:,} instructions a job, {a_job / known:.3f} times the {known:,} that are "
              f"stored for {name()}; took {took}")  # fmt: skip
        if a_job > WORSE * known:
            sys.exit(f"more than {WORSE} times: find what takes them, or store the new figure "
                     "with `make check-perf STORE=1`")  # fmt: skip


if __name__ == "__main__":
    main()
