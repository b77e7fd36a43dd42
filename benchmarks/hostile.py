"""The daemon under attack: its memory under bombs, its other pages beside sites that never end.

May touch: the stage's private servers, the processes it starts, the results and /proc.
Must never: take a figure from anywhere but the daemon's results and the kernel.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from benchmarks.hostile_detours import detours, names
from benchmarks.hostile_site import HOSTS, NICE, ROBOTS_HOSTS, SLOW, WHOLE
from benchmarks.stage import Child, Stage
from tests.rig import ports, process
from tests.rig.sites.nginx import Nginx

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Result = dict[str, Any]

MIB: Final = 1024**2
HEADROOM: Final = 150  # MiB of resident memory that the daemon may take beside its budget
BUFFERED: Final = 0.25  # MiB more for each fetch that waits for memory: what was read ahead
BUDGET: Final = 256 * MIB
SMALL: Final = 64 * MIB
EACH: Final = 50  # jobs of every hostile sort
NEIGHBOURS: Final = [f"127.0.8.{n}" for n in range(1, 21)]
RATE: Final = 100  # neighbours' pages a second
SECONDS: Final = 6.0  # in which they are asked for, in each half of a round
ROUNDS: Final = 3
TOTAL: Final = 8.0  # fetch.download_timeout while the neighbours are measured
CONNECT: Final = 6.0
LATE: Final = 1.5  # seconds past its timeout in which a hostile job must have ended
# How many times the quiet 99th percentile the attacked one may be, as in the tenants' bench. The
# quiet one is half a millisecond: as long as the loop takes to read one tick of 350 drips.
WORSE: Final = 3.0
SETTINGS: Final[dict[str, Any]] = {
    "log__level": "warning",
    "fetch__allow_networks": ["127.0.0.0/8"],
    "fetch__allow_ports": [],
    "politeness__robotstxt_obey": False,
    "fetch__verify_tls": False,
    # It would snooze the second round's jobs: their hosts timed out before.
    "politeness__autothrottle": False,
    # Who waits for a robots.txt waits here, so that it counts in the result.
    "politeness__snooze_after": 60,
    "broker__prefetch": 0,
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the jobs by their id, the daemon's peak in MiB, and how long it took."""

    results: dict[str, Result]
    peak: float
    seconds: float


@dataclass(slots=True)
class Half:
    """Half of a round: the neighbours' times in seconds, and what was used of the processors."""

    times: list[float] = field(default_factory=list)
    failed: int = 0
    daemon: float = 0.0
    site: float = 0.0
    seconds: float = 0.0

    def __str__(self) -> str:
        p50, p99 = quantiles(self.times)
        return (
            f"median {p50 * 1e3:6.1f} ms, 99th percentile {p99 * 1e3:6.1f} ms of "
            f"{len(self.times):,} pages; of a processor: daemon {self.daemon / self.seconds:4.0%}, "
            f"hostile side {self.site / self.seconds:4.0%}"
        )

    def add(self, other: Half) -> None:
        """Take another round's half in."""
        self.times += other.times
        self.failed += other.failed
        self.daemon += other.daemon
        self.site += other.site
        self.seconds += other.seconds


class Goals:
    """What was to be reached; those that were missed."""

    def __init__(self) -> None:
        self.missed: list[str] = []

    def check(self, goal: str, *, reached: bool) -> None:
        """Print a goal and whether it was reached."""
        print(f"    {'reached' if reached else 'MISSED '}  {goal}", flush=True)
        if not reached:
            self.missed.append(goal)


def main() -> None:
    """Run every part; exit 1 if a goal is missed."""
    goals = Goals()
    started = time.monotonic()
    port = ports.free_port()
    with Stage() as stage, hostile_site(stage, port) as site:
        bombs(stage, site, port, goals)
        whole(stage, site, port, goals)
        neighbours(stage, site, port, goals)
        detours(stage, port, goals)
        names(stage, port, goals)
    print(f"took {time.monotonic() - started:.0f} s; load average {os.getloadavg()[0]:.1f}")
    if goals.missed:
        sys.exit(f"{len(goals.missed)} goals missed: " + "; ".join(goals.missed))


@contextmanager
def hostile_site(stage: Stage, port: int) -> Iterator[Child]:
    """The hostile side, in a process of its own."""
    log = stage.folder / "hostile.log"
    argv = [sys.executable, "-m", "benchmarks.hostile_site", str(port)]
    print(f"hostile side: a process of nice {NICE}", flush=True)
    with log.open("wb") as output:
        popen = process.spawn(argv, stdout=output)
    try:
        deadline = time.monotonic() + 120  # the bombs are made the first time
        while b"ready" not in log.read_bytes():
            if popen.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no hostile site:\n{log.read_text()}")
            time.sleep(0.05)
        yield Child(popen, log)
    finally:
        process.end(popen, 5)


def bombs(stage: Stage, site: Child, port: int, goals: Goals) -> None:
    """All sorts of them at once, one daemon, and its peak."""
    sorts = {"gzip": "bomb/gzip", "br": "bomb/br", "zstd": "bomb/zstd"}
    sorts |= {"gzip, gzip": "bomb/gzip-gzip", "endless": "flood"}
    print(f"\n{EACH} bombs of 10 GiB of each sort, all at once")
    wanted = EACH * len(sorts)
    limits = {
        "fetch__memory_budget": BUDGET,
        "concurrency": wanted,
        "politeness__per_host_concurrency": wanted,
    }
    jobs = [hostile(sort, path, n, port) for sort, path in sorts.items() for n in range(EACH)]
    outcome = together(stage, site, jobs, **limits)
    for sort in sorts:
        ends, times = endings(outcome.results, sort)
        print(f"  {sort:11} {dict(ends)}, the slowest after {max(times, default=0):.1f} s")
        goals.check(f"{sort}: every one ends as too_large", reached=ends == {"too_large": EACH})
    fits(goals, outcome.peak, BUDGET / MIB + HEADROOM)


def whole(stage: Stage, site: Child, port: int, goals: Goals) -> None:
    """Bodies that all are within the limits, and together many times the budget."""
    count = 10 * EACH
    print(f"\n{count} bodies of {WHOLE // MIB} MiB at once, a budget of {SMALL // MIB} MiB")
    jobs = [hostile("whole", "whole", n, port) for n in range(count)]
    limits = {
        "fetch__memory_budget": SMALL,
        "concurrency": count,
        "politeness__per_host_concurrency": count,
    }
    outcome = together(
        stage, site, jobs, **limits, fetch__download_timeout=60, fetch__connect_timeout=30
    )
    ends = Counter(kind(result) for result in outcome.results.values())
    sizes = {result.get("size") for result in outcome.results.values()}
    print(f"  {dict(ends)} in {outcome.seconds:.1f} s")
    goals.check("every body comes in whole", reached=ends == {"ok": count} and sizes == {WHOLE})
    fits(goals, outcome.peak, SMALL / MIB + HEADROOM + BUFFERED * count)


def fits(goals: Goals, peak: float, bound: float) -> None:
    """Check the peak of resident memory, in MiB."""
    goal = f"peak of resident memory {peak:.0f} MiB, at most {bound:.0f} MiB"
    goals.check(goal, reached=peak <= bound)


def neighbours(stage: Stage, site: Child, port: int, goals: Goals) -> None:
    """Pages of other hosts while the hostile ones hold on: each round quiet, then attacked."""
    print(f"\n{RATE} pages/s of {len(NEIGHBOURS)} other hosts, beside {EACH} connections each of:")
    print("\n".join(f"  {sort:16} {pace}" for sort, pace in SLOW.items()))
    obeying = ", ".join(f'"{host}" = {{robotstxt_obey = true}}' for host in ROBOTS_HOSTS)
    limits: dict[str, Any] = {
        "concurrency": 600,
        "fetch__download_timeout": TOTAL,
        "fetch__connect_timeout": CONNECT,
    }
    web = ports.free_port()
    listens = "".join(f"listen {host}:{web};" for host in NEIGHBOURS)
    quiet, attacked, ratios = Half(), Half(), list[float]()
    hostiles: dict[str, Result] = {}
    stage.purge()
    with (
        Nginx(stage.folder / "site", stage.folder / "neighbours", port=web, extra=listens),
        stage.daemon(**SETTINGS, **limits, hosts=f"{{{obeying}}}") as daemon,
    ):
        half(stage, daemon, site, web, [])  # warm up
        for number in range(ROUNDS):
            mine = half(stage, daemon, site, web, [])[0]
            theirs, results = half(stage, daemon, site, web, list(slow(number, port)))
            hostiles |= results
            ratios.append(quantiles(theirs.times)[1] / quantiles(mine.times)[1])
            quiet.add(mine)
            attacked.add(theirs)
            print(f"  round {number + 1}\n    quiet     {mine}\n    attacked  {theirs}", flush=True)
    print(f"  all rounds\n    quiet     {quiet}\n    attacked  {attacked}")
    ratio = statistics.median(ratios)
    goal = f"99th percentile {ratio:.2f} times the same round's quiet one, the median of rounds"
    goals.check(goal, reached=ratio <= WORSE)
    goals.check("every neighbour's page is ok", reached=not quiet.failed + attacked.failed)
    for sort in SLOW:
        ends, times = endings(hostiles, sort)
        low, high = min(times, default=0), max(times, default=0)
        print(f"  {sort:16} {dict(ends)} after {low:.2f} to {high:.2f} s")
        goals.check(
            f"{sort}: every one is ended, by its timeout at the latest",
            reached=ends.total() == EACH * ROUNDS and "ok" not in ends and high <= TOTAL + LATE,
        )


def half(
    stage: Stage, daemon: Child, site: Child, web: int, jobs: list[Result]
) -> tuple[Half, dict[str, Result]]:
    """SECONDS of neighbours' pages at a steady rate, with these jobs in flight; all results."""
    began, cpu, site_cpu = time.monotonic(), daemon.cpu(), site.cpu()
    send(stage, jobs)
    count = int(RATE * SECONDS)
    start = time.monotonic() + 0.5  # the attack is under way by then
    for n in range(count):
        time.sleep(max(0.0, start + n / RATE - time.monotonic()))
        path = stage.pages[n * 37 % len(stage.pages)].url.split("/", 3)[3]
        url = f"http://{NEIGHBOURS[n % len(NEIGHBOURS)]}:{web}/{path}"
        send(stage, [{"id": f"neighbour/{n}", "url": url, "max_retries": 0, "include": ["links"]}])
    used = Half([], 0, daemon.cpu() - cpu, site.cpu() - site_cpu, time.monotonic() - began)
    results = collect(stage, count + len(jobs), TOTAL + CONNECT + 20)
    for name in [name for name in results if name.startswith("neighbour/")]:
        result = results.pop(name)
        used.failed += result["status"] != "ok"
        used.times.append(result["timings"]["fetch"])
    return used, results


def slow(number: int, port: int) -> Iterator[Result]:
    """The jobs of a round that lead to sites that never end, the sorts mixed."""
    for n in range(EACH):
        for sort in SLOW:
            job = hostile(sort, sort, n, port)
            job["id"] += f"/{number}"
            if sort == "robots":
                job["url"] = f"http://{ROBOTS_HOSTS[n]}:{port}/page"
            if sort == "tls":
                job["url"] = job["url"].replace("http:", "https:")
            yield job


def together(stage: Stage, site: Child, jobs: list[Result], **settings: Any) -> Outcome:
    """All jobs in the queue, then a daemon of its own that takes them all at once."""
    stage.purge()
    stage.publish(jobs)
    site_cpu = site.cpu()
    with stage.daemon(**SETTINGS, **settings) as daemon:
        started = time.monotonic()
        results = collect(stage, len(jobs), 90)
        outcome = Outcome(results, daemon.peak_rss(), time.monotonic() - started)
        ours, theirs = daemon.cpu(), site.cpu() - site_cpu
    print(
        f"  {len(results)} results of {len(jobs)} in {outcome.seconds:.1f} s (start included); "
        f"processor time: daemon {ours:.1f} s, hostile side {theirs:.1f} s"
    )
    return outcome


def send(stage: Stage, jobs: list[Result]) -> None:
    """Publish to a daemon that already takes them."""
    for job in jobs:
        stage.channel.basic_publish("", stage.jobs, json.dumps(job).encode())


def collect(stage: Stage, count: int, patience: float) -> dict[str, Result]:
    """That many results by their id, or those that have come when the patience is at its end."""
    results: dict[str, Result] = {}
    deadline = time.monotonic() + patience
    while len(results) < count and time.monotonic() < deadline:
        _, _, body = stage.channel.basic_get(stage.results, auto_ack=True)
        if body is None:
            time.sleep(0.05)
        else:
            result = json.loads(body)
            results[result["id"]] = result
    return results


def hostile(sort: str, path: str, n: int, port: int) -> Result:
    """A job that is tried once and whose result is small."""
    url = f"http://{HOSTS[n % len(HOSTS)]}:{port}/{path}"
    return {"id": f"{sort}/{n}", "url": url, "max_retries": 0, "include": []}


def endings(results: dict[str, Result], sort: str) -> tuple[Counter[str], list[float]]:
    """How the jobs of a sort ended, and after how many seconds (robots.txt and TLS included)."""
    mine = [result for name, result in results.items() if name.startswith(f"{sort}/")]
    return Counter(map(kind, mine)), [result["timings"]["total"] for result in mine]


def kind(result: Result) -> str:
    """`ok`, or the kind of its failure."""
    return result["error"]["kind"] if "error" in result else "ok"


def quantiles(times: Iterable[float]) -> tuple[float, float]:
    """The median and the 99th percentile."""
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    return cuts[49], cuts[98]


if __name__ == "__main__":
    main()
