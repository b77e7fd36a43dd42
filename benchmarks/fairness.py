"""One strict host and many fast ones in one queue: how far the strict one holds the others up.

May touch: the stage's private broker, a site of its own on loopback, the processes it starts.
Must never: count a job by what the daemon says of itself; it reads the results as they arrive.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import uvloop

from benchmarks.stage import Stage
from tests.rig.ports import free_port

if TYPE_CHECKING:
    from benchmarks.stage import Child

STRICT: Final = "127.0.2.1"
FAST: Final = [f"127.0.1.{n}" for n in range(1, 51)]
GOAL_TIME: Final = 1.15  # of the fast hosts' time alone
GOAL_RATE: Final = 0.95  # of the strict host's permitted rate
SILENCE: Final = 90.0  # seconds without a result end a run
PAGE: Final = (
    b"<!doctype html><title>A page</title>" + b"<p>Some text and <a href='/x'>a link</a>" * 60
)


@dataclass(slots=True)
class Arrivals:
    """When each result came, by the bench's own clock, and how often its job was snoozed."""

    fast: list[float] = field(default_factory=list)
    strict: list[float] = field(default_factory=list)
    snoozes: Counter[int] = field(default_factory=Counter)
    failed: int = 0


def main() -> None:
    """Measure the fast hosts alone, then with the strict one; print both and their ratio."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fairness", description=__doc__)
    parser.add_argument("--jobs", type=int, default=20_000, help="90 %% of them at the strict host")
    parser.add_argument("--rate", type=float, default=10.0, help="pages a second it permits")
    parser.add_argument("--latency", type=float, default=1.0, help="seconds a fast host takes")
    parser.add_argument("--rounds", type=int, default=1, help="of the part with the fast hosts")
    parser.add_argument("--until", type=float, default=2400, help="seconds, then stop")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(serve(options.serve, options.latency))
        return
    with Stage() as stage:
        sys.exit(measure(stage, options))


def measure(stage: Stage, options: argparse.Namespace) -> int:
    """All rounds; 1 if a goal is missed."""
    port = free_port()
    fast = [f"http://{FAST[n % len(FAST)]}:{port}/{n}" for n in range(options.jobs // 10)]
    strict = [f"http://{STRICT}:{port}/{n}" for n in range(options.jobs - len(fast))]
    mixed = fast + strict
    random.Random(1).shuffle(mixed)  # the same order each time
    settings = {
        "log__level": "warning",
        "politeness__per_host_concurrency": 8,
        "hosts": {STRICT: {"per_host_delay": 1 / options.rate}},
    }
    command = ("benchmarks.fairness", "--latency", str(options.latency), "--serve", str(port))
    print(f"{len(fast)} jobs at {len(FAST)} hosts that take {options.latency:g} s a page;")
    print(
        f"{len(strict)} jobs at one host that permits {options.rate:g} pages a second", flush=True
    )
    ratios = []
    with stage.child(*command):
        for number in range(1, options.rounds + 1):
            alone = run(stage, fast, settings, options.until)
            last = number == options.rounds
            both = run(stage, mixed, settings, options.until, stop_early=0 if last else len(fast))
            ratios.append(both.fast[-1] / alone.fast[-1])
            print(f"round {number}: fast hosts alone {alone.fast[-1]:.1f} s, with the strict one "
                  f"{both.fast[-1]:.1f} s: {ratios[-1]:.2f} times as long", flush=True)  # fmt: skip
    return report(both, ratios, options.rate)


def run(
    stage: Stage, urls: list[str], settings: dict[str, Any], until: float, *, stop_early: int = 0
) -> Arrivals:
    """The jobs are in the queue before the daemon starts; ends with the last result."""
    stage.purge()
    stage.publish({"url": url, "extract": {"title": "title"}} for url in urls)
    with stage.daemon(**settings) as child:
        while stage.depth(stage.results) == 0:
            time.sleep(0.01)
        began = time.monotonic()
        arrivals = collect(stage, began, stop_early or len(urls), until, stop_early > 0)
        print(f"  {len(urls)} jobs: {usage(child, time.monotonic() - began)}", flush=True)
    return arrivals


def collect(stage: Stage, began: float, wanted: int, until: float, fast_only: bool) -> Arrivals:  # noqa: FBT001
    """Read results until `wanted` are there; acked by the hundred, so that it costs little."""
    arrivals = Arrivals()
    channel = stage.channel
    channel.basic_qos(prefetch_count=1000)
    shown = 60.0
    for method, properties, body in channel.consume(stage.results, inactivity_timeout=SILENCE):
        now = time.monotonic() - began
        if method is None or method.delivery_tag is None or body is None or now > until:
            break
        result = json.loads(body)
        strict = STRICT in result["url"]
        (arrivals.strict if strict else arrivals.fast).append(now)
        arrivals.failed += result["status"] != "ok"
        if strict:
            snoozes: Any = (
                (properties.headers or {}).get("x-scraperd-snoozes", 0) if properties else 0
            )
            arrivals.snoozes[snoozes] += 1
        count = len(arrivals.fast) + len(arrivals.strict)
        done = len(arrivals.fast) if fast_only else count
        if done == wanted or count % 100 == 0:
            channel.basic_ack(method.delivery_tag, multiple=True)
        if now > shown:
            print(
                f"  {now:5.0f} s: {len(arrivals.fast)} fast, {len(arrivals.strict)} strict",
                flush=True,
            )
            shown += 60.0
        if done == wanted:
            break
    channel.cancel()
    return arrivals


def report(both: Arrivals, ratios: list[float], rate: float) -> int:
    """The figures that the goals are about."""
    ratio = sorted(ratios)[len(ratios) // 2]
    span = both.strict[-1] - both.strict[0]
    served = (len(both.strict) - 1) / span
    snoozes = sorted(both.snoozes.elements())
    print(f"fast hosts: {ratio:.2f} times their time alone (goal: at most {GOAL_TIME})")
    print(f"strict host: {len(both.strict)} pages in {span:.0f} s, {served:.2f} a second, "
          f"{served / rate:.1%} of what it permits (goal: {GOAL_RATE:.0%})")  # fmt: skip
    print(f"failed: {both.failed}")
    buckets = Counter(int(at // 10) for at in both.strict)
    series = [buckets[n] / 10 for n in range(int(both.strict[-1] // 10))][:60]
    print(f"its pages a second, in steps of 10 s: {' '.join(f'{rate:.1f}' for rate in series)}")
    print(f"snoozes of a job: median {snoozes[len(snoozes) // 2]}, 99 % at most "
          f"{snoozes[int(len(snoozes) * 0.99)]}, most {snoozes[-1]}; distribution:")  # fmt: skip
    for count, jobs in sorted(both.snoozes.items()):
        print(f"  {count:3} times: {jobs:6} jobs {'#' * (60 * jobs // len(snoozes))}")
    return 0 if ratio <= GOAL_TIME and served / rate >= GOAL_RATE and not both.failed else 1


def usage(child: Child, seconds: float) -> str:
    """What the daemon took in all."""
    return f"{seconds:.1f} s, {child.cpu():.1f} s of the daemon's CPU, {child.peak_rss():.0f} MiB"


async def serve(port: int, latency: float) -> None:
    """The fast hosts answer after `latency` and up to half more or less, the strict one at once."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(PAGE)
    none = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fast = writer.get_extra_info("sockname")[0] != STRICT
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while request := await reader.readuntil(b"\r\n\r\n"):
                robots = request.startswith(b"GET /robots.txt")
                if fast and not robots:
                    await asyncio.sleep(latency * random.uniform(0.5, 1.5))
                writer.write(none if robots else head + PAGE)
        writer.close()

    server = await asyncio.start_server(answer, ["0.0.0.0"], port, backlog=4096)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    main()
