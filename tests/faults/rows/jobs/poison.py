"""Rows with a page that kills whoever touches it, and with messages that the broker dies of.

May touch: the scene.
Must never: forgive an innocent job's death.
"""

from __future__ import annotations

import json
import secrets
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pika

from tests.faults.register import row
from tests.rig.brokers.amqp10 import publish as publish_amqp10
from tests.rig.brokers.amqp10 import ulong

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.scene import Scene


CRASH = b"rabbit_dead_letter"  # the function that RabbitMQ 3 crashes in
GIVEN_UP = b"reached_max_restart_intensity"
# Each stopped all retries of a RabbitMQ 3.10 node when it was dead-lettered at-least-once.
MALFORMED: list[list[Any]] = [["a", "b"], [["a"]]]
# The burst, in milliseconds until each expires. An election of a leader takes up to 0.6 s, what
# expires meanwhile is one crash, and three within five seconds are too many for RabbitMQ 3.
BURST = range(4000, 7600, 300)


@row(9, "poison-x-death", nodes=1, may="broker_lost broker_unreachable")
def poison_x_death(scene: Scene) -> None:
    """Messages with a malformed x-death expire in the jobs queue: retries go on, also restarted."""
    _waiting(scene)
    _poison(scene, MALFORMED)
    before = len(scene.daemon.lines)
    scene.heal()
    scene.site.release()
    scene.load(scene.many(500, 60), "/flaky/1/{n}")
    scene.quiet()
    with scene.broker_away():
        scene.node.stop_app()
        scene.daemon.wait_for_line("broker_lost", start=before)
        scene.node.start_app()
    scene.load(scene.many(500, 60), "/flaky/1/{n}")
    scene.quiet()
    assert scene.node.version < (4, 0) or _told(scene), "a job that expired has no result"


@row(
    9,
    "poison-x-death-burst",
    nodes=1,
    may="broker_lost broker_unreachable publish_refused consumer_starved",  # the queue is given up
)
def poison_x_death_burst(scene: Scene) -> None:
    """So many that RabbitMQ 3 gives the jobs queue up: restarted, it has lost no other job."""
    half = scene.many(500, 60)
    _waiting(scene)
    log = scene.node.log.stat().st_size
    for number, expires in enumerate(BURST):
        _publish(scene, f"poison-{number}", ["a"], expires=expires)
    scene.load(half, "/flaky/1/{n}")  # behind them
    scene.accepted()
    last = _clock(scene) + BURST[-1]  # all came before what is accepted by now
    scene.until(partial(_over, scene, log, GIVEN_UP), "the end of all of them")
    # Those that are not yet due at the restart would be the next burst, and end the queue again.
    scene.until(lambda: _clock(scene) > last, "the last of them is due")
    with scene.broker_away():
        scene.node.stop_app()
        scene.node.start_app()
    scene.site.release()
    scene.load(half, "/flaky/1/{n}")
    scene.quiet()


def _waiting(scene: Scene) -> None:
    """The daemon has all it may hold, so that what is published now waits in the jobs queue."""
    count = scene.many(100, 20)
    scene.start(concurrency=count)
    scene.node.settle()
    scene.load(count * 2, "/hold/{n}")
    scene.hits(count)
    scene.accepted()
    scene.until(lambda: scene.node.counts()[f"{scene.prefix}.jobs"][0] == 0, "all are held")


def _poison(scene: Scene, deaths: list[list[Any]]) -> None:
    """Let one after the other expire: RabbitMQ 3 crashes over it, any later one gives it to us."""
    for number, death in enumerate(deaths):
        log = scene.node.log.stat().st_size
        _publish(scene, f"poison-{number}", death, expires=1)
        scene.until(partial(_over, scene, log, CRASH), f"the end of poison-{number}")


def _publish(scene: Scene, ident: str, death: list[Any], *, expires: int) -> None:
    """Publish such a job; not confirmed, as the queue's process may end before it can do that."""
    scene.ledger.waive(ident)
    body = json.dumps({"url": scene.site.url("/page/1"), "id": ident}).encode()
    properties = pika.BasicProperties(
        delivery_mode=2, expiration=str(expires), headers={"x-death": death}
    )
    scene.cuts += 1
    with scene.channel() as channel:
        channel.basic_publish("", f"{scene.prefix}.jobs", body, properties)


def _over(scene: Scene, since: int, said: bytes) -> bool:
    """Whether each has its result, or the broker has logged this from there on."""
    with scene.node.log.open("rb") as log:
        log.seek(since)
        return _told(scene) or said in log.read()


def _clock(scene: Scene) -> int:
    """What the broker's clock says, by which its messages expire, in milliseconds."""
    return int(scene.node.eval("erlang:system_time(millisecond)"))


def _told(scene: Scene) -> bool:
    """Whether each has its result."""
    return all(scene.ledger.waived.values())


@row(
    9,
    "undeliverable",
    nodes=1,
    off=True,
    may="broker_lost broker_unreachable undeliverable",  # RabbitMQ 4 delivers them
)
def undeliverable(scene: Scene) -> None:
    """Messages that RabbitMQ 3 fails to deliver: they are set aside, and nobody else is dead."""
    scene.node.plugins = ("rabbitmq_amqp1_0",)
    scene.node.start()
    scene.collector.leave("dead")  # it would fail over them too
    scene.start(concurrency=scene.many(100, 20))
    scene.node.settle()
    part = scene.many(300, 50)
    evil = scene.many(6, 2)
    scene.load(part, "/hold/{n}")
    scene.accepted()
    for number in range(evil):
        ident = f"evil-{number}"
        scene.ledger.waive(ident)
        body = json.dumps({"url": scene.site.url("/page/1"), "id": ident}).encode()
        publish_amqp10(scene.node.port, f"{scene.prefix}.jobs", body, message_id=ulong(number))
        scene.load(part)
        scene.accepted()
    scene.cuts += 4 * evil
    scene.site.release()
    scene.quiet()
    scene.heal()
    fails = scene.node.version < (4, 0)
    dead = f"{scene.prefix}.dead"
    if fails:
        scene.until(lambda: scene.node.counts()[dead][0] == evil, "they are set aside", 120)
    assert scene.node.counts()[dead][0] == evil * fails, "an innocent job is dead"
    assert ("undeliverable" in {line["event"] for line in scene.daemon.logged()}) == fails
    with scene.channel() as channel:
        channel.queue_purge(dead)
    scene.load(part)


@row(9, "poison")
def poison(scene: Scene) -> None:
    """One job kills the daemon each time: it ends dead, and every innocent job has its result."""
    half = scene.many(1000, 50)
    scene.hooks = {"FAULT_POISON": "1"}
    scene.start(concurrency=scene.many(100, 20))
    scene.load(half)
    scene.job("/poison/1", "poison", status="failed", dead=1)
    scene.load(half)
    restarted_until(scene, "poison")


@row(9, "poison-unsigned", says="signature_invalid")
def poison_without_belief(scene: Scene) -> None:
    """The same, but no daemon has the key of the one before: the queues tell it all."""
    half = scene.many(200, 50)
    scene.hooks = {"FAULT_POISON": "1"}
    with tempfile.TemporaryDirectory(prefix="keys-") as folder:

        def another_key(number: int) -> dict[str, Any]:
            path = Path(folder) / str(number)
            path.write_text(secrets.token_hex(32))
            return {"jobs__signing_key_file": str(path)}

        scene.start(concurrency=20, **another_key(0))
        scene.load(half)
        scene.job("/poison/1", "poison", status="failed", dead=1)
        scene.load(half)
        restarted_until(scene, "poison", another_key)


def restarted_until(
    scene: Scene, key: str, settings: Callable[[int], dict[str, Any]] = lambda _: {}
) -> None:
    """Start the daemon each time it dies, as systemd would, until this job has its outcome.

    With other settings each time, if they are given for the number of its death. A kill between a
    confirm and its ack leaves a second copy of the job, which kills the daemon again.
    """

    def over() -> bool:
        return key in scene.ledger.came and not scene.has_jobs()

    def ended() -> bool:
        return scene.daemon.returncode is not None or over()

    deaths = 0
    while scene.daemon.returncode is not None or not over():
        scene.until(ended, f"the daemon's death or an outcome of {key}")
        if scene.daemon.returncode is not None:
            assert scene.daemon.returncode == -9, scene.daemon.tail()
            scene.daemon.expected = -9
            scene.cuts += 1
            deaths += 1
            assert deaths < 30, "the poison does not come to its end"
            scene.heal()
            scene.start(ready=False, **settings(deaths))  # it may die before it can say so
