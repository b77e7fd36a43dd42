"""A private RabbitMQ node: real, on loopback, and gone without a trace when it is closed.

May touch: the folder it is given, free ports on 127.0.0.1, its own child processes.
Must never: read the machine's RabbitMQ configuration, touch a system broker or the user's home.
"""

from __future__ import annotations

import argparse
import fcntl
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Self

from tests.rig import ports, process
from tests.rig.brokers.erlang import START_DEADLINE, Epmd, Installation, NodeError
from tests.rig.debs import DebsError

_STOP_DEADLINE = 60.0
_CALLS = itertools.count()
_NAMES = 1000  # the node keeps each for ever (an atom)

_CONF = {
    "vm_memory_high_watermark.absolute": "2GB",
    "disk_free_limit.absolute": "50MB",
    "log.console.level": "info",
    "raft.wal_max_size_bytes": "67108864",  # the default keeps up to 512 MB of log a node
}

# Written to standard output as text, so that erl_call's own way to print terms does not matter.
_EVAL = """
try io:format("ok ~ts", [case begin {expression} end of
    Text when is_binary(Text) -> Text; Term -> io_lib:format("~0tp", [Term]) end])
catch Class:Reason:Stack -> io:format("no ~0tp", [{{Class, Reason, Stack}}]) end.
"""

# RabbitMQ does not use what these watch, and they are programs of their own.
_NO_WATCHERS = " ".join(f"-os_mon start_{what} false" for what in ("cpu_sup", "disksup", "memsup"))

# Asks the leader of each quorum queue: the node's own statistics are up to 5 s old. An exclusive
# queue may end between the list and the question.
_COUNTS = """
iolist_to_binary([try
    {resource, _, _, Name} = amqqueue:get_name(Q),
    Counts = case amqqueue:get_type(Q) of
        rabbit_quorum_queue ->
            Look = fun(State) ->
                {rabbit_fifo:overview(State), maps:size(rabbit_fifo:query_consumers(State))}
            end,
            {ok, {_, {O, Consumers}}, _} = ra:leader_query(amqqueue:get_pid(Q), Look),
            [maps:get(num_ready_messages, O), maps:get(num_checked_out, O), Consumers,
             maps:get(num_discarded, O) + maps:get(num_discard_checked_out, O)];
        _ ->
            Asked = [messages_ready, messages_unacknowledged, consumers],
            [Count || {_, Count} <- rabbit_amqqueue:info(Q, Asked)] ++ [0]
    end,
    io_lib:format("~b ~b ~b ~b ~ts~n", Counts ++ [Name])
catch
    exit:{Gone, _} when Gone =:= normal; Gone =:= noproc; Gone =:= shutdown -> []
end || Q <- rabbit_amqqueue:list()])"""

_CONNECTIONS = """
iolist_to_binary([begin
    [{_, Told}, {_, State}, {_, Channels}] =
        rabbit_reader:info(Pid, [client_properties, state, channels]),
    Unnamed = {<<"connection_name">>, longstr, ""},
    {_, _, Name} = lists:keyfind(<<"connection_name">>, 1, Told ++ [Unnamed]),
    io_lib:format("~s ~b ~ts~n", [State, Channels, Name])
end || Pid <- rabbit_networking:connections()])"""


class Node:
    """One RabbitMQ node with everything of it under `directory`.

    `release` "4" is RabbitMQ 4, on any Debian; "" is what this machine has, or its Debian.
    `name` and `epmd` are for nodes of a cluster, which share an epmd that is not theirs.

    It can be stopped, killed and started again with its data, on the same port. The kernel ends
    it when the thread that called `start` ends, so call that from the main thread.
    """

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None = None,
        conf: dict[str, str] | None = None,
        release: str = "",
        name: str = "rabbit@localhost",
        epmd: Epmd | None = None,
    ) -> None:
        self.directory = directory.resolve()
        self.port = port or ports.free_port()
        self.conf = conf or {}  # read at every start
        self.plugins: tuple[str, ...] = ()  # the same
        self.name = name  # unique in its epmd, and the same at every start
        self._dist_port = ports.free_port()
        self._epmd = epmd or Epmd()
        self._owns_epmd = epmd is None
        self._installation = Installation.find(release)
        self._beam: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@{ports.HOST}:{self.port}/"

    @property
    def version(self) -> tuple[int, ...]:
        """RabbitMQ's version, such as (3, 10, 8)."""
        return self._installation.version

    @property
    def release(self) -> str:
        """RabbitMQ's major version, such as "3"."""
        return str(self.version[0])

    @property
    def log(self) -> Path:
        return self.directory / "log/node.log"

    @property
    def pid(self) -> int | None:
        """The process id of the running node."""
        return self._beam.pid if self.running and self._beam else None

    @property
    def running(self) -> bool:
        return self._beam is not None and self._beam.poll() is None

    def start(self) -> Self:
        """Start it and return once it answers an AMQP handshake."""
        self.launch()
        self.wait_started()
        return self

    def launch(self) -> None:
        """Start it and return at once, for nodes that wait for one another."""
        if self.running:
            raise NodeError(f"{self.name} already runs")
        self._take_directory()
        self._lay_out()
        try:
            self._epmd.start(self._installation, self.directory, self.log)
            with self.log.open("ab") as log:
                self._beam = process.spawn(
                    ["./rabbitmq-server"],
                    env=self._environment(),
                    cwd=self._installation.scripts,
                    stdout=log,
                )
        except BaseException:
            self.close()
            raise

    def wait_started(self) -> None:
        """Wait until a launched node answers an AMQP handshake."""
        try:
            self._wait_for_handshake(time.monotonic() + START_DEADLINE)
        except BaseException:  # also Ctrl-C while it boots: nothing may be left behind
            self.close()
            raise

    def stop(self) -> None:
        """End it the graceful way (SIGTERM), and its epmd with it."""
        if self._beam is not None:
            if self.running:
                self.resume()  # a paused process hears no SIGTERM
            process.end(self._beam, _STOP_DEADLINE)
        self._beam = None
        if self._owns_epmd:
            self._epmd.stop()
        if self._lock is not None:
            self._lock.close()
        self._lock = None

    def kill(self) -> None:
        """End it by kill -9: what a crash of the broker looks like. `start` brings it back.

        Call `settle` first when quorum queues were declared within the last seconds.
        """
        if self._beam is not None:
            self._beam.kill()
            process.reap(self._beam)
        self._beam = None

    def close(self) -> None:
        """End everything at once; for when the data does not matter any more."""
        self.kill()
        self.stop()

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay open and nothing answers.

        Returns when each of its threads has stopped: one that ran on could still answer.
        """
        beam = self._running_beam()
        beam.send_signal(signal.SIGSTOP)
        while not all(map(_is_stopped, Path(f"/proc/{beam.pid}/task").iterdir())):
            time.sleep(0.001)

    def resume(self) -> None:
        """Let it run on (SIGCONT)."""
        self._running_beam().send_signal(signal.SIGCONT)

    def start_app(self) -> None:
        """Start the broker inside the running Erlang machine again, after `stop_app`."""
        self.eval("ok = rabbit:start()", START_DEADLINE)
        self._wait_for_handshake(time.monotonic() + START_DEADLINE)

    def stop_app(self) -> None:
        """Stop the broker and leave the Erlang machine running: its port is closed."""
        self.eval("ok = rabbit:stop()", _STOP_DEADLINE)

    def settle(self) -> None:
        """Have RabbitMQ write down which quorum queues live here, which it does a second late.

        A queue whose node is killed before that is lost with its messages (3.10: it is still
        listed, and every use of it times out). A test of *our* guarantees must not fail by it.
        """
        self.eval("[ok = dets:sync(Table) || Table <- dets:all()], ok")

    def hurry(self, prefix: str, seconds: float) -> None:
        """Let no message wait for longer in a delay queue of this prefix.

        A policy beside the queue's own time to live: RabbitMQ takes the smaller one. It holds for
        messages that come later.
        """
        self.policy(prefix, f"^{prefix}[.]delay[.]", message_ttl=int(seconds * 1000))

    def policy(
        self,
        name: str,
        pattern: str,
        *,
        apply_to: str = "queues",
        operator: bool = False,
        **definition: int | str,
    ) -> None:
        """Set a policy of this name for what matches, or an operator's policy.

        As `rabbitmqctl set_policy` does; a key is written with _ for -.
        """
        said = ", ".join(
            f"{{{_binary(key.replace('_', '-'))}, {_binary(to) if isinstance(to, str) else to}}}"
            for key, to in definition.items()
        )
        which = f"{_binary(name)}, {_binary(pattern)}, [{said}], 0, {_binary(apply_to)}"
        self.eval(f'ok = rabbit_policy:set{"_op" * operator}(<<"/">>, {which}, <<"tests">>)')

    def clear_policy(self, name: str, *, operator: bool = False) -> None:
        """Remove it."""
        call = f'delete{"_op" * operator}(<<"/">>, {_binary(name)}, <<"tests">>)'
        self.eval(f"ok = rabbit_policy:{call}")

    def counts(self) -> dict[str, tuple[int, int, int]]:
        """Return each queue's messages ready, messages unacked and consumers, as they are now.

        A consumer that was cancelled is none, also while it holds unacked messages: RabbitMQ's own
        number counts it until the last ack.
        Raises NodeError while a quorum queue has no leader. In a cluster any node can be asked.
        """
        return {name: counts[:3] for name, counts in self._all_counts().items()}

    def dead_letters(self) -> dict[str, int]:
        """Return how many messages each queue holds that its target did not confirm yet.

        They are in none of the `counts`: dead-lettered at least once, they wait up to 3 minutes.
        """
        return {name: counts[3] for name, counts in self._all_counts().items()}

    def connections(self, name: str) -> list[tuple[str, int]]:
        """Return state and number of channels of each connection that bears this in its name.

        A connection is `blocked` if it published under an alarm: the broker does not read from it.
        """
        lines = [line.split(" ", 2) for line in self.eval(_CONNECTIONS).splitlines()]
        return sorted((state, int(count)) for state, count, called in lines if name in called)

    def alarm_memory(self) -> None:
        """Raise the memory alarm: from now on the node reads from no connection that publishes."""
        self.eval("vm_memory_monitor:set_vm_memory_high_watermark({absolute, 1})")
        self._wait_for_alarm("memory", raised=True)

    def alarm_disk(self) -> None:
        """Raise the disk alarm, as if the disk was full."""
        self.eval("rabbit_disk_monitor:set_disk_free_limit(1 bsl 62)")
        self._wait_for_alarm("disk", raised=True)

    def clear_alarms(self) -> None:
        """Set both limits back to what the node's settings say, and see the alarms go."""
        settings = {**_CONF, **self.conf}
        memory = settings["vm_memory_high_watermark.absolute"]
        disk = settings["disk_free_limit.absolute"]
        self.eval(f'vm_memory_monitor:set_vm_memory_high_watermark({{absolute, "{memory}"}})')
        self.eval(f'rabbit_disk_monitor:set_disk_free_limit("{disk}")')
        for what in ("memory", "disk"):
            self._wait_for_alarm(what, raised=False)

    def eval(self, expression: str, timeout: float = 20) -> str:
        """Evaluate Erlang in the node and return what comes out: a binary as its text.

        By erl_call, which costs some milliseconds where rabbitmqctl costs a second.
        """
        # Its own -r gives all calls of one second the same name, and the node refuses the second
        # as long as it has not noticed that the first is gone.
        caller = f"c{os.getpid()}n{next(_CALLS) % _NAMES}"
        argv = [str(self._installation.runtime(self.directory) / "erl_call"), "-e", "-h", caller]
        argv += ["-address", f"{ports.HOST}:{self._dist_port}", "-fetch_stdout", "-no_result_term"]
        done: subprocess.CompletedProcess[str] = subprocess.run(
            argv,
            input=_EVAL.format(expression=expression),
            capture_output=True,
            text=True,
            env=self._environment(),
            timeout=timeout,
            check=False,
        )
        if done.returncode != 0 or not done.stdout.startswith("ok "):
            said = done.stdout.removeprefix("no ") + done.stderr or "not Erlang"
            raise NodeError(f"{self.name}: {expression.strip()}: {said}")
        return done.stdout.removeprefix("ok ")

    def ctl(self, *args: str, timeout: float = 60) -> str:
        """Run rabbitmqctl against this node and return what it prints; it costs seconds of CPU."""
        child = process.spawn(
            ["./rabbitmqctl", "-n", self.name, "-q", *args],
            env=self._environment(),
            cwd=self._installation.scripts,
            stdout=subprocess.PIPE,
        )
        try:
            output = child.communicate(timeout=timeout)[0].decode(errors="replace")
        finally:
            child.kill()
            process.reap(child)
        if child.returncode != 0:
            raise NodeError(f"rabbitmqctl {' '.join(args)}: exit {child.returncode}\n{output}")
        return output

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _all_counts(self) -> dict[str, tuple[int, int, int, int]]:
        found = {}
        for line in self.eval(_COUNTS).splitlines():
            ready, unacked, consumers, dead, name = line.split(" ", 4)
            found[name] = (int(ready), int(unacked), int(consumers), int(dead))
        return found

    def _running_beam(self) -> subprocess.Popen[bytes]:
        if self._beam is None or self._beam.poll() is not None:
            raise NodeError(f"{self.name} does not run{self.log_tail()}")
        return self._beam

    def _take_directory(self) -> None:
        """Hold the folder from start to stop: two nodes on the same data would destroy it."""
        if self._lock is not None:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        lock = (self.directory / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise NodeError(f"another node runs in {self.directory}") from None
        self._lock = lock

    def _lay_out(self) -> None:
        """Write every file the node reads. Nothing outside this folder is read or written."""
        for folder in ("bin", "data", "log", "conf.d"):
            (self.directory / folder).mkdir(parents=True, exist_ok=True)
        self._installation.lay_out(self.directory)
        settings = {**_CONF, "listeners.tcp.default": f"{ports.HOST}:{self.port}", **self.conf}
        lines = "".join(f"{name} = {value}\n" for name, value in settings.items())
        (self.directory / "rabbitmq.conf").write_text(lines)
        (self.directory / "advanced.config").write_text("[].\n")
        (self.directory / "enabled_plugins").write_text(f"[{','.join(self.plugins)}].\n")
        (self.directory / "env.conf").write_text("")

    def _environment(self) -> dict[str, str]:
        here = self.directory
        only_here = "-kernel inet_dist_use_interface {127,0,0,1}"
        return {
            **self._installation.environment(here),
            "ERL_EPMD_PORT": str(self._epmd.port),
            "ERL_EPMD_ADDRESS": ports.HOST,
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MNESIA_BASE": str(here / "data"),
            "RABBITMQ_LOG_BASE": str(here / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(here / "node.pid"),
            "RABBITMQ_CONFIG_FILE": str(here / "rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": str(here / "conf.d"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(here / "advanced.config"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(here / "data/config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(here / "enabled_plugins"),
            "RABBITMQ_CONF_ENV_FILE": str(here / "env.conf"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"+S 2:2 {_NO_WATCHERS} {only_here}",
            "RABBITMQ_CTL_ERL_ARGS": only_here,
            "RUNNING_UNDER_SYSTEMD": "true",  # the script then becomes the node: no shell between
        }

    def _wait_for_alarm(self, what: str, *, raised: bool) -> None:
        deadline = time.monotonic() + 20
        alarms = f"[{what} || {{{{resource_limit, {what}, _}}, _}} <- rabbit_alarm:get_alarms()]"
        while self.eval(alarms) != (f"[{what}]" if raised else "[]"):
            if time.monotonic() > deadline:
                raise NodeError(f"{self.name}: the {what} alarm is not as asked{self.log_tail()}")
            time.sleep(0.02)

    def _wait_for_handshake(self, deadline: float) -> None:
        while not self._shakes_hands():
            beam = self._running_beam()
            if time.monotonic() > deadline:
                raise NodeError(f"{self.name} (pid {beam.pid}) does not answer{self.log_tail()}")
            time.sleep(0.05)

    def _shakes_hands(self) -> bool:
        """Whether the node answers the protocol header with a method frame (Connection.Start)."""
        try:
            with socket.create_connection((ports.HOST, self.port), timeout=5) as connection:
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                return connection.recv(1) == b"\x01"
        except OSError:
            return False

    def log_tail(self) -> str:
        """The end of its log, to put behind an error."""
        if not self.log.exists():
            return ""
        lines = self.log.read_text(errors="replace").splitlines()[-80:]
        return f"; the end of {self.log}:\n" + "\n".join(lines)


def _is_stopped(task: Path) -> bool:
    """Whether a thread is stopped (proc(5): the state behind the name), or has ended."""
    try:
        return task.joinpath("stat").read_text().rpartition(") ")[2].startswith("T")
    except (FileNotFoundError, ProcessLookupError):
        return True


def _binary(text: str) -> str:
    """Text as Erlang writes a binary."""
    return f"<<{json.dumps(text)}>>"


def run(directory: Path, port: int | None, release: str) -> None:
    """Keep a node in the foreground until SIGINT or SIGTERM."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        with Node(directory, port=port, release=release) as node:
            print(node.url, flush=True)
            signal.pause()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)


def main() -> None:
    """Read the command line of `python -m tests.rig.brokers.node`."""
    parser = argparse.ArgumentParser(prog="python -m tests.rig.brokers.node", description=__doc__)
    parser.add_argument("command", choices=["run"])
    parser.add_argument("--dir", type=Path, help="keep the data here (default: thrown away)")
    parser.add_argument("--port", type=int, help="the AMQP port (default: a free one)")
    parser.add_argument("--release", default="", help="4: RabbitMQ 4 (default: this machine's)")
    options = parser.parse_args()
    try:
        if options.dir:
            run(options.dir, options.port, options.release)
        else:
            with tempfile.TemporaryDirectory(prefix="rabbitmq-") as directory:
                run(Path(directory), options.port, options.release)
    except (DebsError, NodeError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    os.umask(0o077)  # the data holds the cookie
    main()
