"""Rows in which the broker stops, dies, freezes, is not there, or moves.

May touch: the scene and its own brokers.
Must never: sleep for luck.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.faults.register import row

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.scene import Scene

CLOSE_ALL = """
[rabbit_networking:close_connection(C, "the fault bench") || C <- rabbit_networking:connections()],
ok"""


@row(3, "broker-stop-app", nodes=1, says="broker_lost", may="broker_unreachable")
def broker_stop_app(scene: Scene) -> None:
    """The broker is stopped under load (rabbitmqctl stop_app), and started again."""
    _under_load(scene, jobs=scene.many(5000, 3000))  # rabbitmqctl takes its time
    _away_and_back(scene, scene.node.stop_app, scene.node.start_app)


@row(3, "broker-kill9", nodes=1, says="broker_lost", may="broker_unreachable")
def broker_kill9(scene: Scene) -> None:
    """The broker is killed under load (kill -9), and started again."""
    _under_load(scene)
    _away_and_back(scene, scene.node.kill, scene.node.start)


@row(3, "connections-closed", nodes=1, says="broker_lost", may="broker_unreachable")
def connections_closed(scene: Scene) -> None:
    """An operator closes every connection under load, again and again."""
    scene.start()
    scene.load(scene.many(8000, 2000))
    for _ in range(scene.many(20, 5)):
        scene.more(100)
        scene.cuts += 1
        lines = len(scene.daemon.lines)
        scene.node.eval(CLOSE_ALL)
        scene.heal()
        scene.daemon.wait_for_line("broker_lost", start=lines)
        scene.daemon.wait_for_line('"event":"ready"', start=lines)  # or the next finds nothing


@row(3, "broker-frozen", nodes=1, says="broker_lost", may="broker_unreachable")
def broker_frozen(scene: Scene) -> None:
    """The broker stops answering under load (SIGSTOP) for a minute, and goes on."""
    _under_load(scene, broker__heartbeat=scene.many(10, 1))
    with scene.broker_away():
        scene.node.pause()
        scene.daemon.wait_for_line("broker_lost", timeout=60)
        scene.still_away(scene.many(60, 0))
        scene.node.resume()


@row(3, "broker-absent-at-start", nodes=1, off=True, says="broker_unreachable")
def broker_absent_at_start(scene: Scene) -> None:
    """There is no broker when the daemon starts; it works as soon as there is one."""
    with scene.broker_away():
        scene.start(ready=False)
        scene.daemon.wait_for_line("broker_unreachable")
        scene.node.start()
    scene.ready()
    scene.load(scene.many(500, 100))


@row(3, "broker-moves", nodes=2, says="broker_lost", may="broker_unreachable")
def broker_moves(scene: Scene) -> None:
    """The first of two brokers dies for good: jobs published to the second are worked on."""
    first, second = scene.nodes
    scene.start()
    scene.load(scene.many(500, 100))
    scene.quiet()
    scene.cuts += 1
    first.close()
    scene.daemon.wait_for_line("broker_lost")
    scene.heal()
    scene.load(scene.many(500, 100))
    scene.quiet()
    assert second.running


def _away_and_back(scene: Scene, go: Callable[[], object], come: Callable[[], object]) -> None:
    with scene.broker_away():
        go()
        scene.daemon.wait_for_line("broker_lost")
        come()


def _under_load(scene: Scene, jobs: int = 0, **settings: Any) -> None:
    """Some jobs are done, some are under way, and others are still being published."""
    scene.start(**settings)
    scene.node.settle()
    scene.load(jobs or scene.many(2000, 600))
    scene.more(100)
