"""`scraperd check` ends where `scraperd run` would, says why, and does so in seconds.

May touch: the commands as a user types them, a private broker, ports that say nothing.
Must never: let the two commands be compared on different brokers.
"""

from __future__ import annotations

import json
import socket
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from scraperd.broker.rabbitmq.topology import Topology
from tests.rig.daemon import variables
from tests.rig.ports import HOST, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Command
    from tests.rig.brokers.node import Node
    from tests.rig.daemon import Dispatcher

DELAY = {"x-queue-type": "quorum"}  # and not what a delay queue must have


@contextmanager
def mute() -> Iterator[str]:
    """The URL of a port that accepts connections and says nothing."""
    with socket.create_server((HOST, 0)) as server:
        yield f"amqp://guest:hunter2@{HOST}:{server.getsockname()[1]}/"


def classic_results(dispatcher: Dispatcher) -> dict[str, Any]:
    """The results queue is a classic one."""
    dispatcher.channel.queue_declare(f"{dispatcher.prefix}.results", durable=True)
    return {}


def fanout_results(dispatcher: Dispatcher) -> dict[str, Any]:
    """The results exchange is of another type."""
    dispatcher.channel.exchange_declare(f"{dispatcher.prefix}.results", "fanout", durable=True)
    return {}


def nothing_declared(dispatcher: Dispatcher) -> dict[str, Any]:
    """The daemon may not declare, and nothing is there."""
    assert dispatcher
    return {"broker__passive_declare": True}


def no_exchanges(dispatcher: Dispatcher) -> dict[str, Any]:
    """The daemon may not declare; the queues are there, and the exchanges are not."""
    for queue in Topology(dispatcher.prefix).queues:
        dispatcher.channel.queue_declare(queue.name, durable=True, arguments=queue.arguments)
    return {"broker__passive_declare": True}


def wrong_password(dispatcher: Dispatcher) -> dict[str, Any]:
    """The first broker that answers refuses the password; a good one comes behind it."""
    assert dispatcher
    return {"password": "hunter2"}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (classic_results, "results' exists with "),
        (fanout_results, "exchange 'PREFIX.results' exists with type = fanout"),
        (nothing_declared, "'PREFIX.jobs' does not exist"),
        (no_exchanges, "'PREFIX.jobs' does not exist"),
        (wrong_password, "the broker refused the user name or the password of broker_url"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_check_fails_where_run_ends(
    scraperd: Command,
    broker_url: str,
    dispatcher: Dispatcher,
    fault: Callable[[Dispatcher], dict[str, Any]],
    words: str,
) -> None:
    """Both end, with the same reason; neither shows a password."""
    settings = fault(dispatcher)
    host = broker_url.partition("@")[2]
    urls: list[str] = [f"amqp://{HOST}:{free_port()}/", broker_url]
    if password := settings.pop("password", None):
        urls.insert(1, f"amqp://guest:{password}@{host}")
    env = variables({"broker_url": urls, "broker__prefix": dispatcher.prefix, **settings})
    if urls[1] == broker_url:  # `run` waits before it dials the second
        env["SCRAPERD_BROKER_URL"] = json.dumps(urls[1:])
    run, check = scraperd("run", **env), scraperd("check", **env)
    assert (run.returncode, check.returncode) == (78, 1), check.stderr
    words = words.replace("PREFIX", dispatcher.prefix)
    assert words in run.stdout
    assert words in check.stderr
    assert "hunter2" not in run.stdout + check.stdout + check.stderr


def test_check_finds_nothing_on_an_empty_broker(
    scraperd: Command, node: Node, env: dict[str, str]
) -> None:
    """It is content, and leaves the broker empty."""
    before = node.eval('{rabbit_amqqueue:list(), rabbit_exchange:list(<<"/">>)}')
    done = scraperd("check", **env)
    assert (done.returncode, "lacks" in done.stderr) == (0, False), done.stderr
    assert node.eval('{rabbit_amqqueue:list(), rabbit_exchange:list(<<"/">>)}') == before


def test_check_creates_no_queue_that_others_have_to_create(
    scraperd: Command, node: Node, env: dict[str, str]
) -> None:
    """With broker.passive_declare it names what is missing, and leaves the broker empty."""
    before = node.eval('{rabbit_amqqueue:list(), rabbit_exchange:list(<<"/">>)}')
    done = scraperd("check", **env, SCRAPERD_BROKER__PASSIVE_DECLARE="true")
    assert done.returncode == 1
    assert "does not exist" in done.stderr
    assert node.eval('{rabbit_amqqueue:list(), rabbit_exchange:list(<<"/">>)}') == before


def test_a_mute_broker_costs_one_connect_timeout(
    scraperd: Command, broker_url: str, prefix: str
) -> None:
    """Two ports that accept and say nothing take no longer than one, and are named."""
    with mute() as first, mute() as second:
        env = variables({"broker_url": [first, second], "fetch__connect_timeout": 2})
        began = time.monotonic()
        done = scraperd("check", **env)
        alone = time.monotonic() - began
        assert done.returncode == 1
        assert done.stderr.count("no answer within 2 s (fetch.connect_timeout)") == 2
        assert "hunter2" not in done.stderr
        env = variables(
            {
                "broker_url": [first, broker_url],
                "broker__prefix": prefix,
                "fetch__connect_timeout": 2,
            }
        )
        assert scraperd("check", **env).returncode == 0
    assert alone >= 2


def test_a_broker_that_freezes_is_not_waited_for(
    scraperd: Command, node: Node, broker_url: str, prefix: str
) -> None:
    """A broker that is stopped (SIGSTOP) accepts connections, and says nothing."""
    env = variables(
        {"broker_url": broker_url, "broker__prefix": prefix, "fetch__connect_timeout": 2}
    )
    node.pause()
    try:
        done = scraperd("check", **env)
    finally:
        node.resume()
    assert done.returncode == 1
    assert "no answer within 2 s (fetch.connect_timeout)" in done.stderr


def test_an_alarm_is_told_and_is_no_fault(
    scraperd: Command, node: Node, env: dict[str, str]
) -> None:
    """Under a memory alarm the broker answers no publish: that is said, and `run` would start."""
    node.alarm_memory()
    try:
        done = scraperd("check", **env)
    finally:
        node.clear_alarms()
    assert done.returncode == 0, done.stderr
    assert "takes no publish now" in done.stderr


def test_json_is_one_line_with_all_that_the_lines_say(
    scraperd: Command, broker_url: str, dispatcher: Dispatcher
) -> None:
    """Queues as `scraperd status` has them, and what fails or was passed over; no password.

    The exit code is that of the lines, and nothing is printed beside the JSON.
    """
    prefix, (host, _, where) = dispatcher.prefix, broker_url.partition("@")
    dispatcher.channel.queue_declare(f"{prefix}.delay.1", durable=True, arguments=DELAY)
    dispatcher.publish({"url": "http://a.example/"}, queue="delay.1")
    assert host
    urls = [f"amqp://guest:hunter2@{HOST}:{free_port()}/", broker_url]
    env = variables({"broker_url": urls, "broker__prefix": prefix})
    lines, done = scraperd("check", **env), scraperd("check", "--json", **env)
    assert (lines.returncode, done.returncode, done.stderr) == (1, 1, "")
    assert done.stdout.count("\n") == 1
    found = json.loads(done.stdout)
    assert found["broker"] == f"amqp://{where.rstrip('/')}/"
    assert (found["configuration"], found["signing_key"]) == ("/dev/null", "broker_url")
    assert set(found["extraction"]) == {"compiled", "loop_bytes"}
    assert found["queues"]["jobs"] is None
    assert found["queues"]["delay"] == {"ready": 1, "consumers": 0}
    assert f"queue '{prefix}.delay.1' exists with " in found["faults"][0]
    assert found["warnings"][0].startswith(f"no broker at {urls[0].replace('guest:hunter2@', '')}:")
    told = [f"scraperd: {words}" for words in found["warnings"] + found["faults"]]
    assert sorted(told) == sorted(lines.stderr.splitlines())
    assert set(found["remarks"]) <= set(lines.stdout.splitlines())
    assert "hunter2" not in done.stdout


def test_json_without_a_broker(scraperd: Command, tmp_path: Path) -> None:
    """With --no-broker there are no queues; where no broker answers, both streams say so.

    Where the configuration is wrong there is no JSON, as with each command.
    """
    env = variables({"broker_url": f"amqp://guest:hunter2@{HOST}:{free_port()}/"})
    done = scraperd("check", "--json", "--no-broker", **env)
    found = json.loads(done.stdout)
    assert (done.returncode, done.stderr, found["faults"]) == (0, "", [])
    assert "queues" not in found
    done = scraperd("check", "--json", **env)
    (fault,) = json.loads(done.stdout)["faults"]
    assert (done.returncode, done.stderr) == (1, f"scraperd: {fault}\n")
    assert "hunter2" not in done.stdout + done.stderr
    (tmp_path / "bad.toml").write_text("concurrency = 0\n")
    done = scraperd("check", "--json", "--config", str(tmp_path / "bad.toml"))
    assert (done.returncode, done.stdout) == (78, "")


def test_check_says_which_callbacks_would_not_be_sent(scraperd: Command, tmp_path: Path) -> None:
    """An endpoint behind the guard, and secrets that all may read, are warnings; no secret is told.

    Without callbacks nothing is said of them.
    """
    secrets = tmp_path / "secrets"
    secrets.write_text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n")
    secrets.chmod(0o644)
    endpoints = {
        "billing": {"url": "https://billing.example/hooks"},
        "inner": {"url": "https://10.0.0.5:8443/hooks"},
    }
    env = variables({"callbacks__secrets_file": str(secrets), "callback_endpoints": endpoints})
    done = scraperd("check", "--no-broker", "--json", **env)
    found = json.loads(done.stdout)
    assert (done.returncode, found["faults"]) == (0, [])
    named = {"endpoints": [*endpoints], "allow_urls": False, "concurrency": 20}
    assert found["callbacks"] == named
    open_, inner = found["warnings"]
    assert open_ == f"{secrets} can be read by every user of this machine"
    assert inner.startswith("callback_endpoints.inner.url: nothing will be sent there: 10.0.0.5 ")
    assert "MfKQ9r8" not in done.stdout
    secrets.chmod(0o600)
    del endpoints["inner"]
    env = variables({"callbacks__secrets_file": str(secrets), "callback_endpoints": endpoints})
    done = scraperd("check", "--no-broker", **env)
    assert "callbacks: endpoints billing; callback_url refused" in done.stdout
    assert (done.returncode, done.stderr) == (0, "")
    assert "callbacks" not in scraperd("check", "--no-broker", **variables({})).stdout
