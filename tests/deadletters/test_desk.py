"""`scraperd dead` as an operator types it: what is listed, what runs again; nothing is lost.

May touch: the command as a subprocess, a private broker, the wire between them.
Must never: call a command's function directly.
"""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pika
import pytest

from scraperd.base.hosts import host_pattern
from scraperd.broker.rabbitmq.topology import Topology
from tests.rig.brokers.wire import Seen, Wire
from tests.rig.daemon import Daemon, until
from tests.rig.pipe import Pipe
from tests.rig.process import Process

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Command
    from tests.rig.brokers.node import Node
    from tests.rig.daemon import Dispatcher
    from tests.rig.sites.hostel import Hostel

DEAD = [sys.executable, "-m", "scraperd", "dead"]


@pytest.fixture
def dead(scraperd: Command, env: dict[str, str]) -> Command:
    """Run `scraperd dead ...` to its end, on this test's queues."""
    return partial(scraperd, "dead", **env)


@pytest.fixture
def letters(dispatcher: Dispatcher) -> Dispatcher:
    """The dead queue and those before it, as the daemon declares them, with no daemon."""
    topology = Topology(dispatcher.prefix)
    for queue in topology.queues:
        if queue.name in (topology.dead, topology.undelivered, topology.jobs):
            dispatcher.channel.queue_declare(queue.name, durable=True, arguments=queue.arguments)
    return dispatcher


def without_broker(text: str) -> str:
    """A summary without the broker that it names, which it must: and never the password."""
    assert "guest" not in text
    short, count = re.subn(r"dead letters at amqp://127\.0\.0\.1:[0-9]+/", "dead letters", text)
    assert count == 1, text
    return short


def put(
    letters: Dispatcher, body: dict[str, Any] | bytes, headers: dict[str, Any], **properties: Any
) -> None:
    """Put a letter into the dead queue."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    letters.channel.basic_publish(
        "",
        f"{letters.prefix}.dead",
        raw,
        pika.BasicProperties(headers=headers, delivery_mode=2, **properties),
        mandatory=True,
    )


def marks(kind: str, ident: str, age: float = 0, **more: Any) -> dict[str, Any]:
    """The headers the daemon gives a dead letter (jobs/settle.py)."""
    died = datetime.now(UTC) - timedelta(seconds=age)
    return {
        "x-scraperd-job-id": ident,
        "x-scraperd-attempt": 4,
        "x-scraperd-status": "failed",
        "x-scraperd-dead-reason": kind,
        "x-scraperd-dead-message": f"{kind} happened",
        "x-scraperd-dead-at": died.isoformat(timespec="seconds"),
        "x-scraperd-worker": "w",
        **{f"x-scraperd-{name}": value for name, value in more.items()},
    }


def put_many(letters: Dispatcher, count: int) -> list[str]:
    """Put letters whose jobs have an id in the body and return the ids."""
    idents = [f"j{number:05}" for number in range(count)]
    quick = letters.channel.connection.channel()  # without confirms; they are counted instead
    for ident in idents:
        body = json.dumps({"url": "http://a.example/", "id": ident}).encode()
        properties = pika.BasicProperties(headers=marks("dns", ident), delivery_mode=2)
        quick.basic_publish("", f"{letters.prefix}.dead", body, properties)
    wait_for(lambda: letters.depth("dead") == count, letters)
    quick.close()  # only now: RabbitMQ forgets what a quorum queue has not taken from it yet
    return idents


def wait_for(wanted: Callable[[], bool], letters: Dispatcher) -> None:
    """Ask until it is so."""
    deadline = time.monotonic() + 60  # to start a command takes 20 s on a machine at its limit
    while not wanted():
        assert time.monotonic() < deadline, "not so within a minute"
        letters.channel.connection.sleep(0.01)


def bodies(letters: Dispatcher, queue: str) -> list[str]:
    """The ids of all jobs in a queue, in order; they are taken off it."""
    found: list[str] = []
    channel, name = letters.channel, f"{letters.prefix}.{queue}"
    while count := letters.depth(queue):
        for method, _, body in channel.consume(name, inactivity_timeout=20):
            assert method is not None
            assert body is not None
            found.append(json.loads(body)["id"])
            if (count := count - 1) == 0:
                channel.basic_ack(method.delivery_tag or 0, multiple=True)
                break
        channel.cancel()
    return found


def lines(text: str) -> list[dict[str, Any]]:
    """JSON lines as objects."""
    return [json.loads(line) for line in text.splitlines()]


def read_all(terminal: int) -> str:
    """What was printed to a terminal until its other end was closed."""
    found = b""
    while True:
        try:
            found += os.read(terminal, 65536)
        except OSError:  # Linux's way to say that nobody has it open any more
            os.close(terminal)
            return found.decode()


FILTERS = {
    "--reason exhausted --older-than 2h": "1 2",
    "--reason poisonous --reason invalid": "3 4",
    "--kind timeout --kind dns --host www.b.example": "2",
    "--host *.b.example --host A.example": "1 2",
    "--newer-than 1d --older-than 5m": "2 3",
    "--id 3 --id 5 --limit 1": "3",
}


def test_each_filter(dead: Command, letters: Dispatcher) -> None:
    """A filter picks the letters it names, two must both fit, and a list changes nothing."""
    put(letters, {"url": "http://a.example/"}, marks("timeout", "1", 2 * 86400))
    put(letters, {"url": "http://www.b.example/"}, marks("dns", "2", 3 * 3600))
    put(letters, {"url": "http://b.example/"}, marks("invalid_job", "3", 3600, strikes=1))
    put(letters, {"url": "http://c.example/"}, marks("internal", "4", 60, strikes=3))
    put(letters, {"url": "http://c.example/"}, marks("internal", "5"))
    for options, expected in FILTERS.items():
        done = dead("list", *options.split())
        assert done.returncode == 0
        assert [line["id"] for line in lines(done.stdout)] == expected.split(), options
    summary = lines(dead("list", "--summary", "--host", "c.example", "--kind", "internal").stdout)
    assert {row["reason"]: row["count"] for row in summary} == {"poisonous": 1, "internal": 1}
    assert letters.depth("dead") == 5


def check_story(result: dict[str, Any], run: int) -> None:
    """The result of the second and last attempt tells of the first, and of its limits."""
    assert (result["id"], result["run"], result["attempt"]) == ("m-1", run, 2)
    assert [one["kind"] for one in result["attempts"]] == ["http_status"]
    assert result["attempts"][0]["worker"] == result["worker"]
    assert result["attempts"][0]["at"] < result["fetched_at"]
    assert result["dead_letter"] is True
    assert result["limited"] == {"timeout": 30.0}
    assert result["contract_version"] == "1.0"


def test_a_requeued_job_runs_again(
    dead: Command, broker_url: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """What the daemon gave up is listed with its reason, and once requeued it is run again; its
    result goes to its reply_to with its correlation_id, its id and its own headers.
    """
    channel = dispatcher.channel
    replies = channel.queue_declare("", exclusive=True).method.queue
    settings = {"jobs__max_retries": 1, "jobs__retry_backoff": 0.1}
    with Daemon(broker_url, dispatcher.prefix, **settings).ready() as daemon:
        dispatcher.publish(
            {"url": hostel.url("/status/503"), "timeout": 900},
            reply_to=replies,
            correlation_id="c-1",
            message_id="m-1",
            headers={"own": "mine"},
            app_id="shop",
            type="job",
        )
        first, body = dispatcher.take(replies)
        wait_for(lambda: dispatcher.depth("dead") == 1, dispatcher)
        (listed,) = lines(dead("list").stdout)
        assert (listed["reason"], listed["kind"], listed["id"]) == (
            "exhausted",
            "http_status",
            "m-1",
        )
        done = dead("requeue", "--id", "m-1")
        assert without_broker(done.stdout) == "requeued 1 of 1 dead letters; none left\n"
        assert done.returncode == 0
        second, again = dispatcher.take(replies)
        assert daemon.drain() == 0
    results = [json.loads(body), json.loads(again)]
    for run, result in enumerate(results, 1):
        check_story(result, run)
    assert first.correlation_id == second.correlation_id == "c-1"
    assert second.headers["own"] == "mine"
    assert (second.headers["x-scraperd-run"], second.headers["x-scraperd-attempt"]) == (2, 2)
    properties, _ = dispatcher.take("dead")
    assert properties.headers["x-scraperd-run"] == 2
    assert properties.headers["x-scraperd-dead-reason"] == "exhausted"
    assert json.loads(properties.headers["x-scraperd-attempts"]) == results[1]["attempts"]
    assert (properties.app_id, properties.type) == ("shop", "job")


def test_what_a_requeued_job_carries(dead: Command, letters: Dispatcher) -> None:
    """The job comes as its publisher made it, in the order of the dead queue, with its id."""
    headers = {**marks("timeout", "id-1"), "x-delivery-count": 3, "own": [1, "a"], "CC": ["x"]}
    put(letters, b"\xff no job", headers, reply_to="r", correlation_id="c", content_type="a/b")
    put(letters, {"url": "http://a.example/"}, marks("dns", "id-2"))
    put(letters, {"url": "http://a.example/"}, marks("dns", "id-1"))
    assert dead("requeue", "--all").returncode == 0
    taken = list(islice(letters.stream("jobs", 20), 3))  # a cancel between two may reorder them
    assert [properties.message_id for properties, _ in taken] == ["id-1", "id-2", "id-1"]
    properties, body = taken[0]
    assert body == b"\xff no job"
    assert properties.headers == {"own": [1, "a"], "x-scraperd-run": 2}
    assert (properties.reply_to, properties.correlation_id) == ("r", "c")
    assert (properties.content_type, properties.delivery_mode) == ("a/b", 2)
    assert letters.depth("dead") == 0


def test_the_address_of_a_poisonous_job(dead: Command, letters: Dispatcher) -> None:
    """Its reply_to, kept in a header by the daemon, is one again when the job is requeued."""
    headers = marks("internal", "p", strikes=5, **{"reply-to": "answers.here"})
    put(letters, {"url": "http://a.example/", "id": "p"}, headers)
    assert dead("requeue", "--reason", "poisonous").returncode == 0
    properties, _ = letters.take("jobs")
    assert properties.reply_to == "answers.here"
    assert properties.headers == {"x-scraperd-run": 2}


def test_kill_in_the_middle_of_a_requeue(
    letters: Dispatcher, dead: Command, env: dict[str, str]
) -> None:
    """After kill -9 every job is in the jobs queue or still dead; a second run does the rest."""
    idents = put_many(letters, 2000)
    with Process([*DEAD, "requeue", "--all"], env=env) as command:
        while letters.depth("jobs") < 300:
            assert command.returncode is None, command.tail()
        command.kill()
    moved = bodies(letters, "jobs")
    assert 300 <= len(moved) < 2000
    assert dead("requeue", "--all").returncode == 0
    assert {*moved, *bodies(letters, "jobs")} == {*idents}


def test_a_connection_that_is_cut(letters: Dispatcher, dead: Command, node: Node) -> None:
    """When the broker is lost the command ends with 1 and one line, and no job is lost."""
    idents = put_many(letters, 500)
    published = 0

    def cut(seen: Seen) -> int | None:
        nonlocal published
        published += seen.sent and seen.name == "Basic.Publish"
        return seen.connection if published == 200 else None

    with Wire(node.port) as wire:
        wire.cut_when = cut
        done = dead("requeue", "--all", SCRAPERD_BROKER_URL=wire.url)
    assert done.returncode == 1
    assert done.stderr.startswith("scraperd: lost the broker")
    assert len(done.stderr.splitlines()) == 1
    moved = bodies(letters, "jobs")
    assert 0 < len(moved) < 500
    left = bodies(letters, "dead")
    assert {*moved, *left} == {*idents}


def test_the_rate_holds_and_an_interrupt_says_what_was_done(
    letters: Dispatcher, env: dict[str, str]
) -> None:
    """--rate spaces the jobs evenly, and Ctrl-C ends with 130, the count, and nothing lost."""
    idents = put_many(letters, 60)
    with Process([*DEAD, "requeue", "--all", "--rate", "20"], env=env) as command:
        times = []
        for _ in letters.stream("jobs", 20):
            times.append(time.monotonic())
            if len(times) == 15:
                break
        command.send_signal(signal.SIGINT)
        assert command.wait() == 130
        assert f"requeued {15 + letters.depth('jobs')} of 60" in command.stdout
    assert 14 / 20 - 0.1 < times[-1] - times[0] < 14 / 20 + 1
    assert [*bodies(letters, "jobs"), *bodies(letters, "dead")] == idents[15:]


def test_a_full_jobs_queue(letters: Dispatcher, dead: Command) -> None:
    """What the jobs queue refuses stays dead, and the line says why it ended."""
    name = f"{letters.prefix}.jobs"
    letters.channel.queue_delete(name)
    full = {"x-queue-type": "quorum", "x-overflow": "reject-publish", "x-max-length": 5}
    letters.channel.queue_declare(name, durable=True, arguments=full)
    idents = put_many(letters, 200)
    done = dead("requeue", "--all")
    assert done.returncode == 1
    assert done.stderr.startswith(f"scraperd: queue '{name}' refuses jobs: it is full.")
    assert done.stderr.count("\n") == 1
    moved, left = bodies(letters, "jobs"), bodies(letters, "dead")
    assert sorted(moved + left) == idents
    assert f"requeued {len(moved)} of 200" in done.stdout


def test_no_jobs_queue(letters: Dispatcher, dead: Command) -> None:
    """Without a jobs queue nothing moves; two letters of one id do not share an outcome."""
    letters.channel.queue_delete(f"{letters.prefix}.jobs")
    for _ in range(3):
        put(letters, {"url": "http://a.example/"}, marks("dns", "same"))
    done = dead("requeue", "--all")
    assert done.returncode == 1
    assert f"queue '{letters.prefix}.jobs' does not exist" in done.stderr
    assert letters.depth("dead") == 3


def test_no_dead_queue_and_an_empty_one(
    dead: Command, dispatcher: Dispatcher, prefix: str, request: pytest.FixtureRequest
) -> None:
    """A missing queue is one line, exit code 1 and no count; an empty one is no trouble."""
    done = dead("requeue", "--all")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"scraperd: queue '{prefix}.dead' does not exist; start the daemon once\n"
    )
    request.getfixturevalue("letters")
    said = without_broker(dead("requeue", "--all").stdout)
    assert said == "requeued 0 of 0 dead letters; none left\n"
    assert dead("show", "nope").returncode == 1


def test_everything_must_be_asked_for(dead: Command, letters: Dispatcher) -> None:
    """Neither a filter nor --all is wrong usage, both too; and a dry run changes nothing."""
    put_many(letters, 3)
    assert dead("requeue").returncode == 2
    assert dead("purge", "--yes", "--all", "--kind", "dns").returncode == 2
    assert dead("list", "--older-than", "soon").returncode == 2
    assert dead("list", "--older-than", "999999d").returncode == 2
    said = without_broker(dead("requeue", "--all", "--dry-run").stdout)
    assert said == "would requeue 3 of 3 dead letters\n"
    assert letters.depth("dead") == 3


def test_purge_asks(dead: Command, letters: Dispatcher) -> None:
    """On a terminal purge says how many and asks; where nobody can be asked it needs --yes."""
    put_many(letters, 3)
    assert dead("purge", "--all").returncode == 2
    for answer, code, left in (("n", 1, 3), ("y", 0, 0)):
        ours, theirs = pty.openpty()
        os.write(ours, f"{answer}\n".encode())
        done = dead("purge", "--all", stdin=theirs)
        os.close(ours)
        os.close(theirs)
        asked, _, said = done.stdout.partition("? ")
        assert without_broker(asked) == "Remove 3 of 3 dead letters for good"
        assert said.startswith("[y/N]")
        assert done.returncode == code
        assert letters.depth("dead") == left


def test_sigterm_while_it_asks(letters: Dispatcher, env: dict[str, str]) -> None:
    """SIGTERM ends a purge that waits for its answer, as it ends any program; nothing is gone."""
    put_many(letters, 3)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*DEAD, "purge", "--all"],
        env={**os.environ, **env},
        stdin=theirs,
        stdout=subprocess.PIPE,
    ) as command:
        assert command.stdout is not None
        asked = b"Remove 3 of 3"
        assert command.stdout.read(len(asked)) == asked
        command.terminate()
        assert command.wait(20) == -signal.SIGTERM
    os.close(theirs)
    os.close(ours)
    assert letters.depth("dead") == 3


def test_purge_saves_before_it_removes(dead: Command, letters: Dispatcher, tmp_path: Path) -> None:
    """The file gets a line for each letter, whole, after what was in it; without it, none goes."""
    put_many(letters, 2)
    put(letters, b"\xff", {**marks("timeout", "3"), "at": datetime.now(UTC)}, correlation_id="c")
    done = dead("purge", "--all", "--yes", "--save", "no/such/folder")
    assert (done.returncode, done.stdout) == (1, "")
    assert letters.depth("dead") == 3
    (tmp_path / "saved").write_text('{"cut off')
    assert dead("purge", "--kind", "timeout", "--yes", "--save", "saved").returncode == 0
    assert dead("purge", "--all", "--yes", "--save", "saved").returncode == 0
    head, *rest = (tmp_path / "saved").read_text().splitlines()
    assert head == '{"cut off'
    saved = [json.loads(line) for line in rest]
    assert [line["id"] for line in saved] == ["3", "j00000", "j00001"]
    assert (saved[0]["body"], saved[0]["body_encoding"]) == ("/w==", "base64")
    assert saved[0]["correlation_id"] == "c"
    assert json.loads(saved[1]["body"])["id"] == "j00000"
    assert letters.depth("dead") == 0


def test_what_the_broker_put_there(dead: Command, letters: Dispatcher) -> None:
    """A job that expired in a queue is `expired`, whatever its publisher's headers claim."""
    forged = {**marks("dns", "forged", strikes=9), "x-death": [{"reason": "maxlen"}]}
    properties = pika.BasicProperties(expiration="1", headers=forged)
    body = b'{"url": "http://a.example/"}'
    letters.channel.basic_publish("", f"{letters.prefix}.undelivered", body, properties)
    wait_for(lambda: letters.depth("dead") == 1, letters)
    (line,) = lines(dead("list", "--reason", "expired", "--newer-than", "1m").stdout)
    assert (line["kind"], line["message"]) == (None, "")
    assert dead("requeue", "--all").returncode == 0
    properties, _ = letters.take("jobs")
    assert properties.headers == {"x-scraperd-run": 2}


def test_what_the_broker_gave_up(dead: Command, letters: Dispatcher) -> None:
    """The daemon settled it and kept the broker's reason; one that is not known is `unknown`."""
    for why in ("expired", "delivery_limit", "rejected", "maxlen", ["odd"]):
        put(letters, b"{}", {**marks("internal", "x"), "x-scraperd-undelivered": why})
    found = lines(dead("list").stdout)
    assert [line["reason"] for line in found] == [
        *("expired", "delivery_limit", "rejected", "maxlen", "unknown")
    ]


HOSTILE: list[tuple[bytes, dict[str, Any]]] = [
    (b"", {}),
    (b"\xff\xfe", {"x-death": "no list", "x-scraperd-dead-reason": ["a"]}),
    (b"[" * 20000, {"x-death": [7], "x-scraperd-dead-at": "soon"}),
    (b'{"url": 7, "id": {}}', {"x-death": [{"reason": 5, "time": "x"}]}),
    (
        b'{"url": "http://me:secret@a.example/\\u001b[2J", "id": "\\u001b]0;x\\u0007\\u202e"}',
        {"x-scraperd-dead-message": "\x1b[31m\x9b2J", "x-scraperd-dead-reason": "\x1b[2J"},
    ),
    (b'{"url": "http://[::1", "id": "x"}', {"x-scraperd-strikes": "many", "a\x1b": {"b": [None]}}),
    (b"{}", {"x-scraperd-dead-reason": "dns", "x-scraperd-attempt": -5, "x-scraperd-job-id": 3}),
]


def test_hostile_letters(dead: Command, letters: Dispatcher, env: dict[str, str]) -> None:
    """Whatever strangers put there is listed, shown and requeued; no control character or password
    reaches the terminal.
    """
    for body, headers in HOSTILE:
        put(letters, body, headers)
    listed = dead("list")
    assert len(lines(listed.stdout)) == len(HOSTILE)
    assert "secret" not in listed.stdout
    assert "\x1b]0;x\x07\u202e" in [line["id"] for line in lines(listed.stdout)]
    shown = dead("show", "--all")
    assert len(lines(shown.stdout)) == len(HOSTILE)
    ours, theirs = pty.openpty()
    table = subprocess.Popen([*DEAD, "list"], env={**os.environ, **env}, stdout=theirs)
    os.close(theirs)
    printed = read_all(ours)
    assert table.wait(20) == 0
    assert printed.count("\n") == len(HOSTILE) + 1
    for text in (listed.stdout, shown.stdout, printed):
        assert all(char.isprintable() or char in "\r\n" for char in text)
    assert dead("requeue", "--all").returncode == 0
    assert letters.depth("jobs") == len(HOSTILE)


def test_a_table_in_a_pipe_is_whole(dead: Command, letters: Dispatcher) -> None:
    """--table prints the table where there is no terminal, and cuts no line of it."""
    host, long = ".".join(["h" * 60] * 4), "x" * 500  # as long as a note of the daemon can be
    headers = {**marks("dns", "i" * 255), "x-scraperd-dead-message": long}
    put(letters, {"url": f"http://{host}/"}, headers)
    head, row = dead("list", "--table").stdout.splitlines()
    assert head.split()[0] == "AGE"
    assert host in row
    assert row.endswith(f"{'i' * 255}  {long}")
    assert [line["message"] for line in lines(dead("list").stdout)] == [long]
    head, row = dead("list", "--table", "--summary").stdout.splitlines()
    assert (head.split()[0], row.split()[0]) == ("COUNT", "1")


def test_another_reader(dead: Command, letters: Dispatcher, node: Node) -> None:
    """If someone else takes the letters after they were counted the list ends, and says so."""
    put_many(letters, 20)
    held: list[pika.BlockingConnection] = []

    def snatch(seen: Seen) -> None:
        if seen.name == "Queue.DeclareOk" and not held:
            held.append(pika.BlockingConnection(pika.URLParameters(node.url)))
            channel = held[0].channel()
            for _ in range(15):
                channel.basic_get(f"{letters.prefix}.dead")

    with Wire(node.port) as wire:
        wire.cut_when = snatch
        done = dead("list", SCRAPERD_BROKER_URL=wire.url)
    held[0].close()
    assert done.returncode == 0
    assert without_broker(done.stderr) == "5 of 20 dead letters; 15 given to another reader\n"
    wait_for(lambda: letters.depth("dead") == 20, letters)  # a closed channel's come back late


def test_letters_that_are_stepped_over(dead: Command, letters: Dispatcher) -> None:
    """More letters than a consumer's window are stepped over, and stay as they were, in order,
    whether many small windows were given back (a slow requeue's) or a list's large ones.
    """
    idents = put_many(letters, 1200)
    put(letters, {"url": "http://a.example/", "id": "last"}, marks("timeout", "last"))
    done = dead("requeue", "--kind", "timeout", "--rate", "0.1")
    assert without_broker(done.stdout) == "requeued 1 of 1201 dead letters; 1200 not meant\n"
    assert bodies(letters, "jobs") == ["last"]
    for _ in range(2):
        assert [line["id"] for line in lines(dead("list").stdout)] == idents
    done = dead("list", "--limit", "3")
    assert len(lines(done.stdout)) == 3
    assert without_broker(done.stderr) == "3 of 1200 dead letters; 1197 beyond the limit\n"


def test_letters_that_another_command_holds(
    letters: Dispatcher, dead: Command, env: dict[str, str]
) -> None:
    """While a slow requeue holds all letters others say so; SIGTERM ends it with its count."""
    idents = put_many(letters, 5)
    with Process([*DEAD, "requeue", "--all", "--rate", "0.1"], env=env) as command:
        wait_for(lambda: letters.depth("jobs") == 1, letters)
        done = dead("list")
        assert (done.returncode, done.stdout) == (0, "")
        assert without_broker(done.stderr) == (
            "0 of 0 dead letters\n"
            "scraperd: 1 more reading the dead queue; what they hold is not counted\n"
        )
        command.send_signal(signal.SIGTERM)
        assert command.wait() == 143
        moved = letters.depth("jobs")  # more than one, if the list took over ten seconds
        said = f"requeued {moved} of 5 dead letters; 1 meant and left, {4 - moved} not looked at"
        assert said in without_broker(command.stdout)
    assert sorted(bodies(letters, "jobs") + bodies(letters, "dead")) == idents


def test_ids(letters: Dispatcher, dead: Command) -> None:
    """Requeue and purge take ids as show does, and an id without a letter is a line and a 1."""
    put_many(letters, 3)
    done = dead("requeue", "j00001", "--id", "nope", "j00000")
    assert (done.returncode, letters.depth("dead")) == (1, 1)
    assert without_broker(done.stdout) == "requeued 2 of 3 dead letters; 1 not meant\n"
    assert done.stderr == "scraperd: no dead letter of a job with the id 'nope'\n"
    assert dead("purge", "--yes", "j00002").returncode == 0
    assert letters.depth("dead") == 0


def test_a_full_disk_behind_standard_output(letters: Dispatcher, env: dict[str, str]) -> None:
    """Output that can't be written ends the command with one line and 1, and removes nothing."""
    put_many(letters, 3)
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(
            [*DEAD, "list"],
            env={**os.environ, **env},
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
            text=True,
        )
    assert done.returncode == 1
    assert done.stderr == "scraperd: standard output can't be written: No space left on device\n"
    assert letters.depth("dead") == 3


def test_what_is_no_host(dead: Command) -> None:
    """A host in another script means its punycode; what holds more than a host is wrong usage."""
    good = ("例え.jp", "*.例え.jp", "[2001:DB8::0]", "A.Example", "*")
    meant = [host_pattern(text) for text in good]
    assert meant == ["xn--r8jz45g.jp", "*.xn--r8jz45g.jp", "2001:db8::", "a.example", "*"]
    for text in ("", "*.", "127.0.0.1:80", "http://127.0.0.1/", "a.example/", "a@b", "*.a:80"):
        with pytest.raises(ValueError, match=r"."):
            host_pattern(text)
    done = dead("list", "--host", "127.0.0.1:18765")
    assert done.returncode == 2
    assert "'127.0.0.1:18765' is not a host" in done.stderr


def test_large_letters_are_left_on_the_wire(letters: Dispatcher, env: dict[str, str]) -> None:
    """Dead letters can be as large as the broker takes them, and dozens are asked for at once: what
    is not looked at yet is not held, though the command stops at the first, or puts all back.
    """
    letters.channel.queue_purge(f"{letters.prefix}.dead")
    large = b'{"url": "http://127.0.0.1:9/", "pad": "%s"}' % (b"x" * 8 * 1024 * 1024)
    letters.publish(large, queue="dead")
    usual = peak(env, "list", "--limit", "1")
    for _ in range(29):
        letters.publish(large, queue="dead")
    assert peak(env, "list", "--limit", "1") - usual < 100
    assert letters.depth("dead") == 30
    assert peak(env, "requeue", "--all") - usual < 150
    assert (letters.depth("dead"), letters.depth("jobs")) == (0, 30)
    letters.channel.queue_purge(f"{letters.prefix}.jobs")


def test_letters_on_a_slow_line_are_waited_for(
    letters: Dispatcher, env: dict[str, str], node: Node
) -> None:
    """The broker has sent all, none is ready, and the first takes seconds: it is not the end."""
    for _ in range(2):
        letters.publish(b"x" * 600_000, queue="dead")
    with Pipe(node.port) as line:
        line.throttle(300_000, "down")
        away = {**env, "SCRAPERD_BROKER_URL": line.url}
        assert peak(away, "requeue", "--all") > 0
    assert (letters.depth("dead"), letters.depth("jobs")) == (0, 2)


def test_large_letters_behind_a_slow_one_are_taken_as_they_come(
    letters: Dispatcher, env: dict[str, str], node: Node
) -> None:
    """The first letter takes seconds, so the command asks whether there are more. While it waits
    for the answer, which comes behind all letters, none of them waits for room, or is piled up.
    """
    first, large = b"x" * 600_000, b"x" * (8 * 1024 * 1024)
    letters.publish(first, queue="dead")
    usual = peak(env, "list", "--limit", "1")
    for _ in range(19):
        letters.publish(large, queue="dead")
    with Pipe(node.port) as line:
        line.throttle(300_000, "down")
        away = {**env, "SCRAPERD_BROKER_URL": line.url}
        with ThreadPoolExecutor(1) as pool:
            most = pool.submit(peak, away, "requeue", "--all")
            until(lambda: line.passed("down") > len(first))  # 2 s: it has asked by then
            line.heal()
            assert most.result(60) - usual < 150
    assert (letters.depth("dead"), letters.depth("jobs")) == (0, 20)
    letters.channel.queue_purge(f"{letters.prefix}.jobs")


def peak(env: dict[str, str], *args: str) -> int:
    """The most memory that the command took, in MiB."""
    none = subprocess.DEVNULL
    both = {**os.environ, **env}
    with subprocess.Popen([*DEAD, *args], env=both, stdout=none, stderr=none) as command:
        _, status, usage = os.wait4(command.pid, 0)
        command.returncode = os.waitstatus_to_exitcode(status)
    assert command.returncode == 0
    return usage.ru_maxrss // 1024
