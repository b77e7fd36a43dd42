"""Rows of jobs whose results are called back: to a receiver that fails, or takes its time.

May touch: the scene, receivers on loopback, a file of secrets.
Must never: let a receiver fail one callback twice, as its third attempt is minutes later.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults.register import row
from tests.rig.clients.receiver import OK, SECRET, Receiver

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.scene import Scene

NAME = "billing"
SENT = 40  # callbacks of a process that may come again: twice callbacks.concurrency
EACH = 3  # of so many callbacks one fails at first


class Moody:
    """Fails the first attempt of one in EACH callbacks, so that a few never fail in a row."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def __call__(self, ident: str) -> int:
        new = ident not in self._seen
        self._seen.add(ident)
        return 503 if new and len(self._seen) % EACH == 0 else 204


@contextmanager
def called_back(scene: Scene) -> Iterator[Receiver]:
    """A receiver that daemons of the scene know by NAME."""
    with tempfile.TemporaryDirectory() as folder, Receiver(Moody()) as receiver:
        secrets = Path(folder) / "secrets"
        secrets.write_text(SECRET)
        scene.settings |= {
            "callbacks__secrets_file": str(secrets),
            "callback_endpoints": {NAME: {"url": receiver.url}},
        }
        yield receiver
        scene.finish()  # its daemon ends while the receiver is there


def all_come(scene: Scene, receiver: Receiver) -> None:
    """Wait until each result was called back; all callbacks of a job have one `webhook-id`.

    None comes more often than kills and cuts explain.
    """
    scene.quiet()
    wanted = scene.ledger.came.keys()
    receiver.wait_for(lambda: wanted <= receiver.jobs, "all callbacks", timeout=180)
    idents = defaultdict[str, set[str]](set)
    for one in receiver.taken:
        idents[one.data["id"]].add(one.ident)
    assert idents.keys() == wanted, "a callback of a job that nobody published"
    several = {job: found for job, found in idents.items() if len(found) > 1}
    assert not several, f"jobs with more than one webhook-id: {several}"
    again = sum(one.status in OK for one in receiver.taken) - len(idents)
    most = scene.cuts * (SENT + 2 * int(scene.settings["concurrency"]))
    assert again <= most, f"{again} callbacks came again, more than {most}"


@row(18, "callbacks-killed", may="callback_failed")
def callbacks_killed(scene: Scene) -> None:
    """Kill -9 under load, also between a callback's confirm and the ack of its job, and after a
    receiver's answer; a third of the callbacks fails at first: each comes, with one webhook-id.
    """
    with called_back(scene) as receiver:
        for number in range(scene.many(6, 2)):
            worst = ("ack", "answered")[number % 2]
            scene.hooks = {"FAULT_KILL_AT": worst, "FAULT_AFTER": "30"}
            scene.start(concurrency=20)
            scene.load(scene.many(200, 60), callback=NAME)
            scene.daemon.expected = -9
            scene.until(lambda: scene.daemon.returncode is not None, "it kills itself")
            scene.cuts += 1
            scene.heal()
        scene.hooks = {}
        scene.start()
        scene.load(scene.many(200, 30), callback=NAME)
        for _ in range(scene.many(5, 1)):
            scene.more(20)
            scene.kill()
            scene.heal()
            scene.start()
        all_come(scene, receiver)


@row(
    18,
    "callbacks-broker-killed",
    nodes=1,
    says="broker_lost",
    may="broker_unreachable callback_failed callbacks_interrupted",
)
def callbacks_broker_killed(scene: Scene) -> None:
    """The broker is killed under load (kill -9), and started again: no callback is lost."""
    with called_back(scene) as receiver:
        scene.start(concurrency=20)
        scene.node.settle()
        scene.load(scene.many(2000, 300), callback=NAME)
        scene.more(100)
        with scene.broker_away():
            scene.node.kill()
            scene.daemon.wait_for_line("broker_lost")
            scene.node.start()
        all_come(scene, receiver)


@row(
    18,
    "callbacks-queues-deleted",
    says="publish_refused callbacks_interrupted",
    may="callback_failed",
)
def callbacks_queues_deleted(scene: Scene) -> None:
    """The queues that failed callbacks wait in are deleted, and later the queue of callbacks: all
    are declared anew, and nothing is sent twice.
    """
    with called_back(scene) as receiver:
        scene.start(concurrency=20)
        delete(scene, ".delay.1", ".delay.5", ".delay.30")
        scene.heal()
        scene.load(scene.many(300, 40), callback=NAME)
        all_come(scene, receiver)
        delete(scene, "")
        scene.daemon.wait_for_line("callbacks_interrupted")
        scene.heal()
        scene.load(scene.many(300, 40), callback=NAME)
        all_come(scene, receiver)


def delete(scene: Scene, *queues: str) -> None:
    """Delete queues of callbacks, in which there is nothing now."""
    with scene.channel() as channel:
        for queue in queues:
            channel.queue_delete(f"{scene.prefix}.callbacks{queue}")


@row(18, "callbacks-flood", may="callback_failed")
def callbacks_flood(scene: Scene) -> None:
    """A receiver takes four callbacks, and no more until all jobs are done: no job waits for it,
    or is run again. Then all callbacks come.
    """
    count = scene.many(500, 60)
    with called_back(scene) as receiver:
        receiver.held.clear()
        scene.start(concurrency=20, callbacks__timeout=120)
        scene.load(count, callback=NAME)
        scene.heal()
        scene.quiet()
        taken = len(receiver.taken)
        assert taken <= count / 10, f"the receiver took {taken} of {count} callbacks meanwhile"
        scene.until(lambda: not scene.has_jobs(), "all jobs are acked")
        scene.duplicates = 0
        receiver.held.set()
        all_come(scene, receiver)
