"""`make bench`: reads the command line, runs the rounds, prints one table a workload.

May touch: the stage, the terminal.
Must never: let a worker that fails end the run: its line says why, and the others go on.
"""

from __future__ import annotations

import argparse
import platform
import resource
import subprocess
from collections import deque
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.stage import PREFIX, Stage
from benchmarks.throughput import report, site, supplies
from benchmarks.throughput.bench import Bench, RoundError
from benchmarks.throughput.contenders import CONTENDERS, CORES, PROCESSES, SETTINGS, chosen
from benchmarks.throughput.workloads import WORKLOADS, Workload, named
from scraperd.broker.rabbitmq.topology import Topology
from tests.rig.debs import DebsError

if TYPE_CHECKING:
    from benchmarks.throughput.contenders import Contender
    from benchmarks.throughput.report import Round

CONF = {"vm_memory_high_watermark.absolute": "4GB"}  # of the broker: no worker may meet an alarm


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__)
    parser.add_argument("--workload", default="corpus", help="a name, or how several begin")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pages", type=int, default=0, help="a round and contender")
    parser.add_argument("--only", default="", help="contenders, with commas")
    parser.add_argument("--tree", type=Path, action="append", default=[], help="another checkout")
    parser.add_argument("--list", action="store_true", help="workloads and contenders, no run")
    options = parser.parse_args()
    if options.list:
        _list()
        return
    workloads = named(options.workload)
    contenders = chosen(options.only, [tree.resolve() for tree in options.tree])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # for all that is started here
    with Stage(site.folders(), CONF) as stage:
        _introduce(stage)
        for workload in workloads:
            if options.pages:
                workload = replace(workload, pages=options.pages)  # noqa: PLW2901
            _measure(stage, workload, contenders, options.rounds)


def _list() -> None:
    for workload in WORKLOADS:
        print(f"WORKLOAD={workload.name:15}{workload.what}")
    print(f"ONLY={','.join(one.name for one in CONTENDERS)}")


def _introduce(stage: Stage) -> None:
    """Print what all figures of this run depend on."""
    rabbitmq = ".".join(map(str, stage.node.version))
    go = supplies.go_version() or "none"
    print(f"{CORES} cores for all: workers, broker, nginx and this bench")
    print(f"Python {platform.python_version()}, RabbitMQ {rabbitmq}, Go {go}")
    queues = {queue.name: queue.arguments for queue in Topology(PREFIX).queues}
    for name in (stage.jobs, stage.results):
        print(f"queue {name}: {queues[name]}")
    print("scraperd as it is shipped, its log in full in a file, but for", SETTINGS)
    print(f"celery has {PROCESSES} processes, twice the cores")


def _measure(stage: Stage, workload: Workload, contenders: list[Contender], rounds: int) -> None:
    """Run the rounds of one workload and print its table."""
    print(f"\nworkload {workload.name}: {workload.what}; concurrency {workload.concurrency}")
    with ExitStack() as stack:
        ground = site.Ground(stage, stack)
        pages = workload.site(ground)
        authority = ground.authority if pages[0].url.startswith("https:") else None
        print(f"pages: {site.sizes(pages)}")
        print(
            f"{workload.pages:,} of them a round, {max(workload.pages, workload.queued):,} queued"
        )
        bench = Bench(stage, workload, pages, workload.pages, authority)
        bench.prepare()
        able, absent = _able(bench, contenders)
        done: list[Round] = []
        order = deque(able)
        for number in range(1, rounds + 1):
            print(f"round {number} of {rounds}\n{report.HEAD}", flush=True)
            done.append(_round(bench, list(order)))
            order.rotate(-1)
        names = [one.name for one in able]
        print(report.table(done, names, absent))
        print(report.ratios(done, names), flush=True)


def _able(bench: Bench, contenders: list[Contender]) -> tuple[list[Contender], dict[str, str]]:
    """Those that can do this workload on this machine, and why the others can't."""
    absent = {}
    for contender in contenders:
        if bench.workload.concurrency > contender.most:
            absent[contender.name] = f"can't have {bench.workload.concurrency:,} in flight"
            continue
        try:
            contender.command(bench.run(0, bench.stage.folder))
        except (supplies.MissingError, DebsError, OSError, subprocess.SubprocessError) as error:
            absent[contender.name] = f"not measured: {error}"
            print(f"{contender.name}: {error}")
    return [one for one in contenders if one.name not in absent], absent


def _round(bench: Bench, order: list[Contender]) -> Round:
    """Measure each in turn; one that fails is left out of this round."""
    found = {}
    for contender in order:
        try:
            found[contender.name] = bench.measure(contender)
        except RoundError as error:
            print(f"{contender.name:14}failed: {error}", flush=True)
        else:
            print(report.row(contender.name, [found[contender.name]]), flush=True)
    return found


if __name__ == "__main__":
    main()
