"""Half an hour of random faults under a steady load: `python -m tests.faults.soak`.

May touch: a private broker, two daemons, a pipe between them, a temporary folder, standard output.
Must never: restart the daemon whose memory is watched, or forgive what the bench would not.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import random
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Self

from tests.faults import table
from tests.faults.bench import Bench
from tests.faults.ledger import Letter
from tests.faults.register import Row
from tests.faults.rows.jobs.bodies import INVALID
from tests.faults.scene import SPARE
from tests.faults.soak.faults import CALM, FAULTS, both_consume, watched
from tests.rig.pipe import Pipe

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.faults.probes import Probe
    from tests.faults.scene import Scene
    from tests.faults.soak.faults import Fault

RATE = 60  # jobs a second
TICK = 0.1  # seconds between two lots of them
IN_A_ROW = 3  # faults between two rests
GROWTH = 8  # MB by which the memory of the last third may exceed that of the first
MAY = (
    *("broker_lost", "broker_unreachable", "broker_refused", "broker_blocked", "broker_limit"),
    *("consumer_starved", "publish_refused", "descriptors_exhausted"),
)


@dataclass(frozen=True, slots=True)
class Rest:
    """What the watched daemon holds when nothing is left to do. `minute` is the soak's."""

    minute: float
    jobs: int
    probe: Probe


class Feeder(threading.Thread):
    """Publishes all the time but in rests: mostly pages; also retries, failures, rubbish, bulk.

    `with` runs it, and ends it however the soak ends.
    """

    def __init__(self, scene: Scene, chance: random.Random) -> None:
        super().__init__(daemon=True)
        self._scene, self._chance = scene, chance
        self._flowing, self._over = threading.Event(), threading.Event()
        self._posting = threading.Lock()

    def run(self) -> None:
        while not self._over.wait(TICK):
            with self._posting:
                if self._flowing.is_set():
                    for _ in range(int(RATE * TICK)):
                        self._post()

    def _post(self) -> None:
        scene, dice = self._scene, self._chance.random()
        if dice < 0.80:
            scene.load(1)
        elif dice < 0.88:
            scene.load(1, "/flaky/1/{n}")
        elif dice < 0.93:
            scene.load(1, "/size/50000/{n}")
        elif dice < 0.97:
            scene.load(1, "/status/404", status="failed http_status")
        else:
            serial = len(scene.ledger.letters)
            body = self._chance.choice(INVALID) + b" " * (1 + serial % 7) + b"%d" % serial
            scene.publisher.post(Letter("", body, status="failed", dead=1))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._flowing.clear()
        self._over.set()
        self.join(10)

    def flow(self) -> None:
        self._flowing.set()

    def rest(self) -> None:
        """Nothing more is posted once this returns."""
        self._flowing.clear()
        with self._posting:
            pass


def deck(chance: random.Random) -> Iterator[Fault]:
    """Faults in any order, each as often as another."""
    while True:
        yield from chance.sample(FAULTS, len(FAULTS))


def soaked(minutes: float, chance: random.Random, rests: list[Rest]) -> Row:
    """The soak as a row of the bench, which notes its rests."""

    def play(scene: Scene) -> None:
        with Pipe(scene.node.port) as pipe:
            _soak(scene, pipe, minutes * 60, chance, rests)
            scene.finish()

    play.__doc__ = f"Random faults under a load of {RATE} jobs a second, for {minutes:g} minutes."
    return Row(0, "soak", play, nodes=1, off=False, cluster=False, says=(), may=MAY)


def _soak(
    scene: Scene, pipe: Pipe, seconds: float, chance: random.Random, rests: list[Rest]
) -> None:
    scene.start(through=[pipe.url], concurrency=50, broker__heartbeat=5)
    scene.load(200)
    scene.quiet()
    scene.hooks = {"FAULT_POISON": "1"}
    scene.start()
    faults, began = deck(chance), time.monotonic()
    with Feeder(scene, chance) as feeder:
        while not rests or time.monotonic() - began < seconds:
            for fault in itertools.islice(faults, IN_A_ROW):
                feeder.flow()
                scene.more(2 * RATE)
                if fault in CALM:
                    _emptied(scene, feeder)
                both_consume(scene)
                _harm(scene, pipe, fault)
            _emptied(scene, feeder)
            rests.append(_rest(scene, (time.monotonic() - began) / 60))
    scene.daemon.ended()
    scene.daemons.append(scene.daemons.pop(0))  # the watched one ends as any row's last one does


def _emptied(scene: Scene, feeder: Feeder) -> None:
    feeder.rest()
    scene.quiet()
    left = scene.drained()
    assert not left, f"messages are left when all is done: {left}"


def _harm(scene: Scene, pipe: Pipe, fault: Fault) -> None:
    print(f"     {fault.__name__}: ", end="", flush=True)
    began = time.monotonic()
    fault(scene, pipe)
    scene.heal()
    print(f"{time.monotonic() - began:.1f} s", flush=True)


def _rest(scene: Scene, minute: float) -> Rest:
    for daemon in (watched(scene), scene.daemon):
        daemon.consuming()
    rest = Rest(minute, len(scene.ledger.accepted), scene.settled(watched(scene)))
    held = rest.probe
    print(
        f"{rest.minute:5.1f} min: {rest.jobs} jobs, {len(scene.ledger.lost)} lost; {held.fds} fds, "
        f"{held.tasks} tasks, {held.channels} channels, {held.memory} MB",
        flush=True,
    )
    return rest


def growth(rests: Sequence[Rest]) -> int:
    """MB: the median of the last third of the rests, less that of the first.

    The first quarter is left out: caches fill, and the allocator takes what it then keeps.
    """
    memory = [rest.probe.memory for rest in rests[len(rests) // 4 :]]
    third = max(1, len(memory) // 3)
    return int(median(memory[-third:]) - median(memory[:third]))


def swollen(rests: Sequence[Rest]) -> list[str]:
    """Whatever is not flat, in words."""
    found, first = [], rests[0].probe
    for what in ("fds", "tasks", "channels"):
        highest = max(getattr(rest.probe, what) for rest in rests)
        if highest > getattr(first, what) + (0 if what == "channels" else SPARE):
            found.append(f"{highest} {what}, {getattr(first, what)} at the first rest")
    if growth(rests) > GROWTH:
        found.append(f"memory grew by {growth(rests)} MB")
    return found


def main() -> int:
    """Soak; 1 if anything was lost, untrue or not flat."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randint(0, 9999))
    parser.add_argument("--rabbitmq", default="", metavar="RELEASE", help="such as 4")
    options = parser.parse_args()
    logging.getLogger("pika").setLevel(logging.CRITICAL + 1)
    print(f"seed {options.seed}", flush=True)
    rests: list[Rest] = []
    row = soaked(options.minutes, random.Random(options.seed), rests)
    with (
        tempfile.TemporaryDirectory(prefix="soak-") as folder,
        Bench(Path(folder), release=options.rabbitmq) as bench,
    ):
        report = bench.play(row)
    print("\n".join(["", *table.lines([report])]))
    if len(rests) > 1:
        print(f"\nmemory of {len(rests)} rests: the last third {growth(rests):+d} MB on the first")
    complaints = [*report.complaints, *(swollen(rests) if rests else [])]
    print("\n".join(complaints or ["good"]) + (f"\n{report.tail}" if complaints else ""))
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
