"""Rows of a bad network between the daemon and its broker; the dispatcher has a good one.

May touch: the scene, and a pipe of its own.
Must never: throttle loopback itself.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tests.faults.register import row
from tests.rig.brokers.balancer import Balancer
from tests.rig.pipe import Pipe

if TYPE_CHECKING:
    from tests.faults.scene import Scene

NARROW = 64_000 / 8  # bytes a second


@row(5, "network-silent", says="broker_lost", may="broker_unreachable")
def network_silent(scene: Scene) -> None:
    """Nothing passes any more, and nobody closes the connection; later it does again."""
    with Pipe(scene.node.port) as pipe:
        _under_load(scene, pipe, broker__heartbeat=scene.many(10, 1))
        with scene.broker_away():
            pipe.silence()
            scene.daemon.wait_for_line("broker_lost", timeout=60)
            pipe.heal()
        scene.finish()


@row(5, "network-reset", says="broker_lost", may="broker_unreachable")
def network_reset(scene: Scene) -> None:
    """Connections are reset, again and again."""
    with Pipe(scene.node.port) as pipe:
        _under_load(scene, pipe)
        for _ in range(scene.many(10, 2)):
            lines = len(scene.daemon.lines)
            scene.cuts += 1
            pipe.reset()
            scene.heal()
            scene.daemon.wait_for_line('"event":"ready"', start=lines)
            scene.more(50)
        scene.finish()


@row(5, "network-64-kbit")
def network_narrow(scene: Scene) -> None:
    """As slow as a modem for a while: nothing is cut, and nothing comes twice."""
    with Pipe(scene.node.port) as pipe:
        scene.duplicates = 0
        _under_load(scene, pipe)
        scene.load(1, "/size/100000/{n}")  # alone it takes half the confirm_timeout
        pipe.throttle(NARROW)
        scene.lasts(scene.many(60, 3))
        pipe.heal()
        scene.heal()
        scene.finish()


@row(5, "balancer-without-broker", says="broker_lost", may="broker_unreachable")
def balancer_without_broker(scene: Scene) -> None:
    """HAProxy in front of the broker has no broker, again and again: it accepts, and closes."""
    with (
        TemporaryDirectory() as folder,
        Balancer(scene.node.port, Path(folder)) as balancer,
    ):
        balancer.enable()
        _under_load(scene, balancer, broker__reconnect_min=0.2, broker__reconnect_max=1)
        for _ in range(scene.many(5, 2)):
            lines = len(scene.daemon.lines)
            with scene.broker_away():
                balancer.disable()
                scene.daemon.wait_for_line("broker_lost", start=lines)
                scene.lasts(scene.many(3, 1))  # so long it dials, and is cut off
                balancer.enable()
            scene.daemon.wait_for_line('"event":"ready"', start=lines)
            scene.more(50)
        scene.finish()


def _under_load(scene: Scene, way: Pipe | Balancer, **settings: Any) -> None:
    scene.start(through=[way.url], **settings)
    scene.load(scene.many(3000, 800))
    scene.more(100)
