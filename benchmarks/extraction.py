"""Ordinary pages beside the worst ones: their latency, the held loop, and 5,000 jobs' memory.

May touch: the stage's private servers, the processes it starts, the results and /proc.
Must never: take a figure from anywhere but the results, the kernel and the loop's heartbeat.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.hostile import MIB, NEIGHBOURS, Goals
from benchmarks.stage import Child, Stage
from scraperd.config.settings import Config
from scraperd.extract.compile import compile_rules
from scraperd.extract.document import Extracted, ExtractRequest
from scraperd.sandbox.extractor import at_once, for_the_loop
from scraperd.wiring import extract_limits
from tests.rig import ports, process
from tests.rig.sites.extraction_pages import HOSTS, SORTS, jobs
from tests.rig.sites.nginx import Nginx
from tests.rig.watched import holds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.watched import Hold

RATE: Final = 30.0  # ordinary pages a second
QUIET: Final = 20.0  # seconds of them alone
IDLE: Final = 3.0  # seconds of nothing at all
AT_LEAST: Final = 2.0  # seconds beside each sort
PATIENCE: Final = 60.0  # seconds for the jobs of a sort, and for what is still under way
LARGE: Final = 1024**2  # bytes of a result that the dispatcher does not decode at once
HELD: Final = 0.1  # seconds that the loop may be held
WORSE: Final = 3.0  # how many times the quiet 99th percentile the attacked one may be
IN_FLIGHT: Final = 5000
TREE: Final = 25  # times its page
_EVERY: Final = 0.1  # seconds between two looks at the helpers
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_LIST: Final = {"selector": "h1, h2, h3", "type": "list"}
_LINKS: Final = {"selector": "a[href]", "output": "@href", "type": "list"}
SIMPLE: Final[dict[str, Any]] = {"title": "title", "headings": _LIST, "links": _LINKS}
RICH: Final[dict[str, Any]] = {
    **SIMPLE,
    "deep": {"selector": "div.body p a, div.sect1 p a", "type": "list"},
    "lists": {"selector": "ul, dl", "type": "list", "output": {"first": "li, dt", "links": _LINKS}},
}
KINDS: Final = (SIMPLE, RICH)
SETTINGS: Final[dict[str, Any]] = {
    "log__level": "warning",
    "log__format": "json",
    "fetch__allow_networks": ["127.0.0.0/8"],
    "fetch__allow_ports": [],
    "politeness__robotstxt_obey": False,
    "politeness__autothrottle": False,
    "concurrency": 300,
}


@dataclass(slots=True)
class Window:
    """A time in which something was asked for: the ordinary pages' latency, the sort's results.

    `times` are seconds from publish to result, by where the page was searched: `loop` or `helper`;
    `inside` are the daemon's own figures of the same, from delivery to result.
    """

    name: str
    began: float
    ended: float = 0.0
    times: dict[str, list[float]] = field(default_factory=lambda: {"loop": [], "helper": []})
    failed: Counter[str] = field(default_factory=Counter)
    inside: list[float] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)
    large: list[bytes] = field(default_factory=list)  # results that are not decoded yet
    missing: int = 0

    @property
    def all_times(self) -> list[float]:
        """Of both places."""
        return self.times["loop"] + self.times["helper"]


class Kin:
    """The daemon's helpers, as /proc shows them every 0.1 s: how many, and their peaks."""

    def __init__(self, daemon: Child) -> None:
        self._daemon = daemon.popen.pid
        self._looked = 0.0
        self.peaks: dict[int, float] = {}
        self._cpu: dict[int, float] = {}

    def look(self) -> None:
        """Take a sample, if it is time."""
        if time.monotonic() - self._looked < _EVERY:
            return
        self._looked = time.monotonic()
        for pid in process.helpers(self._daemon):
            folder = Path(f"/proc/{pid}")
            with suppress(OSError, IndexError):  # it has ended meanwhile
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                self._cpu[pid] = (int(fields[11]) + int(fields[12])) / _TICKS
                status = (folder / "status").read_text()
                peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
                self.peaks[pid] = max(peak, self.peaks.get(pid, 0.0))

    def cpu(self) -> float:
        """Seconds of processor that they used, those that were seen."""
        return sum(self._cpu.values())


class Traffic:
    """A dispatcher: ordinary jobs at a steady rate, hostile ones when told; all results."""

    def __init__(self, stage: Stage, kin: Kin, web: int, port: int) -> None:
        self._stage = stage
        self._kin = kin
        self._web = web
        self._port = port
        self._sent: dict[str, tuple[Window, float, str]] = {}
        self._hostile: dict[str, Window] = {}
        self._count = 0
        self._next = time.monotonic()
        self._order = list(stage.pages)
        random.Random(1).shuffle(self._order)  # the same each time
        self._where = [
            _where(page.file.read_bytes(), KINDS[n % 2]) for n, page in enumerate(self._order)
        ]
        self._tag = stage.channel.basic_consume(stage.results, self._came, auto_ack=True)

    def window(self, name: str, seconds: float, hostile: list[dict[str, Any]]) -> Window:
        """So many seconds of the stream, or more until the hostile jobs have ended."""
        window = Window(name, time.monotonic())
        for job in hostile:
            self._hostile[job["id"]] = window
            self._publish(job)
        self._next = max(self._next, time.monotonic())
        while (age := time.monotonic() - window.began) < seconds or (
            self._waits(window) and age < PATIENCE
        ):
            if time.monotonic() >= self._next:
                self._ordinary(window)
            self._serve(self._next)
        window.ended = time.monotonic()
        window.results += map(json.loads, window.large)
        window.large = []
        window.missing = self._waits(window)
        return window

    def rest(self) -> int:
        """Wait for what is under way; how many jobs never came back."""
        deadline = time.monotonic() + PATIENCE
        while (self._sent or self._hostile) and time.monotonic() < deadline:
            self._serve(time.monotonic() + _EVERY)
        self._stage.channel.basic_cancel(self._tag)
        return len(self._sent) + len(self._hostile)

    def _waits(self, window: Window) -> int:
        return sum(theirs is window for theirs in self._hostile.values())

    def _serve(self, until: float) -> None:
        left = max(0.0, min(until - time.monotonic(), _EVERY))
        self._stage.channel.connection.process_data_events(left)
        self._kin.look()

    def _ordinary(self, window: Window) -> None:
        page = self._order[self._count % len(self._order)]
        rules = KINDS[self._count % len(self._order) % 2]
        host = NEIGHBOURS[self._count % len(NEIGHBOURS)]
        ident = f"ordinary {self._count}"
        self._next += 1 / RATE
        url = f"http://{host}:{self._web}/{page.url.split('/', 3)[3]}"
        where = self._where[self._count % len(self._order)]
        self._sent[ident] = window, time.monotonic(), where
        self._count += 1
        self._publish({"id": ident, "url": url, "max_retries": 0, "include": [], "extract": rules})

    def _publish(self, job: dict[str, Any]) -> None:
        self._stage.channel.basic_publish("", self._stage.jobs, json.dumps(job).encode())

    def _came(self, _channel: object, _method: object, properties: Any, body: bytes) -> None:
        now = time.monotonic()
        ident = properties.headers["x-scraperd-job-id"]
        if len(body) > LARGE and ident in self._hostile:  # to decode it now would delay others
            self._hostile.pop(ident).large.append(body)
            return
        result = json.loads(body)
        if (sent := self._sent.pop(result["id"], None)) is not None:
            window, began, where = sent
            window.times[where].append(now - began)
            window.inside.append(result["timings"]["total"])
            if result["status"] != "ok":
                window.failed[ending(result)] += 1
        elif (mine := self._hostile.pop(result["id"], None)) is not None:
            mine.results.append(result)


def main() -> None:
    """Run every part; exit 1 if a goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.extraction", description=__doc__)
    parser.add_argument("--only", nargs="+", default=[""], help="only sorts whose name holds one")
    parser.add_argument("--no-memory", action="store_true", help="not the 5,000 jobs in flight")
    parser.add_argument("--helpers", type=int, default=4, help="sandbox.processes")
    options = parser.parse_args()
    SETTINGS["sandbox__processes"] = options.helpers
    goals = Goals()
    started = time.monotonic()
    with Stage() as stage:
        beside(stage, goals, options.only)
        if not options.no_memory:
            in_flight(stage, goals)
    print(f"took {time.monotonic() - started:.0f} s; load average {os.getloadavg()[0]:.1f}")
    if goals.missed:
        sys.exit(f"{len(goals.missed)} goals missed: " + "; ".join(goals.missed))


def beside(stage: Stage, goals: Goals, only: list[str]) -> None:
    """The ordinary stream alone, then beside each sort in turn."""
    web, port = ports.free_port(), ports.free_port()
    listens = "".join(f"listen {host}:{web};" for host in NEIGHBOURS)
    stage.purge()
    file = stage.folder / "holds"
    with (
        Nginx(stage.folder / "site", stage.folder / "neighbours", port=web, extra=listens),
        site(stage, port),
        watched(stage, file, **SETTINGS) as daemon,
    ):
        kin = Kin(daemon)
        idle = time.monotonic()
        time.sleep(IDLE)
        print(f"\nidle: {held(holds(file), idle, time.monotonic())}")
        traffic = Traffic(stage, kin, web, port)
        traffic.window("warm up", 4.0, [])
        cpu, theirs = daemon.cpu(helpers=False), kin.cpu()
        quiet = traffic.window("quiet", QUIET, [])
        each = 1e6 / len(quiet.all_times)
        print(
            f"\n{RATE:g} ordinary pages/s of {len(NEIGHBOURS)} hosts alone, processor time a page: "
            f"daemon {(daemon.cpu(helpers=False) - cpu) * each:,.0f} us, helpers "
            f"{(kin.cpu() - theirs) * each:,.0f} us"
        )
        print(f"  {latencies(quiet)}")
        print(f"  loop: {held(holds(file), quiet.began, quiet.ended)}; {memory(daemon, kin)}")
        windows = []
        for name in [name for name in SORTS if any(part in name for part in only)]:
            windows.append(traffic.window(name, AT_LEAST, list(jobs(name, port))))
            show(windows[-1], holds(file))
        lost = traffic.rest()
        verdict(goals, quiet, windows, holds(file), lost)
        print(f"  {memory(daemon, kin)}")
        traffic_failed = sum((window.failed for window in windows), Counter[str]())
        goals.check(f"every ordinary page is ok {dict(traffic_failed) or ''}",
                    reached=not traffic_failed)  # fmt: skip


def show(window: Window, found: list[Hold]) -> None:
    """A sort: how its jobs ended, and how the neighbours and the loop fared."""
    seconds = window.ended - window.began
    print(f"\n{window.name}: {len(window.results)} jobs in {seconds:.1f} s")
    for end, count in Counter(map(ending, window.results)).items():
        print(f"  {count} x {end}")
    if window.missing:
        print(f"  {window.missing} x not ended after {PATIENCE:g} s")
    times = [f"{where} {spread(times)}" for where, times in window.times.items()]
    print(f"  beside it, searched in the {'; in a '.join(times)}")
    print(f"  by the daemon's own figures {spread(window.inside)}")
    print(f"  loop: {held(found, window.began, window.ended)}", flush=True)


def verdict(
    goals: Goals, quiet: Window, windows: list[Window], found: list[Hold], lost: int
) -> None:
    """All sorts together against the quiet stream."""
    print("\nall sorts")
    for where in ("loop", "helper"):
        mine, beside = quiet.times[where], [t for w in windows for t in w.times[where]]
        ratio = quantile(beside, 99) / quantile(mine, 99)
        print(f"  searched in a {where}: quiet {spread(mine)}\n    attacked {spread(beside)}")
        goals.check(
            f"{where}: the attacked 99th percentile is {ratio:.1f} times the quiet one",
            reached=ratio <= WORSE,
        )
    bad = [w.name for w in windows if longest(found, w.began, w.ended) > HELD]
    goals.check(f"the loop is never held over {HELD:g} s {bad or ''}", reached=not bad)
    goals.check(f"every job comes back ({lost} did not)", reached=not lost)


def in_flight(stage: Stage, goals: Goals) -> None:
    """All bodies at once: the daemon and its helpers in memory, against the bodies' sum."""
    port = ports.free_port()
    file = stage.folder / "holds-in-flight"
    stage.purge()
    limits = {"concurrency": IN_FLIGHT, "politeness__per_host_concurrency": IN_FLIGHT}
    limits |= {"fetch__connect_timeout": 60, "fetch__download_timeout": 110, "jobs__timeout": 600}
    print(f"\n{IN_FLIGHT:,} jobs in flight at once", flush=True)
    with (
        site(stage, port, stage.folder / "site") as log,
        watched(stage, file, **SETTINGS | limits) as daemon,
    ):
        kin = Kin(daemon)
        start = resident(daemon)
        for job in _held_back(stage, port):
            stage.channel.basic_publish("", stage.jobs, json.dumps(job).encode())
        until(lambda: f"held {IN_FLIGHT}".encode() in log.read_bytes(), 90)
        waiting, began = resident(daemon), time.monotonic()
        Path(f"{stage.folder / 'site'}.go").touch()
        ends, size = _released(stage, kin)
        print(
            f"  {dict(ends)} in {time.monotonic() - began:.1f} s; daemon {start:.0f} MiB, "
            f"{waiting:.0f} MiB with all requests sent; bodies {size / MIB:.0f} MiB; "
            f"{memory(daemon, kin)}"
        )
        print(f"  loop: {held(holds(file), began, time.monotonic())}")
        longest_hold = longest(holds(file), began, time.monotonic())
        grown = daemon.peak_rss() - waiting
        helpers = sum(sorted(kin.peaks.values())[-SETTINGS["sandbox__processes"] :])
    goals.check(f"the loop is never held over {HELD:g} s", reached=longest_hold <= HELD)
    goals.check(f"every one of {IN_FLIGHT:,} is ok", reached=ends == {"ok": IN_FLIGHT})
    goals.check(
        f"the daemon grew by {grown:.0f} MiB, {grown * MIB / size:.2f} times the bodies (trees: "
        f"{TREE} times); with its helpers {grown + helpers:.0f} MiB, at most thrice the bodies",
        reached=(grown + helpers) * MIB <= 3 * size,
    )


def _held_back(stage: Stage, port: int) -> Iterator[dict[str, Any]]:
    """The jobs whose pages come when all of them have been asked for."""
    for n, page in enumerate(random.Random(1).choices(stage.pages, k=IN_FLIGHT)):
        path = page.url.split("/", 3)[3]
        url = f"http://{HOSTS[n % len(HOSTS)]}:{port}/held/{IN_FLIGHT}/{path}"
        job = {"id": str(n), "url": url, "max_retries": 0, "include": []}
        yield {**job, "extract": KINDS[n % 2]}


def _released(stage: Stage, kin: Kin) -> tuple[Counter[str], int]:
    """How they ended, and the sum of their bodies in bytes."""
    ends: Counter[str] = Counter()
    size, deadline = 0, time.monotonic() + 2 * PATIENCE
    while ends.total() < IN_FLIGHT and time.monotonic() < deadline:
        kin.look()
        _, _, body = stage.channel.basic_get(stage.results, auto_ack=True)
        if body is None:
            time.sleep(0.01)
            continue
        result = json.loads(body)
        ends[ending(result)] += 1
        size += result.get("size", 0)
    return ends, size


@contextmanager
def watched(stage: Stage, file: Path, **settings: Any) -> Iterator[Child]:
    """The real daemon with a heartbeat on its loop, consuming."""
    with stage.child("tests.rig.watched", str(file), **settings) as daemon:
        until(file.exists, 30)
        deadline = time.monotonic() + 30
        while not stage.channel.queue_declare(stage.jobs, passive=True).method.consumer_count:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the daemon does not consume:\n{daemon.log.read_text()}")
            time.sleep(0.05)
        yield daemon


@contextmanager
def site(stage: Stage, port: int, folder: Path | None = None) -> Iterator[Path]:
    """The hostile site, in a process of its own; its output's file."""
    log = stage.folder / f"site-{port}.log"
    argv = [sys.executable, "-m", "tests.rig.sites.extraction_pages", str(port)]
    with ExitStack() as stack:
        output = stack.enter_context(log.open("wb"))
        popen = process.spawn([*argv, str(folder)] if folder else argv, stdout=output)
        stack.callback(process.end, popen, 5)
        until(lambda: b"ready" in log.read_bytes(), 30)
        yield log


def until(ready: Any, seconds: float) -> None:
    """Wait for something; raises RuntimeError."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not ready after {seconds:g} s")
        time.sleep(0.02)


def _where(page: bytes, rules: dict[str, Any]) -> str:
    """Where the daemon should search it."""
    raw = json.dumps(rules).encode()
    asked = ExtractRequest("", "text/html", True, False, False, False, False, False, raw)
    limits = for_the_loop(extract_limits(Config()))
    found = at_once(asked, page, compile_rules(raw), limits)
    return "loop" if isinstance(found, Extracted) else "helper"


def ending(result: dict[str, Any]) -> str:
    """`ok`, or the kind and the message of its failure."""
    error = result.get("error")
    return f"{error['kind']}: {error['message']}" if error else "ok"


def longest(found: list[Hold], began: float, ended: float) -> float:
    """The most seconds of its own processor time in which the loop did not turn."""
    return max((min(h.late, h.cpu) for h in found if began <= h.at <= ended), default=0.0)


def held(found: list[Hold], began: float, ended: float) -> str:
    """How late the heartbeat was, by whose fault, and at what."""
    mine = [hold for hold in found if began <= hold.at <= ended]
    if not mine:
        return "never 10 ms late"
    over = sum(min(hold.late, hold.cpu) > HELD for hold in mine)
    most = max(mine, key=lambda hold: min(hold.late, hold.cpu))
    last = max(mine, key=lambda hold: hold.late)
    return (
        f"held {min(most.late, most.cpu) * 1e3:.0f} ms at most by its own processor time, "
        f"{over} times over {HELD * 1e3:g} ms{_at(most)}; "
        f"{last.late * 1e3:.0f} ms late at most{_at(last) if last is not most else ''}"
    )


def _at(hold: Hold) -> str:
    return f" (at {hold.stack})" if hold.stack else ""


def latencies(window: Window) -> str:
    """Of all pages, and by where they were searched."""
    parts = [f"all {spread(window.all_times)}"]
    parts += [f"{where} {spread(times)}" for where, times in window.times.items()]
    parts.append(f"by the daemon's own figures {spread(window.inside)}")
    return "\n    ".join(parts)


def spread(times: list[float]) -> str:
    """The median, the 99th percentile and the most, in milliseconds."""
    if not times:
        return "no pages"
    return (
        f"p50 {quantile(times, 50) * 1e3:.1f} ms, p99 {quantile(times, 99) * 1e3:.1f} ms, "
        f"max {max(times) * 1e3:.0f} ms of {len(times)} pages"
    )


def quantile(times: list[float], percent: int) -> float:
    """A percentile."""
    return statistics.quantiles([*times, times[0]], n=100, method="inclusive")[percent - 1]


def resident(daemon: Child) -> float:
    """MiB now."""
    status = Path(f"/proc/{daemon.popen.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def memory(daemon: Child, kin: Kin) -> str:
    """The peaks."""
    peaks = sorted(kin.peaks.values(), reverse=True)
    shown = ", ".join(f"{peak:.0f}" for peak in peaks[:6])
    return f"peak of the daemon {daemon.peak_rss():.0f} MiB, of {len(peaks)} helpers {shown} MiB"


if __name__ == "__main__":
    main()
