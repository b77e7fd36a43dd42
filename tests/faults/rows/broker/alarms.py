"""Rows in which the broker takes no publishes: its memory or its disk is short.

May touch: the scene and its own broker.
Must never: raise an alarm on a broker that other rows use.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pika

from tests.faults.ledger import Letter
from tests.faults.register import row

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.scene import Scene

DUE = 10  # seconds: a tier of delay, long enough to raise an alarm in


@row(6, "memory-alarm", nodes=1, says="broker_blocked broker_unblocked")
def memory_alarm(scene: Scene) -> None:
    """Memory alarm: results wait, nothing more is consumed, the status says since when."""
    _blocked(scene, scene.node.alarm_memory)


@row(6, "disk-alarm", nodes=1, says="broker_blocked broker_unblocked")
def disk_alarm(scene: Scene) -> None:
    """Disk alarm: the same."""
    _blocked(scene, scene.node.alarm_disk)


def _blocked(scene: Scene, alarm: Callable[[], None]) -> None:
    """What was under way waits for its confirm; no page is fetched for which no result can go.

    Under an alarm nobody can publish. Jobs that are due then come out of a delay queue.
    """
    at_once, due, jobs = scene.many(50, 10), scene.many(500, 50), f"{scene.prefix}.jobs"
    scene.duplicates = 0
    scene.start(concurrency=at_once, broker__confirm_timeout=2)
    scene.load(at_once, "/hold/{n}")
    scene.hits(at_once)
    _delayed(scene, due)
    alarm()
    scene.site.release()
    scene.daemon.wait_for_line("broker_blocked")
    scene.daemon.says("blocked by the broker since 20")
    scene.until(lambda: scene.node.counts()[jobs][0] == due, "all that is due is ready")
    for _ in range(scene.many(20, 3)):  # beats of its watchdog: alive, and consuming nothing
        scene.daemon.says("blocked by the broker since 20")
    ready, unacked, _ = scene.node.counts()[jobs]
    assert (ready, unacked) == (due, at_once), f"it went on consuming: {ready}, {unacked} unacked"
    states = [state for state, _ in scene.node.connections(f":{scene.daemon.pid}")]
    assert states.count("blocked") == 1 < len(states), f"acks don't flow: connections are {states}"
    scene.node.clear_alarms()
    scene.heal()
    scene.daemon.wait_for_line("broker_unblocked")


def _delayed(scene: Scene, count: int) -> None:
    """Jobs that reach the jobs queue in some seconds, of themselves; there is room for them all."""
    with scene.channel() as channel:
        channel.confirm_delivery()
        for n in range(count):
            body = json.dumps({"url": scene.site.url(f"/page/due-{n}"), "id": f"due-{n}"}).encode()
            scene.ledger.post(letter := Letter(f"due-{n}", body))
            properties = pika.BasicProperties(delivery_mode=2)
            channel.basic_publish("", f"{scene.prefix}.delay.{DUE}", body, properties)
            scene.ledger.accept(letter)
