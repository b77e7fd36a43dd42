"""Rows in which the daemon is told to end: under load, twice, with a hung site, with no broker.

May touch: the scene.
Must never: sleep for luck.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.faults.register import row

if TYPE_CHECKING:
    from tests.faults.scene import Scene

DRAINS = '"event":"drain"'


@row(2, "sigterm-under-load")
def sigterm_under_load(scene: Scene) -> None:
    """SIGTERM under load, then a successor: what was begun is finished, and nothing comes twice."""
    scene.start()
    scene.load(scene.many(5000, 600))
    for _ in range(scene.many(5, 1)):
        scene.more(100)
        scene.daemon.ended()
        scene.heal()
        scene.start()


@row(2, "second-sigterm", says="second_signal")
def second_sigterm(scene: Scene) -> None:
    """A second SIGTERM ends it at once, with 143, though pages hang; a successor has them all."""
    scene.start()
    count = scene.many(500, 100)
    scene.load(count, "/hold/{n}")
    scene.hits(50)
    scene.daemon.terminate()
    scene.daemon.wait_for_line(DRAINS)
    scene.cuts += 1
    scene.daemon.ended(143, timeout=5)
    scene.site.release()
    scene.heal()
    scene.start()


@row(2, "sigterm-hung-site", says="drain_timeout")
def sigterm_hung_site(scene: Scene) -> None:
    """SIGTERM while every page hangs: it ends with 0 once shutdown_timeout (1 s) has passed."""
    scene.start(jobs__shutdown_timeout=1)
    scene.load(scene.many(500, 100), "/hold/{n}")
    scene.hits(50)
    scene.daemon.ended(timeout=15)
    scene.site.release()
    scene.heal()
    scene.start()


@row(2, "sigterm-broker-away", nodes=1, says="broker_lost", may="broker_unreachable")
def sigterm_broker_away(scene: Scene) -> None:
    """SIGTERM after the broker was killed: it ends with 0 within 15 s, and nothing is lost."""
    scene.start()
    scene.node.settle()
    scene.load(scene.many(2000, 1000))
    scene.more(100)
    with scene.broker_away():
        scene.node.kill()
        scene.daemon.wait_for_line("broker_lost")
        scene.daemon.ended(timeout=15)
        scene.node.start()
    scene.start()
