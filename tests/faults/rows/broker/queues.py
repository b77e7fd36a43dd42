"""Rows in which someone lays hands on our queues: deleted, full, unbound.

May touch: the scene; queues, bindings and policies under the row's own prefix.
Must never: delete a queue that holds what the bench has counted as accepted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.faults.register import row
from tests.rig.brokers.users import User

if TYPE_CHECKING:
    from tests.faults.scene import Scene


@row(7, "jobs-queue-deleted", says="broker_lost")
def jobs_queue_deleted(scene: Scene) -> None:
    """The jobs queue is deleted, again and again: it is declared anew and consumed from."""
    scene.start()
    for _ in range(scene.many(5, 1)):
        scene.load(scene.many(200, 50))
        scene.quiet()
        lines = len(scene.daemon.lines)
        with scene.channel() as channel:
            channel.queue_delete(f"{scene.prefix}.jobs")
        scene.heal()
        scene.daemon.wait_for_line("broker_lost", start=lines)
        scene.daemon.wait_for_line('"event":"ready"', start=lines)
    scene.load(scene.many(500, 100))


@row(7, "results-queue-deleted", says="publish_refused")
def results_queue_deleted(scene: Scene) -> None:
    """The results queue is deleted while pages are under way: declared anew, no duplicates."""
    count = scene.many(500, 100)
    scene.start(concurrency=count)
    scene.load(count, "/hold/{n}")
    scene.hits(count)
    with scene.channel() as channel:
        channel.queue_delete(f"{scene.prefix}.results")
    scene.heal()
    scene.site.release()


@row(7, "delay-queue-deleted", says="publish_refused")
def delay_queue_deleted(scene: Scene) -> None:
    """The shortest delay queue is deleted, then retries want it: declared anew."""
    scene.start()
    with scene.channel() as channel:
        channel.queue_delete(f"{scene.prefix}.delay.1")
    scene.heal()
    scene.load(scene.many(500, 100), "/flaky/1/{n}")


@row(7, "results-full", says="publish_refused")
def results_full(scene: Scene) -> None:
    """The results queue is full and nobody reads it: jobs are kept, until somebody does."""
    _filled(scene)
    scene.heal()
    scene.collector.resume()
    scene.quiet()
    lift_limit(scene)


@row(7, "results-limit-lifted", says="publish_refused")
def results_limit_lifted(scene: Scene) -> None:
    """The results queue was full, its limit is taken away, and then it is read: all flows again."""
    _filled(scene)
    lift_limit(scene)
    scene.heal()
    scene.collector.resume()


def _filled(scene: Scene) -> None:
    """The results queue rejects, and all jobs are in the broker or in the daemon."""
    scene.start()
    scene.collector.pause()
    limit_results(scene, scene.many(100, 50))
    scene.load(scene.many(500, 100))
    scene.daemon.wait_for_line('"problem":"rejected"')
    scene.accepted()


@row(7, "results-unbound", says="publish_refused")
def results_unbound(scene: Scene) -> None:
    """The results queue is unbound from its exchange, again and again: bound anew."""
    scene.start()
    for _ in range(scene.many(5, 1)):
        scene.load(scene.many(1000, 300))
        scene.more(20)
        lines = len(scene.daemon.lines)
        unbind_results(scene)
        scene.heal()
        scene.daemon.wait_for_line('"problem":"unroutable"', start=lines)


@row(7, "results-forbidden", says="publish_refused")
def results_forbidden(scene: Scene) -> None:
    """The daemon's user may not write to the results exchange: no job is blamed for that."""
    scene.start()  # as a user who may, it declares all
    scene.daemon.ended()
    user = User.add(scene.node, scene.prefix)
    user.permit(write=rf"^(?!{scene.prefix}\.results$)")
    count = scene.many(500, 100)
    scene.start(through=[user.url], broker__passive_declare=True, concurrency=count // 10)
    scene.load(count)
    scene.daemon.wait_for_line('"problem":"forbidden"')
    scene.accepted()
    scene.daemon.says("refused by the broker")
    scene.lasts(scene.many(20, 3))  # the broker is asked again and again
    assert not scene.ledger.came, "a job has an outcome that could not be published"
    user.permit()
    scene.heal()
    scene.quiet()
    assert not any("strikes" in line for line in scene.daemon.logged())
    scene.finish()
    user.delete()


def limit_results(scene: Scene, most: int) -> None:
    """From now on the results queue holds as many, and rejects the others."""
    name = rf"^{scene.prefix}\.results$"
    scene.node.policy(scene.prefix, name, max_length=most)


def lift_limit(scene: Scene) -> None:
    """It may hold any number again."""
    scene.node.clear_policy(scene.prefix)


def unbind_results(scene: Scene) -> None:
    """The results exchange has nowhere to route to."""
    name = f"{scene.prefix}.results"
    with scene.channel() as channel:
        channel.queue_unbind(name, name, "#")
