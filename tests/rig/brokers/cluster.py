"""A private RabbitMQ cluster: nodes on loopback with one epmd and one cookie, joined by itself.

May touch: the folder it is given, free ports on 127.0.0.1, its own child processes.
Must never: sleep for luck where a node can be asked, or touch a node it did not start.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Self

from tests.rig.brokers.erlang import Epmd, NodeError
from tests.rig.brokers.node import Node

if TYPE_CHECKING:
    from pathlib import Path

# A line for each thing that is not as it should be. Each member of each quorum queue is asked
# itself, and all have to name the same leader.
_FAULTS = """
Running = [Node || Node <- [node() | nodes()], rabbit:is_running(Node)],
Leader = fun(Queue, Node, Size) ->
    case catch ra:members({{Queue, Node}}, 1000) of
        {{ok, Members, {{_, Leads}}}} when length(Members) =:= Size -> Leads;
        Else -> {{Node, Else}}
    end end,
iolist_to_binary([
    [io_lib:format("~b of {size} nodes run~n", [length(Running)]) || length(Running) =/= {size}],
    [io_lib:format("~0tp: ~0tp~n", [Queue, Leaders])
        || Q <- rabbit_amqqueue:list(), amqqueue:get_type(Q) =:= rabbit_quorum_queue,
           {{Queue, _}} <- [amqqueue:get_pid(Q)],
           In <- [maps:get(nodes, amqqueue:get_type_state(Q))],
           Leaders <- [lists:usort([Leader(Queue, Node, length(In)) || Node <- In])],
           length(Leaders) =/= 1 orelse not is_atom(hd(Leaders))]])"""

_LEADER = """
{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{queue}"/utf8>>)),
{{Name, _}} = amqqueue:get_pid(Q),
hd([Node || Asked <- [node() | nodes()],
            {{ok, _, {{_, Node}}}} <- [catch ra:members({{Name, Asked}}, 1000)],
            rabbit:is_running(Node)])"""


class Cluster:
    """`size` nodes that each quorum queue is spread over, under `directory`; `release` as of Node.

    The nodes are killed, stopped and started one by one like any Node, and come back as members.
    If all of them were down use `start` of the cluster: a node waits for those that ended later.
    """

    def __init__(
        self,
        directory: Path,
        size: int = 3,
        release: str = "",
        conf: dict[str, str] | None = None,
    ) -> None:
        self.directory = directory.resolve()
        self._epmd = Epmd()
        names = [f"rabbit{number}@localhost" for number in range(size)]
        peers = {
            f"cluster_formation.classic_config.nodes.{number}": name
            for number, name in enumerate(names, 1)
        }
        self.nodes = [
            Node(
                self.directory / name.partition("@")[0],
                conf={**peers, **(conf or {})},
                release=release,
                name=name,
                epmd=self._epmd,
            )
            for name in names
        ]
        if self.nodes[0].release == "3":  # its first node tries ten times to join the others
            for node in self.nodes:
                node.conf.setdefault("cluster_formation.discovery_retry_interval", "50")

    @property
    def urls(self) -> list[str]:
        """The URL of each node, running or not."""
        return [node.url for node in self.nodes]

    @property
    def running(self) -> list[Node]:
        return [node for node in self.nodes if node.running]

    def start(self) -> Self:
        """Start every node that does not run, at the same time, and wait until all is healthy."""
        self._share_cookie()
        try:
            for node in self.nodes:
                if not node.running:
                    node.launch()
            for node in self.nodes:
                node.wait_started()
            self.wait_healthy()
        except BaseException:  # nothing may be left behind
            self.close()
            raise
        return self

    def stop(self) -> None:
        """End every node the graceful way, the first one last."""
        for node in reversed(self.nodes):
            node.stop()
        self._epmd.stop()

    def close(self) -> None:
        """End everything at once; for when the data does not matter any more."""
        for node in self.nodes:
            node.close()
        self._epmd.stop()

    def leader(self, queue: str, timeout: float = 20) -> Node:
        """Return the node that leads a quorum queue now; waits while there is an election."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                name = self._any().eval(_LEADER.format(queue=queue))
            except NodeError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return next(node for node in self.nodes if node.name == name)

    def settle(self) -> None:
        """Settle each running node (see Node.settle)."""
        for node in self.running:
            node.settle()

    def wait_healthy(self, timeout: float = 60) -> None:
        """Wait until all nodes run and all members of each quorum queue name the same leader.

        Raises NodeError with what is missing.
        """
        deadline = time.monotonic() + timeout
        while faults := self._faults():
            if time.monotonic() > deadline:
                raise NodeError(f"the cluster is not healthy after {timeout:g} s:\n{faults}")
            time.sleep(0.05)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _faults(self) -> str:
        try:
            return self._any().eval(_FAULTS.format(size=len(self.nodes)), timeout=60)
        except NodeError as error:  # such as a node that starts and cannot be asked yet
            return str(error)

    def _any(self) -> Node:
        if not self.running:
            raise NodeError("no node of the cluster runs")
        return self.running[0]

    def _share_cookie(self) -> None:
        """Give every node the same cookie; Erlang refuses one that others could read."""
        cookie = secrets.token_hex(20)
        for node in self.nodes:
            file = node.directory / ".erlang.cookie"
            if file.exists():
                return
            file.parent.mkdir(parents=True)
            file.touch(0o600)
            file.write_text(cookie)
