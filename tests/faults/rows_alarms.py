"""Rows in which the broker takes no publishes: its memory or its disk is short.

May touch: the scene and its own broker.
Must never: raise an alarm on a broker that other rows use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.faults.rows import row

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.scene import Scene


@row(6, "memory-alarm", nodes=1, says="broker_blocked broker_unblocked")
def memory_alarm(scene: Scene) -> None:
    """Memory alarm: results wait, nothing more is consumed, the status says since when."""
    _blocked(scene, scene.node.alarm_memory)


@row(6, "disk-alarm", nodes=1, says="broker_blocked broker_unblocked")
def disk_alarm(scene: Scene) -> None:
    """Disk alarm: the same."""
    _blocked(scene, scene.node.alarm_disk)


def _blocked(scene: Scene, alarm: Callable[[], None]) -> None:
    """What was under way waits for its confirm; no page is fetched for which no result can go."""
    at_once = scene.many(50, 10)
    scene.duplicates = 0
    scene.start(concurrency=at_once, confirm_timeout=2)
    scene.load(scene.many(1000, 100), "/hold/{n}")
    scene.accepted()
    scene.hits(at_once)
    alarm()
    scene.site.release()
    scene.daemon.wait_for_line("broker_blocked")
    scene.daemon.says("blocked by the broker since 20")
    jobs = f"{scene.prefix}.jobs"
    waiting = scene.node.counts()[jobs][0]
    assert waiting, "there was nothing left that it could have consumed"
    for _ in range(scene.many(20, 2)):  # beats of its watchdog: alive, and consuming nothing
        scene.daemon.says("blocked by the broker since 20")
    assert scene.node.counts()[jobs][0] == waiting, "it went on consuming"
    scene.node.clear_alarms()
    scene.heal()
    scene.daemon.wait_for_line("broker_unblocked")
