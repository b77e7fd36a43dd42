"""Rows in which the daemon is killed: kill -9 at any time, and at the worst time.

May touch: the scene.
Must never: sleep for luck.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.faults.register import row

if TYPE_CHECKING:
    from tests.faults.scene import Scene


@row(1, "kill9-loop")
def kill9_loop(scene: Scene) -> None:
    """Kill -9 of the daemon, twenty times under load; each time it is started again at once."""
    scene.start(concurrency=20)
    scene.load(scene.many(2000, 300))
    for _ in range(scene.many(20, 3)):
        scene.more(50)
        scene.kill()
        scene.heal()
        scene.start()


@row(1, "kill9-between-confirm-and-ack")
def kill9_between_confirm_and_ack(scene: Scene) -> None:
    """Kill -9 when a result is confirmed and its job not acked: one duplicate, same attempt."""
    scene.hooks = {"FAULT_KILL_AT": "ack", "FAULT_AFTER": str(scene.many(200, 20))}
    scene.start(concurrency=1, broker__prefetch=1)
    scene.load(scene.many(500, 40))
    scene.daemon.expected = -9
    scene.until(lambda: scene.daemon.returncode is not None, "the daemon kills itself")
    scene.duplicates, scene.cuts, scene.hooks = 1, 1, {}
    scene.heal()
    scene.start()
    scene.quiet()
    results = [scene.ledger.of(key) for key in scene.ledger.letters]
    [twice] = [arrivals for arrivals in results if len(arrivals) > 1]
    assert len({(arrival.status, arrival.attempt) for arrival in twice}) == 1, twice
