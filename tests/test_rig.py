"""The rig itself: its servers are real, survive what tests do to them, and leave nothing behind.

May touch: the rig, its servers, their processes.
Must never: touch a server it did not start.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
import urllib.error
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pika
import pytest
from pika.exceptions import AMQPError, NackError

from tests.rig import ports
from tests.rig.brokers.cluster import Cluster
from tests.rig.brokers.erlang import NodeError
from tests.rig.brokers.node import Node
from tests.rig.debs import debs
from tests.rig.process import Process
from tests.rig.sites.nginx import Nginx
from tests.rig.sites.pages import html_files, postgres_docs, python_docs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pika.adapters.blocking_connection import BlockingChannel

AMQP_HEADER = b"AMQP\x00\x00\x09\x01"


@pytest.fixture(scope="module")
def own_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node that these tests may mistreat without disturbing the shared one."""
    with Node(tmp_path_factory.mktemp("own")) as node:
        yield node


def processes_of(directory: Path) -> set[int]:
    """Every process whose environment names the folder: a node's, and those it started."""
    found = set()
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if str(directory).encode() in environ.read_bytes():
                found.add(int(environ.parent.name))
        except (OSError, ProcessLookupError):
            continue  # it ended while we looked, or it is not ours
    return found


def assert_end(pids: set[int], timeout: float) -> None:
    """Wait until the kernel says that each of these processes has ended."""
    with ExitStack() as stack:
        poll = select.poll()
        waiting = set()
        for pid in pids:
            try:
                handle = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            stack.callback(os.close, handle)
            poll.register(handle, select.POLLIN)
            waiting.add(handle)
        while waiting:
            ended = {handle for handle, _ in poll.poll(timeout * 1000)}
            assert ended, f"{len(waiting)} of the processes {pids} still run"
            for handle in ended:
                poll.unregister(handle)
            waiting -= ended


def read_one(node: Node, queue: str) -> bytes | None:
    """Take one message from a queue."""
    connection = pika.BlockingConnection(pika.URLParameters(node.url))
    body = connection.channel().basic_get(queue, auto_ack=True)[2]
    connection.close()
    return body


def read_all(node: Node, queue: str) -> set[bytes]:
    """Look at every message of a queue; they go back when the connection is closed."""
    connection = pika.BlockingConnection(pika.URLParameters(node.url))
    channel = connection.channel()
    found = set()
    while (body := channel.basic_get(queue)[2]) is not None:
        found.add(body)
    connection.close()
    return found


def test_a_killed_node_comes_back_with_its_data(own_node: Node) -> None:
    """After kill -9 and a start, a confirmed durable message is still there, on the same port."""
    connection = pika.BlockingConnection(pika.URLParameters(own_node.url))
    channel = connection.channel()
    channel.confirm_delivery()
    channel.queue_declare("kept", durable=True, arguments={"x-queue-type": "quorum"})
    channel.basic_publish("", "kept", b"still here", mandatory=True)
    url, pid = own_node.url, own_node.pid
    own_node.settle()
    own_node.kill()
    assert not ports.answers(own_node.port)
    with pytest.raises(AMQPError):
        connection.process_data_events(5)
    own_node.start()
    assert own_node.url == url
    assert own_node.pid != pid
    assert read_one(own_node, "kept") == b"still here"


def test_a_paused_node_keeps_connections_and_answers_nothing(own_node: Node) -> None:
    """SIGSTOP freezes the broker: a client connects, hears nothing, and is answered on resume."""
    own_node.pause()
    with socket.create_connection((ports.HOST, own_node.port), timeout=0.5) as connection:
        connection.sendall(AMQP_HEADER)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        own_node.resume()
        connection.settimeout(20)
        assert connection.recv(1) == b"\x01"


def test_rabbitmqctl_speaks_to_this_node(own_node: Node) -> None:
    """`ctl` lists this node's own queue; stopping the app closes the port, starting opens it."""
    own_node.ctl("eval", 'rabbit_vhost:add(<<"only-here">>, <<"rig">>).')
    assert "only-here" in own_node.ctl("list_vhosts")
    own_node.stop_app()
    assert not ports.answers(own_node.port)
    own_node.start_app()
    assert ports.answers(own_node.port)
    with pytest.raises(NodeError, match="no_such_command"):
        own_node.ctl("no_such_command")


def test_a_node_counts_what_its_queues_hold(own_node: Node) -> None:
    """Ready, unacked and consumers are those of this moment, of quorum and of classic queues."""
    connection = pika.BlockingConnection(pika.URLParameters(own_node.url))
    channel = connection.channel()
    channel.confirm_delivery()
    channel.basic_qos(prefetch_count=2)
    for kind in ("quorum", "classic"):
        channel.queue_declare(kind, durable=True, arguments={"x-queue-type": kind})
        for _ in range(3):
            channel.basic_publish("", kind, b"counted", mandatory=True)
        assert own_node.counts()[kind] == (3, 0, 0)
        assert next(channel.consume(kind))[2] == b"counted"
        assert own_node.counts()[kind] == (1, 2, 1)
        channel.cancel()
        channel.queue_delete(kind)
        assert kind not in own_node.counts()
    connection.close()


@pytest.mark.parametrize("alarm", [Node.alarm_memory, Node.alarm_disk])
def test_alarms_are_raised_and_cleared(own_node: Node, alarm: Callable[[Node], None]) -> None:
    """An alarm blocks a connection that publishes, and clearing it lets the connection go on."""
    connection = pika.BlockingConnection(pika.URLParameters(own_node.url))
    heard: list[str] = []
    connection.add_on_connection_blocked_callback(lambda *_: heard.append("blocked"))
    connection.add_on_connection_unblocked_callback(lambda *_: heard.append("unblocked"))
    channel = connection.channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    alarm(own_node)
    channel.basic_publish("", queue, b"late")
    connection.process_data_events(20)
    assert heard == ["blocked"]
    own_node.clear_alarms()
    connection.process_data_events(20)
    assert heard == ["blocked", "unblocked"]
    connection.close()


def test_what_the_node_cannot_evaluate_is_an_error(own_node: Node) -> None:
    """`eval` returns text, and raises with the reason what fails in Erlang or is no Erlang."""
    assert own_node.eval("node()") == own_node.name
    with pytest.raises(NodeError, match="undef"):
        own_node.eval("no_such:function()")
    with pytest.raises(NodeError, match="not Erlang"):
        own_node.eval("no erlang")


def test_a_node_counts_dead_letters_that_wait(own_node: Node) -> None:
    """A message that expired and has no queue to go to is in no other count, and not lost."""
    connection = pika.BlockingConnection(pika.URLParameters(own_node.url))
    channel = connection.channel()
    channel.confirm_delivery()
    safe = {
        "x-queue-type": "quorum",
        "x-overflow": "reject-publish",
        "x-dead-letter-strategy": "at-least-once",
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "nowhere",
        "x-message-ttl": 1,
    }
    channel.queue_declare("held", durable=True, arguments=safe)
    channel.basic_publish("", "held", b"expired", mandatory=True)
    while own_node.counts()["held"][0]:
        connection.process_data_events(0.01)
    assert own_node.counts()["held"] == (0, 0, 0)
    assert own_node.dead_letters()["held"] == 1
    channel.queue_delete("held")
    connection.close()


def test_two_nodes_never_share_a_folder(own_node: Node) -> None:
    """A second node on the same data is refused before it can do harm."""
    with pytest.raises(NodeError, match="another node runs in"):
        Node(own_node.directory).start()
    assert own_node.running


def test_a_bad_setting_is_reported_with_the_log(tmp_path: Path) -> None:
    """A node that cannot start says so with the end of its log, and leaves nothing running."""
    node = Node(tmp_path, conf={"no_such_setting": "1"})
    with pytest.raises(NodeError, match="no_such_setting"):
        node.start()
    assert_end(processes_of(tmp_path), 20)


def test_a_stopped_node_leaves_nothing_behind(own_node: Node) -> None:
    """After stop: no process, no open port, and the Erlang cookie only in the node's folder."""
    pids = processes_of(own_node.directory)
    assert len(pids) >= 3  # the node, its epmd, its helper processes
    home_cookie = Path.home() / ".erlang.cookie"
    before = home_cookie.exists() and home_cookie.stat().st_mtime
    own_node.stop()
    assert_end(pids, 20)
    assert processes_of(own_node.directory) == set()
    assert ports.is_free(own_node.port)
    assert (own_node.directory / ".erlang.cookie").exists()
    assert before == (home_cookie.exists() and home_cookie.stat().st_mtime)
    own_node.start()  # for whichever test comes next


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_node_ends_with_its_parent(tmp_path: Path, number: signal.Signals) -> None:
    """Whether the parent is asked to end or killed with -9, no process of the node survives."""
    argv = [sys.executable, "-m", "tests.rig.brokers.node", "run", "--dir", str(tmp_path)]
    with Process(argv) as parent:
        parent.wait_for_line("amqp://", 60)
        pids = processes_of(tmp_path)
        assert len(pids) >= 3
        parent.send_signal(number)
        code = parent.wait(60)
    assert code == (0 if number == signal.SIGTERM else -signal.SIGKILL)
    assert_end(pids, 20)
    assert processes_of(tmp_path) == set()


def test_a_cluster_survives_its_leader(tmp_path: Path) -> None:
    """The leader is killed while messages come: all that were confirmed are there, on all nodes."""
    with Cluster(tmp_path) as cluster:
        connection = pika.BlockingConnection(pika.URLParameters(cluster.urls[0]))
        connection.channel().queue_declare(
            "kept", durable=True, arguments={"x-queue-type": "quorum"}
        )
        connection.close()
        cluster.wait_healthy()
        cluster.settle()
        leader = cluster.leader("kept")
        another = next(node for node in cluster.nodes if node is not leader)
        confirmed: list[bytes] = []
        some = threading.Event()
        publisher = threading.Thread(target=publish_confirmed, args=(another, confirmed, some))
        publisher.start()
        assert some.wait(20)
        leader.kill()
        publisher.join(60)
        assert len(confirmed) == 200
        assert cluster.leader("kept") is not leader
        leader.start()
        cluster.wait_healthy()
        assert len({node.counts()["kept"] for node in cluster.nodes}) == 1
        assert set(confirmed) <= read_all(leader, "kept")


def publish_confirmed(node: Node, confirmed: list[bytes], some: threading.Event) -> None:
    """Publish 200 messages until each is confirmed; `some` is set after the first 20."""
    connection = pika.BlockingConnection(pika.URLParameters(node.url))
    channel = connection.channel()
    channel.confirm_delivery()
    for number in range(200):
        body = str(number).encode()
        while len(confirmed) == number:
            with suppress(NackError):  # what 3.10 may answer while there is no leader
                channel.basic_publish("", "kept", body, mandatory=True)
                confirmed.append(body)
        if number == 20:
            some.set()
    connection.close()


def test_packages_are_fetched_once() -> None:
    """A second call needs neither apt-get nor the network; a first one says what is missing."""
    root = debs("nginx")
    argv = [sys.executable, "-m", "tests.rig.debs"]
    with Process([*argv, "nginx"], env={"PATH": ""}) as again:
        assert again.wait() == 0
        assert again.stdout == str(root)
        assert again.stderr == ""
    with Process([*argv, "not-fetched-yet"], env={"PATH": ""}) as first:
        assert first.wait() == 1
        assert first.stderr.startswith("no apt-get on this machine")
        assert len(first.lines) == 1


def test_the_manuals_are_complete() -> None:
    """Both manuals are there, hundreds of pages each, and every page can be read."""
    for root, at_least in ((python_docs(), 500), (postgres_docs(), 1100)):
        pages = html_files(root)
        assert len(pages) >= at_least
        assert all(b"<html" in page.read_bytes()[:2000] for page in pages)


def test_nginx_serves_the_manual(docs_site: Nginx) -> None:
    """A page comes over HTTP as it lies on disk, with its type; a missing one is a 404."""
    with urllib.request.urlopen(f"{docs_site.url}library/asyncio.html", timeout=10) as response:
        assert response.headers["Content-Type"] == "text/html; charset=utf-8"
        assert response.read() == (docs_site.root / "library/asyncio.html").read_bytes()
    with pytest.raises(urllib.error.HTTPError, match="404") as missing:
        urllib.request.urlopen(f"{docs_site.url}nothing", timeout=10)
    missing.value.close()


def test_nginx_writes_only_in_its_folder(tmp_path: Path) -> None:
    """A started nginx holds no file open outside its folder and the site, and ends when told."""
    site = tmp_path / "site"
    site.mkdir()
    with Nginx(site, tmp_path / "a server") as server:
        pid = server.pid
        assert pid is not None
        files = [str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()]
        assert all(f.startswith((str(tmp_path), "/dev/", "socket:", "anon_inode:")) for f in files)
    assert ports.is_free(server.port)
    assert_end({pid}, 5)


def test_lines_are_waited_for_not_slept_for() -> None:
    """`wait_for_line` returns the line when it comes, and shows the output when it never does."""
    script = "import sys; print('ready', flush=True); input(); print('never')"
    with Process([sys.executable, "-c", script]) as process:
        with pytest.raises(AssertionError, match="it ended without 'missing'"):
            process.wait_for_line("missing")
        assert process.wait_for_line("ready") == "ready"
        assert process.wait() == 1
        assert "EOFError" in process.stderr


def test_the_shared_node_takes_a_message(amqp: BlockingChannel, prefix: str) -> None:
    """The fixtures together: a confirmed publish to a queue of this test's own."""
    queue = f"{prefix}.rig"
    amqp.queue_declare(queue, durable=True)
    amqp.basic_publish("", queue, b"hello", mandatory=True)
    assert amqp.basic_get(queue, auto_ack=True)[2] == b"hello"
