"""The faults of the soak: each does its harm, sees that it was felt, and mends it.

May touch: the scene, its broker, the pipe to it.
Must never: kill the first daemon, whose memory is watched; return while the fault lasts.
"""

from __future__ import annotations

import contextlib
import signal
import time
from typing import TYPE_CHECKING

from tests.faults.rows.broker.brokers import CLOSE_ALL
from tests.faults.rows.broker.consumers import FORGET
from tests.faults.rows.broker.network import NARROW
from tests.faults.rows.broker.queues import lift_limit, limit_results, unbind_results
from tests.faults.rows.daemon.machine import no_descriptors
from tests.faults.rows.jobs.poison import restarted_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.faults.process import Daemon
    from tests.faults.scene import Scene
    from tests.rig.pipe import Pipe

    Fault = Callable[[Scene, Pipe], None]

LOST, READY = "broker_lost", '"event":"ready"'
PREFETCHES = 2  # what a cut of the broker brings back: a prefetch of each daemon


def watched(scene: Scene) -> Daemon:
    """The daemon that lives from the first minute to the last; `scene.daemon` is the other."""
    return scene.daemons[0]


def daemon_killed(scene: Scene, _: Pipe) -> None:
    """Kill -9 of the other daemon."""
    scene.kill()
    scene.start()


def daemon_restarted(scene: Scene, _: Pipe) -> None:
    """SIGTERM of the other daemon, and a successor."""
    scene.daemon.ended()
    scene.start()


def daemon_frozen(scene: Scene, _: Pipe) -> None:
    """The machine of the watched daemon sleeps, for longer than its broker waits."""
    daemon, lines = watched(scene), len(watched(scene).lines)
    scene.cuts += 1
    before = _connections(scene)
    daemon.send_signal(signal.SIGSTOP)
    scene.until(lambda: _connections(scene) < before, "the broker gives it up", 60)
    daemon.send_signal(signal.SIGCONT)
    daemon.wait_for_line(READY, start=lines)


def broker_killed(scene: Scene, _: Pipe) -> None:
    """Kill -9 of the broker."""
    scene.node.settle()
    with _away(scene):
        scene.node.kill()
        scene.node.start()


def broker_stopped(scene: Scene, _: Pipe) -> None:
    """The broker is stopped and started."""
    with _away(scene):
        scene.node.stop_app()
        scene.node.start_app()


def broker_frozen(scene: Scene, _: Pipe) -> None:
    """The broker stops answering until that is noticed."""
    with _away(scene, scene.node.resume):
        scene.node.pause()


def connections_closed(scene: Scene, _: Pipe) -> None:
    """Somebody closes all connections."""
    with _away(scene):
        scene.node.eval(CLOSE_ALL)


def network_reset(scene: Scene, pipe: Pipe) -> None:
    """Both daemons' connections are reset."""
    with _away(scene):
        pipe.reset()


def network_silent(scene: Scene, pipe: Pipe) -> None:
    """Nothing passes between the daemons and the broker, until that is noticed."""
    with _away(scene, pipe.heal):
        pipe.silence()


def network_narrow(scene: Scene, pipe: Pipe) -> None:
    """64 kbit/s for ten seconds."""
    pipe.throttle(NARROW)
    scene.lasts(10)
    pipe.heal()


def memory_alarm(scene: Scene, _: Pipe) -> None:
    """The broker's memory alarm, for five seconds."""
    _blocked(scene, scene.node.alarm_memory)


def disk_alarm(scene: Scene, _: Pipe) -> None:
    """The broker's disk alarm, for five seconds."""
    _blocked(scene, scene.node.alarm_disk)


def results_full(scene: Scene, _: Pipe) -> None:
    """Nobody reads results until their queue is full."""
    daemons = (watched(scene), scene.daemon)
    starts = [len(daemon.lines) for daemon in daemons]
    scene.collector.pause()
    limit_results(scene, 20)
    scene.until(lambda: _refused(daemons, starts), "a publish is rejected")
    scene.collector.resume()
    lift_limit(scene)


def results_unbound(scene: Scene, _: Pipe) -> None:
    """The results queue is unbound from its exchange."""
    unbind_results(scene)


def consumers_forgotten(scene: Scene, _: Pipe) -> None:
    """The jobs queue forgets its consumers, and does not say so."""
    scene.cuts += PREFETCHES
    scene.node.eval(FORGET.format(queue=f"{scene.prefix}.jobs"))
    both_consume(scene)  # noticed, or made anew because one of them ran a job alone meanwhile


def descriptors_exhausted(scene: Scene, _: Pipe) -> None:
    """The watched daemon may open no more files for five seconds, while much is to be done."""
    with no_descriptors(watched(scene).pid):
        scene.load(500)
        scene.lasts(5)


def queues_deleted(scene: Scene, _: Pipe) -> None:
    """The queues of jobs, results and the shortest delay are deleted. All must have been done."""
    with _away(scene), scene.channel() as channel:
        for name in ("jobs", "results", "delay.1"):
            channel.queue_delete(f"{scene.prefix}.{name}")


def poison(scene: Scene, _: Pipe) -> None:
    """A job that kills the other daemon whenever that gets it; the watched one can do it."""
    ident = f"poison-{time.monotonic_ns()}"
    scene.job(f"/poison/{ident}", ident, status="", dead=None)
    restarted_until(scene, ident)
    scene.ready()


@contextlib.contextmanager
def _away(scene: Scene, mend: Callable[[], None] | None = None) -> Iterator[None]:
    """Both daemons lose the broker in this, and have it again after it, once it is mended.

    They are asked, because a broker that was frozen or cut off counts consumers that are gone.
    """
    daemons = (watched(scene), scene.daemon)
    starts = [len(daemon.lines) for daemon in daemons]
    scene.cuts += PREFETCHES
    yield
    for daemon, start in zip(daemons, starts, strict=True):
        daemon.wait_for_line(LOST, start=start, timeout=60)
    if mend is not None:
        mend()
    for daemon, start in zip(daemons, starts, strict=True):
        daemon.wait_for_line(READY, start=start, timeout=60)


def _blocked(scene: Scene, alarm: Callable[[], None]) -> None:
    """The daemons only hear of it if they have something to publish; the dispatcher has."""
    alarm()
    scene.lasts(5)
    scene.node.clear_alarms()


def both_consume(scene: Scene) -> None:
    """Wait until neither is held back by a fault that is just over, nor runs a job alone."""
    queue, daemons = f"{scene.prefix}.jobs", (watched(scene), scene.daemon)

    def they_do() -> bool:
        # The broker counts a consumer a moment before its daemon is ready; one that is cut off in
        # between never had the broker, and will not say that it lost it.
        return scene.node.counts()[queue][2] == 2 and all(map(_connected, daemons))

    scene.until(they_do, "both consume", 120)


def _connected(daemon: Daemon) -> bool:
    """By the last word of its log on it."""
    texts = (line.text for line in reversed(daemon.lines))
    return READY in next(text for text in texts if READY in text or LOST in text)


def _refused(daemons: Sequence[Daemon], starts: Sequence[int]) -> bool:
    said = (line.text for d, start in zip(daemons, starts, strict=True) for line in d.lines[start:])
    return any('"problem":"rejected"' in text for text in said)


def _connections(scene: Scene) -> int:
    return int(scene.node.eval("integer_to_binary(length(rabbit_networking:connections()))"))


FAULTS: tuple[Fault, ...] = (
    *(daemon_killed, daemon_restarted, daemon_frozen),
    *(broker_killed, broker_stopped, broker_frozen, connections_closed),
    *(network_reset, network_silent, network_narrow),
    *(memory_alarm, disk_alarm),
    *(results_full, results_unbound, queues_deleted),
    *(consumers_forgotten, descriptors_exhausted, poison),
)
CALM = frozenset({queues_deleted})  # they would destroy what is under way
