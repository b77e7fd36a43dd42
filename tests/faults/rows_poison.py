"""Rows with a page that kills whoever touches it.

May touch: the scene.
Must never: forgive an innocent job's death.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.faults.rows import row

if TYPE_CHECKING:
    from tests.faults.scene import Scene


@row(9, "poison")
def poison(scene: Scene) -> None:
    """One job kills the daemon each time: it ends dead, and every innocent job has its result."""
    half = scene.many(1000, 50)
    scene.hooks = {"FAULT_POISON": "1"}
    scene.start(concurrency=scene.many(100, 20))
    scene.load(half)
    scene.job("/poison/1", "poison", status="failed", dead=1)
    scene.load(half)
    restarted_until(scene, "poison")


def restarted_until(scene: Scene, key: str) -> None:
    """Start the daemon each time it dies, as systemd would, until this job has its outcome."""

    def ended() -> bool:
        return scene.daemon.returncode is not None or key in scene.ledger.came

    deaths = 0
    while key not in scene.ledger.came:
        scene.until(ended, f"the daemon's death or an outcome of {key}")
        if scene.daemon.returncode is not None:
            assert scene.daemon.returncode == -9, scene.daemon.tail()
            scene.daemon.expected = -9
            scene.cuts += 1
            deaths += 1
            assert deaths < 30, "the poison does not come to its end"
            scene.heal()
            scene.start(ready=False)  # it may die before it can say so
