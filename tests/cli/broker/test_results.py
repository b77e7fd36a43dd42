"""`scraperd results`: what was printed is acked, and nothing else, however the command ends.

May touch: the command as a user types it, a private broker.
Must never: count a line that was not written whole.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from scraperd.broker.rabbitmq.topology import Topology
from tests.rig.daemon import environment, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Command
    from tests.rig.daemon import Dispatcher

MANY = 400  # several windows of unacked results
COMMAND = [sys.executable, "-m", "scraperd", "results", "--consume"]


@pytest.fixture
def results(dispatcher: Dispatcher) -> Dispatcher:
    """The results queue and its exchange, as the daemon declares them, with no daemon."""
    topology = Topology(dispatcher.prefix)
    channel = dispatcher.channel
    channel.exchange_declare(topology.results, "topic", durable=True)
    queue = next(queue for queue in topology.queues if queue.name == topology.results)
    channel.queue_declare(queue.name, durable=True, arguments=queue.arguments)
    channel.queue_bind(queue.name, topology.results, "#")
    return dispatcher


def fill(results: Dispatcher, count: int) -> list[str]:
    """Put results into the queue; their ids."""
    idents = [f"r{number:05}" for number in range(count)]
    for ident in idents:
        body = {"id": ident, "status": "ok", "text": "x" * 1000}
        results.publish(body, queue="results")
    return idents


def whole_lines(text: bytes) -> list[str]:
    """The ids of the lines that were written to their end."""
    return [json.loads(line)["id"] for line in text.split(b"\n")[:-1]]


def left(results: Dispatcher) -> list[str]:
    """The ids of the results that are in the queue, taken off."""
    found = [json.loads(body)["id"] for _, body in results.stream("results", 1.0)]
    return sorted(found)


def test_it_ends_when_no_result_comes(
    scraperd: Command, results: Dispatcher, broker_url: str, env: dict[str, str]
) -> None:
    """--idle ends it with 0: all that was there is printed, in order, and taken off; the summary
    names the broker, without the password.
    """
    idents = fill(results, MANY)
    done = scraperd("results", "--consume", "--idle", "1", **env)
    assert done.returncode == 0, done.stderr
    assert whole_lines(done.stdout.encode()) == idents
    assert results.depth("results") == 0
    at = f"at amqp://{broker_url.partition('@')[2]}"
    assert done.stderr == f"{MANY} results taken off {results.prefix}.results {at}\n"
    copies = scraperd("results", "--idle", "0.3", **env)
    assert (copies.returncode, copies.stdout) == (0, "")
    assert copies.stderr.splitlines()[-1] == f"0 results copied {at}"


def test_the_count_is_exact(scraperd: Command, results: Dispatcher, env: dict[str, str]) -> None:
    """--count takes as many off as it prints, within a window and beyond one.

    The order of those that a command puts back is the broker's.
    """
    idents = fill(results, 300)
    for count in (3, 150):
        done = scraperd("results", "--consume", "--count", str(count), **env)
        assert sorted(whole_lines(done.stdout.encode())) == idents[:count]
        idents = idents[count:]
        until(lambda: results.depth("results") == len(idents))  # noqa: B023 - asked at once
    assert sorted(left(results)) == idents


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_what_was_not_printed(
    results: Dispatcher, env: dict[str, str], number: signal.Signals
) -> None:
    """Ctrl-C or SIGTERM amid the results: each is either printed or still in the queue."""
    idents = fill(results, MANY)
    command = start(env)
    begun = some_of(command)
    command.send_signal(number)
    rest, said = command.communicate(timeout=30)
    assert command.returncode == 128 + number
    printed = whole_lines(begun + rest)
    assert 0 < len(printed) < MANY
    assert said.startswith(f"{len(printed)} results taken off ".encode())
    until(lambda: results.depth("results") == MANY - len(printed))
    assert left(results) == idents[len(printed) :]


def test_a_crash_loses_nothing(results: Dispatcher, env: dict[str, str]) -> None:
    """Kill -9 amid the results: what is gone from the queue was written out."""
    idents = fill(results, MANY)
    command = start(env)
    begun = some_of(command)
    command.kill()
    rest, _ = command.communicate(timeout=30)
    printed = set(whole_lines(begun + rest))
    until(lambda: results.depth("results") >= MANY - len(printed))
    assert set(left(results)) | printed == set(idents)


def test_a_reader_that_leaves(results: Dispatcher, env: dict[str, str], tmp_path: Path) -> None:
    """`| head -n 1`: what could not be written stays in the queue."""
    idents = fill(results, MANY)
    file = tmp_path / "seen"
    shell = f'"$0" -m scraperd results --consume | tee {file} | head -n 1'
    done = subprocess.run(
        ["bash", "-c", shell, sys.executable],
        env=environment({}) | env,
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert whole_lines(done.stdout) == idents[:1]
    assert b"Traceback" not in done.stderr
    assert set(left(results)) >= set(idents[MANY - 100 :])


def start(env: dict[str, Any]) -> subprocess.Popen[bytes]:
    """The command, with a pipe that nobody reads yet."""
    return subprocess.Popen(
        COMMAND,
        env=environment({}) | env,
        bufsize=0,  # else a part would be read ahead, and `communicate` would pass it over
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def some_of(command: subprocess.Popen[bytes]) -> bytes:
    """The first lines. There are more than a pipe holds, so the command cannot have ended."""
    assert command.stdout is not None
    begun = b""
    while len(begun) < 20_000:
        begun += command.stdout.read(4096)
    return begun
