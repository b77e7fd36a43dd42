"""Rows of dead letters that an operator takes up again while something goes wrong.

May touch: the scene, the `scraperd dead` command as a child.
Must never: take a dead letter by itself.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from tests.faults.register import row
from tests.rig.daemon import variables
from tests.rig.process import Process

if TYPE_CHECKING:
    from tests.faults.scene import Scene

REQUEUE = [sys.executable, "-m", "scraperd", "dead", "requeue", "--reason", "exhausted"]
RATE = 100  # a second, of those that are killed: slow enough to be hit in the middle


@row(13, "requeue-killed")
def requeue_killed(scene: Scene) -> None:
    """Kill -9 of `scraperd dead requeue`, again and again, then a whole one: all jobs run again."""
    scene.collector.leave("dead")
    scene.start()
    count = scene.again = scene.many(3000, 400)
    scene.load(count, "/flaky/1/{n}", status="failed http_status", max_retries=0)
    scene.quiet()
    dead = f"{scene.prefix}.dead"
    scene.until(lambda: scene.node.counts()[dead][0] == count, "every job has its dead letter")
    for _ in range(scene.many(10, 2)):
        with _requeue(scene, "--rate", str(RATE)) as command:
            revived = _revived(scene)
            scene.until(lambda revived=revived: _revived(scene) >= revived + RATE, "some run again")  # type: ignore[misc]
            assert command.returncode is None, command.tail()
            scene.cuts += 1
            command.kill()
    assert 0 < scene.node.counts()[dead][0] < count, "there was nothing left to interrupt"
    with _requeue(scene) as command:
        assert command.wait(60) == 0, command.tail()
    scene.until(lambda: _revived(scene) == count, "every job has run again")


def _requeue(scene: Scene, *options: str) -> Process:
    env = variables({"broker_url": scene.node.url, "broker__prefix": scene.prefix})
    return Process([*REQUEUE, *options], env=env)


def _revived(scene: Scene) -> int:
    """How many jobs have run again, and well."""
    return len({arrival.key for arrival in scene.ledger.results if arrival.status == "ok"})
