"""Rows on a cluster of three brokers, with a member of each queue on all of them.

May touch: the scene and its own cluster.
Must never: take a second broker away before the first is back: without a majority nothing flows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.faults.register import row

if TYPE_CHECKING:
    from tests.faults.scene import Scene
    from tests.rig.brokers.node import Node

MAY = "broker_lost broker_unreachable publish_refused"


@row(4, "cluster-leader-killed", nodes=3, cluster=True, may=MAY)
def leader_killed(scene: Scene) -> None:
    """Kill -9 of the broker that leads the jobs queue, while the daemon is connected to another."""
    leader, _ = _under_load(scene, connected_to_leader=False)
    for _ in range(scene.many(3, 1)):
        _killed_and_back(scene, leader)
        leader = scene.cluster.leader(f"{scene.prefix}.jobs")


@row(4, "cluster-connected-killed", nodes=3, cluster=True, says="broker_lost", may=MAY)
def connected_killed(scene: Scene) -> None:
    """Kill -9 of the broker that the daemon is connected to: it goes on with the next."""
    _, connected = _under_load(scene, connected_to_leader=False)
    _killed_and_back(scene, connected)


@row(4, "cluster-both-killed", nodes=3, cluster=True, says="broker_lost", may=MAY)
def both_killed(scene: Scene) -> None:
    """Kill -9 of a broker that is both."""
    leader, _ = _under_load(scene, connected_to_leader=True)
    _killed_and_back(scene, leader)


@row(4, "cluster-rolling-restart", nodes=3, cluster=True, says="broker_lost", may=MAY)
def rolling_restart(scene: Scene) -> None:
    """All three brokers are restarted, one after the other, as an upgrade would."""
    _under_load(scene, connected_to_leader=True)
    for node in scene.nodes:
        scene.cuts += 1
        node.stop()
        scene.more(50)
        node.start()
        scene.cluster.wait_healthy()
        scene.heal()
        scene.load(scene.many(500, 100))
        scene.more(50)


def _under_load(scene: Scene, *, connected_to_leader: bool) -> tuple[Node, Node]:
    """The leader of the jobs queue and the broker that the daemon is connected to."""
    scene.start()
    scene.cluster.settle()
    leader = scene.cluster.leader(f"{scene.prefix}.jobs")
    others = [node for node in scene.nodes if node is not leader]
    order = [leader, *others] if connected_to_leader else [*others, leader]
    scene.daemon.ended()
    scene.start(through=[node.url for node in order])
    scene.load(scene.many(2000, 300))
    scene.more(50)
    return leader, order[0]


def _killed_and_back(scene: Scene, node: Node) -> None:
    scene.cuts += 2  # its consumer is cut, or is cancelled when its queue has a new leader
    node.kill()
    scene.heal()
    scene.more(100)
    scene.load(scene.many(1000, 100))
    node.start()
    scene.cluster.wait_healthy()
    scene.more(100)
