"""Who is measured: a table of workers, each with how it starts and how it says that it is ready.

May touch: nothing; what a description starts is started by a round.
Must never: give one worker more than the others: queue, pages, concurrency and result are equal.
"""

from __future__ import annotations

import json
import os
import sys
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from benchmarks.stage import CHECKOUT
from benchmarks.throughput import supplies
from benchmarks.throughput.workloads import TITLE_AND_LINKS
from tests.rig.daemon import environment

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.throughput.workloads import Workload

CORES: Final = len(os.sched_getaffinity(0))
PROCESSES: Final = 2 * CORES  # of Celery
# What the daemon needs on loopback, and permits that are no limit here; all else as it is shipped.
SETTINGS: Final[dict[str, Any]] = {
    "fetch__allow_networks": ["127.0.0.0/8"],
    "fetch__allow_ports": [],
    "politeness__per_host_concurrency": 10_000,
    "politeness__per_address_concurrency": 0,
}


@dataclass(frozen=True, slots=True)
class Run:
    """What a worker is given. `urls` and `feed` are files of one that has no queue.

    `metrics` is a port of loopback, for a worker whose metrics are read.
    """

    workload: Workload
    broker_url: str
    prefix: str
    urls: Path
    feed: Path
    authority: Path | None
    metrics: int


Command: TypeAlias = "tuple[list[str], dict[str, str]]"  # arguments and environment
Message: TypeAlias = "tuple[bytes, dict[str, Any]]"  # body and AMQP headers of a job


def job(url: str, workload: Workload) -> Message:
    """Return a job as scraperd takes it; the other workers look at the URL only."""
    include = {"include": ["body"]} if workload.body else {}
    return json.dumps({"url": url, "extract": TITLE_AND_LINKS, **include}).encode(), {}


def task(url: str, _: Workload) -> Message:
    """Return a job as a Celery worker takes it (its message protocol, version 2)."""
    ident = uuid.uuid4().hex
    empty = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    headers = {"lang": "py", "task": "scrape", "id": ident, "root_id": ident, "parent_id": None}
    return json.dumps([[url], {}, empty]).encode(), headers


@dataclass(frozen=True, slots=True)
class Contender:
    """A worker: its name, the command that starts it, the text that it prints when it is ready.

    `lists` says that it takes a list of URLs instead of a queue. `most` is how many pages it
    can have in flight, if the workload's concurrency can be too high for it. `metrics` says that
    its metrics are read each second, as a Prometheus would. `watched` says that a dashboard is
    open meanwhile, by a gateway on the same processors.
    """

    name: str
    command: Callable[[Run], Command]
    ready: str = "READY"
    message: Callable[[str, Workload], Message] = job
    lists: bool = False
    most: int = sys.maxsize
    metrics: bool = False
    watched: bool = False


def scraperd(run: Run, tree: Path = CHECKOUT, *, metrics: bool = True) -> Command:
    """Start the daemon as it is shipped, its log in a file.

    Another checkout is run by the interpreter of its own .venv, if it has one.
    """
    own = tree / ".venv/bin/python"
    python = str(own) if tree != CHECKOUT and own.exists() else sys.executable
    listen = {"metrics__listen": f"127.0.0.1:{run.metrics}"} if metrics else {}
    authority = {"fetch__ca_file": str(run.authority)} if run.authority else {}
    values = {
        **SETTINGS,
        **authority,
        **listen,
        "broker_url": run.broker_url,
        "broker__prefix": run.prefix,
        "concurrency": run.workload.concurrency,
    }
    env = {**environment(values), "PYTHONPATH": str(tree)}
    return [python, "-m", "scraperd", "run"], env


def unmeasured(run: Run) -> Command:
    """Start the daemon without metrics: what they cost is the difference."""
    return scraperd(run, metrics=False)


def _peer(run: Run, *argv: str, **more: str) -> Command:
    """Start a peer: what it needs to know stands in its environment."""
    known = {
        "BENCH_BROKER_URL": run.broker_url,
        "BENCH_PREFIX": run.prefix,
        "BENCH_CONCURRENCY": str(run.workload.concurrency),
        "BENCH_BODY": str(int(run.workload.body)),
        "BENCH_URLS": str(run.urls),
        "BENCH_FEED": str(run.feed),
    }
    if run.authority:  # read by OpenSSL, by Go and by requests
        known |= {"SSL_CERT_FILE": str(run.authority), "REQUESTS_CA_BUNDLE": str(run.authority)}
    return [*argv], {**os.environ, "PYTHONPATH": str(CHECKOUT), **known, **more}


def bare(run: Run) -> Command:
    """Start the bare loop, which makes links absolute."""
    return _peer(run, sys.executable, "-m", "benchmarks.peers.bare", "--absolute")


def raw(run: Run) -> Command:
    """Start the bare loop, which leaves links as they are written."""
    return _peer(run, sys.executable, "-m", "benchmarks.peers.bare")


def go(run: Run) -> Command:
    """Start the Go worker."""
    return _peer(run, str(supplies.go_worker()))


def faststream(run: Run) -> Command:
    """Start the FastStream worker."""
    return _peer(run, str(supplies.python()), "-m", "benchmarks.peers.faststream_worker")


def celery(run: Run) -> Command:
    """Start Celery's prefork pool."""
    module = ("-m", "benchmarks.peers.celery_worker")
    return _peer(run, str(supplies.python()), *module, BENCH_PROCESSES=str(PROCESSES))


def scrapy(run: Run) -> Command:
    """Start Scrapy with a list."""
    return _peer(run, str(supplies.python()), "-m", "benchmarks.peers.scrapy_spider")


CONTENDERS: Final = (
    Contender("scraperd", scraperd, '"event":"ready"', metrics=True),
    Contender("no-metrics", unmeasured, '"event":"ready"'),
    Contender("watched", scraperd, '"event":"ready"', metrics=True, watched=True),
    Contender("bare", bare),
    Contender("bare-raw", raw),
    Contender("go", go),
    Contender("faststream", faststream),
    Contender("celery", celery, message=task, most=PROCESSES * 100),
    Contender("scrapy", scrapy, lists=True),
)


def checkout(tree: Path) -> Contender:
    """Return the daemon of another checkout, to compare two versions."""
    ready = CONTENDERS[0].ready
    return Contender(tree.name, lambda run: scraperd(run, tree), ready, metrics=True)


def chosen(names: str, trees: list[Path]) -> list[Contender]:
    """Return the contenders of a list with commas, all if it is empty, and other checkouts."""
    known = {one.name: one for one in CONTENDERS}
    wanted = [name.strip() for name in names.split(",") if name.strip()] or list(known)
    if unknown := [name for name in wanted if name not in known]:
        raise SystemExit(f"no contender {unknown[0]!r}; there are {', '.join(known)}")
    return [known[name] for name in wanted] + [checkout(tree) for tree in trees]
