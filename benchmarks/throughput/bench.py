"""One round of one worker: its rate, its processor time and memory, and what a job waits.

May touch: the stage's queues, the processes it starts, files in the stage's folder.
Must never: measure a start, or a time in which a worker had nothing to do.
"""

from __future__ import annotations

import itertools
import json
import random
import re
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Final

import pika
from selectolax.lexbor import LexborHTMLParser

from benchmarks.stage import PREFIX, PageFile, Stage
from benchmarks.throughput.contenders import Run
from benchmarks.throughput.instruments import Cpu, Workers, scraped, viewed
from tests.rig import process
from tests.rig.ports import free_port

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.throughput.contenders import Contender
    from benchmarks.throughput.workloads import Workload

WARM: Final = 0.08  # of a round's pages are left out: connections are made, code is warmed up
START: Final = 60.0  # seconds until a worker is ready
LONGEST: Final = 120.0  # seconds of a round; a slower worker is measured by what it has done
GRACE: Final = 40.0  # seconds that a worker has to end
LATENCY: Final = 10.0  # seconds in which jobs are published for their latency
FEWEST: Final = 200  # jobs in that time
MOST: Final = 5_000
PATIENCE: Final = 20.0  # seconds until a job is missing
CHECKED: Final = 100  # results of a round that are compared with their pages
_LOOK: Final = 0.05  # seconds between two looks
_FAILED: Final = f"{PREFIX}.bench.failed"
_NUMBER: Final = re.compile(rb"[?]job=(\d+)")


class RoundError(RuntimeError):
    """A worker did not do its work; the message says what is known."""


@dataclass(frozen=True, slots=True)
class Figures:
    """One round of one worker: pages a second, CPU of them, MiB at the peak, seconds of latency.

    `latency` is the 99th percentile, or None of a worker without a queue. `failed` are results
    that say so, `different` those that don't hold the title and the number of links of the page,
    `missing` the jobs without a result in the part that measures latency.
    """

    rate: float
    cpu: Cpu
    peak: float
    latency: float | None
    failed: int
    different: int
    missing: int


@dataclass(frozen=True, slots=True)
class _Sample:
    when: float
    done: int
    cpu: Cpu


@dataclass(frozen=True, slots=True)
class Bench:
    """A workload on a stage: measures one contender at a time."""

    stage: Stage
    workload: Workload
    pages: list[PageFile]
    count: int  # pages of a round
    authority: Path | None

    def prepare(self) -> None:
        """Count failed results: they are routed to a queue of ours as well."""
        channel = self.stage.channel
        channel.queue_declare(_FAILED, durable=True)
        channel.queue_bind(_FAILED, self.stage.results, "failed.#")

    def run(self, index: int, folder: Path) -> Run:
        """What process number `index` of a worker is given; its files are in `folder`."""
        urls, feed = folder / f"urls-{index}", folder / f"feed-{index}.jsonl"
        url, port = self.stage.node.url, free_port()
        return Run(self.workload, url, PREFIX, urls, feed, self.authority, port)

    def measure(self, contender: Contender) -> Figures:
        """One round. Raises RoundError if the worker fails."""
        with ExitStack() as stack:
            folder = self.stage.folder / "work"
            folder.mkdir(exist_ok=True)
            runs = [self.run(index, folder) for index in range(self.workload.processes)]
            self._fill(contender, runs)
            logs = [folder / f"log-{index}" for index in range(len(runs))]
            watched = [
                stack.enter_context(viewed(run.broker_url, PREFIX))
                for run in runs[:1]
                if contender.watched
            ]
            children = [
                stack.enter_context(_child(contender, run, log))
                for run, log in zip(runs, logs, strict=True)
            ]
            for child, log in zip(children, logs, strict=True):
                _until_ready(contender, child, log)
            ports = [run.metrics for run in runs if contender.metrics]
            faults = [stack.enter_context(scraped(port)) for port in ports]
            try:
                figures = self._figures(contender, runs, children)
                _check_metrics(faults)
                _check_looks(watched)
            except RoundError as error:
                raise RoundError(f"{error}\n{_tail(logs)}") from None
        return figures

    def _figures(
        self, contender: Contender, runs: list[Run], children: list[subprocess.Popen[bytes]]
    ) -> Figures:
        """Measure a worker that is ready."""
        workers = Workers([child.pid for child in children])
        done = _lines(runs) if contender.lists else None
        first, last = self._window(workers, children, done)
        pages = last.done - first.done
        rate, peak = pages / (last.when - first.when), workers.peak()
        spent = last.cpu - first.cpu
        results = _items(runs) if contender.lists else self._results()
        different = sum(not self._is_right(result) for result in results)
        failed = self.stage.depth(_FAILED)
        late = None if contender.lists else self._latency(contender, rate)
        cpu = Cpu(spent.user / pages, spent.system / pages)
        latency, missing = late or (None, 0)
        return Figures(rate, cpu, peak, latency, failed, different, missing)

    def _fill(self, contender: Contender, runs: list[Run]) -> None:
        """Put the jobs where the worker finds them: they wait before it starts."""
        self._purge()
        count = max(self.count, self.workload.queued)
        urls = itertools.islice(self._urls(), count)
        if not contender.lists:
            self._publish(contender, urls, count)
            return
        files = [run.urls.open("w") for run in runs]
        for run in runs:
            run.feed.unlink(missing_ok=True)
        for file, url in zip(itertools.cycle(files), urls):
            file.write(f"{url}\n")
        for file in files:
            file.close()

    def _urls(self) -> Iterator[str]:
        """Endless: the pages in turn, each time with another number."""
        for number, page in enumerate(itertools.cycle(self.pages)):
            yield f"{page.url}?job={number}"

    def _publish(self, contender: Contender, urls: Iterator[str], count: int) -> None:
        for url in urls:
            self._send(contender, url)
        deadline = time.monotonic() + 60
        while (depth := self.stage.depth(self.stage.jobs)) < count:
            if time.monotonic() > deadline:
                raise RoundError(f"{depth} of {count} jobs in the queue")
            time.sleep(_LOOK)

    def _send(self, contender: Contender, url: str) -> None:
        body, headers = contender.message(url, self.workload)
        properties = pika.BasicProperties(
            delivery_mode=2,
            content_type="application/json",
            content_encoding="utf-8",
            headers=headers or None,
        )
        self.stage.channel.basic_publish("", self.stage.jobs, body, properties)

    def _purge(self) -> None:
        self.stage.purge()
        self.stage.channel.queue_purge(_FAILED)

    def _window(
        self, workers: Workers, children: list[subprocess.Popen[bytes]], feed: Iterator[int] | None
    ) -> tuple[_Sample, _Sample]:
        """The first sample after the warm-up and the last one in which there still was work."""
        deadline = time.monotonic() + LONGEST
        flight = self.workload.concurrency * self.workload.processes
        warm = max(self.count * WARM, min(flight, self.count / 2))
        enough = min(self.count, max(self.count, self.workload.queued) - flight)
        first: _Sample | None = None
        last: _Sample | None = None
        for look in itertools.count():
            done = next(feed) if feed else self.stage.depth(self.stage.results)
            sample = _Sample(time.monotonic(), done, workers.cpu())
            if done >= enough:
                break
            if first is None and done >= warm:
                first = sample
            last = sample
            if any(child.poll() is not None for child in children):
                raise RoundError(f"it ended after {done} of {self.count} results")
            if sample.when > deadline:
                break
            if look % 5 == 0:
                workers.look()
            time.sleep(_LOOK)
        if first is None or last is None or last.done <= first.done:
            raise RoundError(f"{done} of {self.count} results: too few or too many to measure")
        return first, last

    def _results(self) -> Iterator[dict[str, Any]]:
        """The first results of the queue."""
        for _ in range(CHECKED):
            _, _, body = self.stage.channel.basic_get(self.stage.results, auto_ack=True)
            if body is None:
                return
            yield json.loads(body)

    def _is_right(self, result: dict[str, Any]) -> bool:
        """Whether it has the page's title, all links, and the page if it was asked for."""
        found = result.get("data", result)
        number = int(_NUMBER.findall(result["url"].encode())[0])
        page = self.pages[number % len(self.pages)].file.read_text(errors="replace")
        tree = LexborHTMLParser(page)
        title = tree.css_first("title")
        wanted = " ".join(title.text().split()) if title is not None else ""
        return (
            " ".join((found.get("title") or "").split()) == wanted
            and len(found.get("links", ())) == len(tree.css("a[href]"))
            and (not self.workload.body or len(result["body"]) == len(page))
        )

    def _latency(self, contender: Contender, rate: float) -> tuple[float, int]:
        """The 99th percentile from publish to result at half the rate, and how many are missing.

        The gaps between jobs are random (Poisson), and the same in each run.
        """
        self._until_idle()
        chooser = random.Random(round(rate))
        count = int(min(MOST, max(FEWEST, rate / 2 * LATENCY)))
        urls = itertools.islice(self._urls(), count)
        sent: list[float] = []
        back: dict[int, float] = {}
        channel, connection = self.stage.channel, self.stage.channel.connection

        def arrived(*delivery: Any) -> None:
            number = int(_NUMBER.findall(delivery[3])[0])
            back.setdefault(number, time.monotonic())

        tag = channel.basic_consume(self.stage.results, arrived, auto_ack=True)
        due = time.monotonic()
        for url in urls:
            while (left := due - time.monotonic()) > 0:
                connection.process_data_events(time_limit=left)
            sent.append(time.monotonic())
            self._send(contender, url)
            due += chooser.expovariate(rate / 2)
        deadline = time.monotonic() + PATIENCE
        while len(back) < count and time.monotonic() < deadline:
            connection.process_data_events(time_limit=_LOOK)
        channel.basic_cancel(tag)
        now = time.monotonic()
        times = sorted(back.get(number, now) - when for number, when in enumerate(sent))
        return times[len(times) * 99 // 100], count - len(back)

    def _until_idle(self) -> None:
        """Take away the jobs that are left and wait until the worker holds none."""
        deadline = time.monotonic() + LONGEST
        self.stage.channel.queue_purge(self.stage.jobs)
        while (counts := self.stage.node.counts()[self.stage.jobs])[:2] != (0, 0):
            if time.monotonic() > deadline:
                raise RoundError(f"{counts[1]} jobs are held and not done")
            time.sleep(_LOOK)
        self._purge()


@contextmanager
def _child(contender: Contender, run: Run, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the worker, its output in a file; ended by SIGTERM."""
    argv, env = contender.command(run)
    with log.open("wb") as output:
        child = process.spawn(argv, env=env, cwd=log.parent, stdout=output)
    try:
        yield child
    finally:
        process.end(child, GRACE)


def _until_ready(contender: Contender, child: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START
    while contender.ready not in log.read_text(errors="replace"):
        if child.poll() is not None or time.monotonic() > deadline:
            raise RoundError(f"not ready:\n{_tail([log])}")
        time.sleep(_LOOK)


def _check_looks(watched: list[list[int]]) -> None:
    """Raise RoundError for a dashboard that has seen no process."""
    if not all(map(sum, watched)):
        raise RoundError("the dashboard has seen no process")


def _check_metrics(faults: list[list[OSError]]) -> None:
    if any(faults):
        raise RoundError(f"its metrics could not be read: {faults}")


def _lines(runs: list[Run]) -> Iterator[int]:
    """Yield without end how many lines the feeds of these runs have by now."""
    with ExitStack() as stack:
        files: dict[Path, IO[bytes]] = {}
        count = 0
        while True:
            for feed in [run.feed for run in runs if run.feed not in files and run.feed.exists()]:
                files[feed] = stack.enter_context(feed.open("rb"))
            for file in files.values():
                while block := file.read(1 << 20):
                    count += block.count(b"\n")
            yield count


def _items(runs: list[Run]) -> Iterator[dict[str, Any]]:
    """The first items of the first feed."""
    with runs[0].feed.open("rb") as lines:
        for line in itertools.islice(lines, CHECKED):
            if line.endswith(b"\n"):
                yield json.loads(line)


def _tail(logs: list[Path]) -> str:
    return "\n".join(log.read_text(errors="replace")[-1500:] for log in logs)
