"""The daemon's other tenants beside sites that redirect to their host, and that have many names.

May touch: the stage's private servers, a nameserver of the rig's in a thread, the results.
Must never: judge by what the daemon says of its own timing; it counts and times results.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import TYPE_CHECKING, Any, Final

from benchmarks.hostile_site import HOSTS
from benchmarks.stage import PREFIX
from scraperd.broker.rabbitmq.topology import DELAYS
from tests.rig import ports
from tests.rig.sites.dns import threaded
from tests.rig.sites.nginx import Nginx

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.hostile import Goals
    from benchmarks.stage import Stage

HOST: Final = "127.0.8.21"  # of the tenants whose jobs are looked at
HOSTILE: Final = 240
HONEST: Final = 40
PAUSE: Final = 0.1  # seconds between two pages of HOST, while others redirect to it
NAMES: Final = 90
DRIPS: Final = 300  # jobs of the many names, whose pages never end
RATE: Final = 25  # the neighbour's pages a second
COUNT: Final = 250
WORSE: Final = 3.0  # times the quiet median that the attacked one may be
SLACK: Final = 0.25  # seconds that it may be in any case
PATIENCE: Final = 60.0  # seconds for the results of a part
SETTINGS: Final[dict[str, Any]] = {
    "log__level": "warning",
    "politeness__robotstxt_obey": False,
    "politeness__per_host_concurrency": 8,
    "fetch__download_timeout": 5.0,
    "fetch__connect_timeout": 5.0,
}


def detours(stage: Stage, port: int, goals: Goals) -> None:
    """Jobs that name a host, and jobs that another site sends on to it: what is left for others."""
    print(f"\n{HOSTILE} jobs for a host of {1 / PAUSE:g} pages/s, beside {HONEST} honest ones:")
    web = ports.free_port()
    page = stage.pages[0].url.split("/", 3)[3]
    target = f"http://{HOST}:{web}/{page}"
    found = {}
    with Nginx(
        stage.folder / "site", stage.folder / "host", port=web, extra=f"listen {HOST}:{web};"
    ):
        for sort, url in (("direct", target), ("sent on", f"http://{HOSTS[0]}:{port}/to/{target}")):
            _clear(stage)
            limits: dict[str, Any] = {"hosts": {HOST: {"per_host_delay": PAUSE}}, "concurrency": 20}
            with stage.daemon(**SETTINGS, **limits):
                for n in range(HOSTILE):
                    _send(stage, f"hostile/{n}", url)
                    if n % (HOSTILE // HONEST) == 0:
                        _send(stage, f"honest/{n}", target)
                first = [name for name, _ in _arrivals(stage, HONEST)]
            found[sort] = sum(name.startswith("honest") for name in first)
            print(f"  {sort:8} of the host's first {len(first)} pages {found[sort]} are honest")
            time.sleep(1)
    goal = "beside jobs that are sent on, at least half as many as beside direct ones"
    goals.check(goal, reached=found["sent on"] >= found["direct"] / 2)


def names(stage: Stage, port: int, goals: Goals) -> None:
    """Many names of one address, whose pages never end, beside a neighbour's pages."""
    print(f"\n{RATE} pages/s of a neighbour, beside {DRIPS} endless pages of {NAMES} names:")
    web = ports.free_port()
    page = stage.pages[0].url.split("/", 3)[3]
    records = {f"n{n}.test": [("A", HOSTS[0], 300)] for n in range(NAMES)}
    p99, medians = {}, {}
    with (
        threaded(records) as dns,
        Nginx(
            stage.folder / "site", stage.folder / "near", port=web, extra=f"listen {HOST}:{web};"
        ),
    ):
        for sort in ("quiet", "attacked"):
            _clear(stage)
            with stage.daemon(**SETTINGS, fetch__nameservers=[dns]):
                _send(stage, "first", f"http://{HOST}:{web}/{page}")
                assert list(_arrivals(stage, 1)) == [("first", True)]  # it has started
                for n in range(DRIPS if sort == "attacked" else 0):
                    _send(stage, f"hostile/{n}", f"http://n{n % NAMES}.test:{port}/body-drip")
                times = _neighbour(stage, f"http://{HOST}:{web}/{page}")
            p99[sort] = statistics.quantiles(times, n=100)[98] if len(times) > 1 else PATIENCE
            medians[sort] = statistics.median(times or [PATIENCE])
            print(
                f"  {sort:8} {len(times)} of {COUNT} pages ok, published to received: median "
                f"{medians[sort] * 1e3:.1f} ms, 99th percentile {p99[sort] * 1e3:.1f} ms"
            )
            goals.check(f"{sort}: every page of the neighbour is ok", reached=len(times) == COUNT)
    goal = f"median at most {WORSE:g} times the quiet one, or {SLACK:g} s"
    goals.check(goal, reached=medians["attacked"] <= max(SLACK, WORSE * medians["quiet"]))
    limit = SETTINGS["fetch__download_timeout"]
    goal = f"99th percentile below the {limit:g} s that an endless page holds its place for"
    goals.check(goal, reached=p99["attacked"] < limit)


def _clear(stage: Stage) -> None:
    """Empty the delay queues too: what was snoozed there would come back into the next part."""
    for seconds in DELAYS:
        stage.channel.queue_purge(f"{PREFIX}.delay.{seconds}")
    stage.purge()


def _neighbour(stage: Stage, url: str) -> list[float]:
    """COUNT pages at a steady rate; for each that is ok, seconds until its result is here."""
    sent: dict[str, float] = {}
    times: list[float] = []
    start = time.monotonic()
    while len(times) < COUNT and time.monotonic() < start + COUNT / RATE + PATIENCE / 2:
        if len(sent) < COUNT and time.monotonic() >= start + len(sent) / RATE:
            name = f"neighbour/{len(sent)}"
            sent[name] = time.monotonic()
            _send(stage, name, url)
        for name, ok in _arrivals(stage, 1, patience=0.005):
            if ok and name in sent:
                times.append(time.monotonic() - sent[name])
    return times


def _send(stage: Stage, name: str, url: str) -> None:
    job = {"id": name, "url": url, "max_retries": 0, "include": []}
    stage.channel.basic_publish("", stage.jobs, json.dumps(job).encode())


def _arrivals(stage: Stage, count: int, patience: float = PATIENCE) -> Iterator[tuple[str, bool]]:
    """The next results: whose, and whether they are ok."""
    deadline = time.monotonic() + patience
    while count and time.monotonic() < deadline:
        _, _, body = stage.channel.basic_get(stage.results, auto_ack=True)
        if body is None:
            time.sleep(0.002)
            continue
        result = json.loads(body)
        count -= 1
        yield result["id"], result["status"] == "ok"
