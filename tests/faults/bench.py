"""Plays a row and writes its line of the table.

May touch: private nodes under the folder it is given; the rows.
Must never: let one row's end, good or bad, reach another row.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from tests.faults import oracle
from tests.faults.scene import Scene
from tests.rig.brokers.cluster import Cluster
from tests.rig.brokers.node import Node

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.probes import Probe
    from tests.faults.register import Row


@dataclass(frozen=True, slots=True)
class Report:
    """A row's line. Times in seconds; `tail` is the end of the daemons' log, if it is not good."""

    row: Row
    accepted: int
    lost: int
    duplicated: int
    stall: float
    recovery: float
    before: Probe | None
    after: Probe | None
    seconds: float
    complaints: list[str]
    tail: str = ""

    @property
    def text(self) -> str:
        """Why it is not good."""
        return "\n".join([*(f"{self.row.name}: {why}" for why in self.complaints), self.tail])


@dataclass
class Bench:
    """Where rows are played: a folder, and a broker that those rows share which do not break it."""

    directory: Path
    short: bool = False
    release: str = ""
    shared: Node | None = None
    _own: list[Node] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for node in self._own:
            node.close()

    def play(self, row: Row) -> Report:
        """Play one row to its end, whatever that is."""
        began = time.monotonic()
        with ExitStack() as stack:
            scene = stack.enter_context(self._scene(row, stack))
            broken = _play(row, scene)
            if not row.nodes and not broken:
                scene.sweep()
            scene.__exit__()
            why = [*broken, *oracle.complaints(row, scene)]
            return _report(row, scene, time.monotonic() - began, why)

    def _scene(self, row: Row, stack: ExitStack) -> Scene:
        """A scene on the brokers that the row wants, which do not run yet if they are its own."""
        if not row.nodes:
            return Scene([self._common()], short=self.short)
        if row.cluster:
            cluster = Cluster(self._directory(row.name), size=row.nodes, release=self.release)
            stack.callback(cluster.close)
            return Scene(cluster.nodes, short=self.short, group=cluster)
        nodes = [self._node(f"{row.name}-{n}") for n in range(row.nodes)]
        for node in nodes:
            stack.callback(node.close)
        return Scene(nodes, short=self.short)

    def _directory(self, name: str) -> Path:
        return self.directory / f"{name}-{time.monotonic_ns()}"

    def _node(self, name: str) -> Node:
        return Node(self._directory(name), release=self.release)

    def _common(self) -> Node:
        """The shared broker, started when it is first needed."""
        if self.shared is None:
            self.shared = self._node("shared").start()
            self._own.append(self.shared)
        return self.shared


def _play(row: Row, scene: Scene) -> list[str]:
    """Why it did not get to its end, if it did not."""
    try:
        if scene.group:
            scene.group.start()
        elif row.nodes and not row.off:
            for node in scene.nodes:
                node.start()
        row.play(scene)
        scene.finish()
    except AssertionError as error:
        return [f"the row did not get to its end: {error}"]
    except Exception as error:  # noqa: BLE001 - one row's end must not end the bench
        return [f"the row did not get to its end: {error!r}"]
    return []


def _report(row: Row, scene: Scene, seconds: float, why: list[str]) -> Report:
    ledger = scene.ledger
    tails = [f"  daemon {n}:\n{d.tail(15)}" for n, d in enumerate(scene.daemons, 1)][-2:]
    tails += [f"  a broker has ended{node.log_tail()}" for node in scene.nodes if not node.running]
    return Report(
        row=row,
        accepted=len(ledger.accepted),
        lost=len(ledger.lost),
        duplicated=oracle.duplicated(ledger),
        stall=oracle.stall(ledger),
        recovery=oracle.recovery(scene),
        before=scene.before,
        after=scene.after,
        seconds=seconds,
        complaints=why,
        tail="\n".join(tails) if why else "",
    )
