"""Rows with a batch: who tallies is killed, the broker is killed, the results queue is full.

May touch: the scene.
Must never: forgive a second message that differs from the first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.faults.register import row

if TYPE_CHECKING:
    from tests.faults.process import Daemon
    from tests.faults.scene import Scene

TAKEN = '"event":"tally_taken"'


@row(19, "batch-tally-killed")
def batch_tally_killed(scene: Scene) -> None:
    """Kill -9 of the daemon that tallies, again and again: one message, each job counted once."""
    rounds, part = scene.many(10, 3), scene.many(300, 100)
    jobs = part * (rounds + 1)
    scene.start(concurrency=20, batches__enabled=True)
    scene.start()
    _load(scene, part, jobs)
    for _ in range(rounds):
        scene.more(part // 2)
        holder = _holder(scene)
        scene.cuts += 1
        holder.killed()
        scene.heal()
        _load(scene, part, jobs)
        scene.start()
    _ended(scene, jobs)
    for daemon in scene.daemons[:-1]:
        if daemon.returncode is None:
            daemon.ended()


@row(19, "batch-broker-kill9", nodes=1, says="broker_lost", may="broker_unreachable")
def batch_broker_kill9(scene: Scene) -> None:
    """The broker is killed (kill -9) in the middle of a batch: one message, and all are counted."""
    jobs = scene.many(2000, 400)
    scene.start(batches__enabled=True)
    scene.daemon.wait_for_line(TAKEN)
    scene.node.settle()
    _load(scene, jobs, jobs)
    scene.more(jobs // 4)
    with scene.broker_away():
        scene.node.kill()
        scene.daemon.wait_for_line("broker_lost")
        scene.node.start()
    _ended(scene, jobs)


def _load(scene: Scene, count: int, size: int) -> None:
    """Publish so many jobs of a batch."""
    scene.load(count, batch={"id": scene.prefix, "size": size})


def _holder(scene: Scene) -> Daemon:
    """Wait for the daemon that tallies."""
    found: list[Daemon] = []

    def known() -> bool:
        alive = [daemon for daemon in scene.daemons if daemon.returncode is None]
        found[:] = [it for it in alive if any(TAKEN in line.text for line in it.lines)]
        return bool(found)

    scene.until(known, "a daemon tallies")
    return found[-1]


def _ended(scene: Scene, jobs: int) -> None:
    """Wait for the message, and look at each copy of it."""
    scene.quiet()
    scene.ledger.wait(lambda ledger: bool(ledger.ends), "the message at the end of the batch")
    first, *copies = scene.ledger.ends
    assert all(copy == first for copy in copies), "messages of one batch differ"
    _, end = first
    batch = {"id": scene.prefix, "size": jobs}
    assert (end["event"], end["batch"]) == ("batch.done", batch), end
    assert (end["counted"], end["kinds"]) == (jobs, {"ok": jobs}), end
