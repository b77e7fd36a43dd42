"""Callbacks by a real daemon and broker: sent once, signed, through kills, dead and replayed.

May touch: a private broker, the daemon and the commands as subprocesses, receivers on loopback.
Must never: wait for a time of the ladder beyond its first step.
"""

from __future__ import annotations

import json
import signal
import sys
from base64 import b64encode
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from standardwebhooks.webhooks import Webhook

from tests.rig.brokers.wire import Wire, settling
from tests.rig.clients.interpreters import javascript
from tests.rig.clients.receiver import SECRET, Receiver
from tests.rig.daemon import Daemon, until
from tests.rig.ports import free_port
from tests.rig.process import Process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Command
    from tests.rig.brokers.node import Node
    from tests.rig.daemon import Dispatcher
    from tests.rig.sites.hostel import Hostel

OTHER = "whsec_" + b64encode(bytes(range(32))).decode()
EXAMPLES = Path(__file__).parents[2] / "examples/callbacks"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """One that takes all."""
    with Receiver() as found:
        yield found


@pytest.fixture
def settings(receiver: Receiver, tmp_path: Path, callback_queues: None) -> dict[str, Any]:
    """Settings with an endpoint `billing` and with URLs; their queues are deleted at the end."""
    del callback_queues
    secrets = tmp_path / "secrets"
    secrets.write_text(f"{SECRET}\n{OTHER}\n")
    return {
        "callbacks__allow_urls": True,
        "callbacks__secrets_file": str(secrets),
        "callback_endpoints": {"billing": {"url": f"{receiver.url}/billing"}},
    }


@pytest.fixture
def daemon_of(broker_url: str, prefix: str, settings: dict[str, Any]) -> Callable[..., Daemon]:
    """Make a daemon with these settings, and others."""
    return partial(Daemon, broker_url, prefix, **settings)


def test_each_result_is_called_back_signed_and_as_it_is_published(
    daemon_of: Callable[..., Daemon], dispatcher: Dispatcher, hostel: Hostel, receiver: Receiver
) -> None:
    """By name and by URL, good and bad jobs; a job that may not ask is invalid, in words."""
    with daemon_of().ready() as daemon:
        page = hostel.url("/page/1")
        dispatcher.publish({"url": page, "id": "a", "callback": "billing"})
        dispatcher.publish({"url": page, "id": "b", "callback_url": f"{receiver.url}/own"})
        dispatcher.publish({"url": hostel.url("/none"), "id": "c", "callback": "billing"})
        dispatcher.publish({"url": page, "id": "d", "callback": "billing", "extract": {"x": "h1["}})
        dispatcher.publish({"url": page, "id": "e", "callback": "others"})
        dispatcher.publish({"url": page, "id": "f"})
        away = f"http://127.0.0.1:{free_port()}/"
        dispatcher.publish({"url": away, "id": "g", "callback": "billing", "max_retries": 1})
        results = {result["id"]: result for result in dispatcher.results(7)}
        taken = {one.data["id"]: one for one in receiver.until(5)}
        assert daemon.drain() == 0
    assert taken.keys() == {"a", "b", "c", "d", "g"}
    assert all(one.data == results[ident] for ident, one in taken.items())
    assert {ident: one.path for ident, one in taken.items()} == {
        **dict.fromkeys("acdg", "/billing"),
        "b": "/own",
    }
    assert results["d"]["error"]["kind"] == "invalid_job"
    assert "no endpoint is named others here" in results["e"]["error"]["message"]
    Webhook(OTHER).verify(taken["a"].body, taken["a"].headers)
    assert results["g"]["attempt"] == 2
    assert len(receiver.taken) == 5  # none for the attempt that was tried again
    assert dispatcher.depth("callbacks") == dispatcher.depth("callbacks.dead") == 0


def test_the_end_of_a_batch_is_called_back(
    daemon_of: Callable[..., Daemon], dispatcher: Dispatcher, hostel: Hostel, receiver: Receiver
) -> None:
    """Once, signed, with the message that is published; and its URL is in no result."""
    url = f"{receiver.url}/batch?token=secret"
    batch = {"id": "b", "size": 2, "callback_url": url}
    with daemon_of(batches__enabled=True).ready() as daemon:
        for ident in "xy":
            dispatcher.publish({"url": hostel.url("/page/1"), "id": ident, "batch": batch})
        found = dispatcher.results(3)
        [one] = receiver.until(1)
        assert daemon.drain() == 0
    [end] = [it for it in found if it.get("event") == "batch.done"]
    event = Webhook(SECRET).verify(one.body, one.headers)
    assert (event["type"], event["data"], one.path) == (
        "scraperd.batch",
        end,
        "/batch?token=secret",
    )
    assert "secret" not in json.dumps(found)


def test_a_callback_is_confirmed_before_its_job_is_acked(  # noqa: PLR0917 - fixtures
    node: Node,
    broker_url: str,
    prefix: str,
    dispatcher: Dispatcher,
    hostel: Hostel,
    settings: dict[str, Any],
) -> None:
    """Off the wire: the result, its confirm, the callback, its confirm, and only then the ack."""
    assert broker_url == node.url
    with (
        Wire(node.port) as wire,
        Daemon(wire.url, prefix, **settings, callbacks__concurrency=0).ready(),
    ):
        dispatcher.publish({"url": hostel.url("/page/1"), "id": "a", "callback": "billing"})
        seen = wire.wait_for(lambda seen: settling(seen).count("ack") == 1)
    result, stored = "publish ok.200.127-0-0-1", f"publish {prefix}.callbacks"
    assert settling(seen) == [result, "confirm", stored, "confirm", "ack"]
    assert dispatcher.depth("callbacks") == 1


def test_a_held_callback_holds_no_job_and_survives_a_kill(  # noqa: PLR0917 - fixtures
    daemon_of: Callable[..., Daemon],
    node: Node,
    prefix: str,
    dispatcher: Dispatcher,
    hostel: Hostel,
    receiver: Receiver,
) -> None:
    """Results and acks go on while no receiver answers; after kill -9 each callback comes again."""
    receiver.held.clear()
    jobs = 60
    with daemon_of(callbacks__timeout=60).ready() as daemon:
        urls = [hostel.url(f"/page/{number}") for number in range(jobs)]
        dispatcher.publish_many(urls, callback="billing")
        assert len(dispatcher.results(jobs)) == jobs
        until(lambda: node.counts()[f"{prefix}.jobs"][:2] == (0, 0))  # all acks are applied
        first = {one.ident for one in receiver.until(4)}
        assert len(receiver.taken) == 4  # callbacks.per_host_concurrency
        daemon.kill()
    receiver.held.set()
    with daemon_of().ready() as daemon:
        until(lambda: len({one.ident for one in receiver.taken}) == jobs)
        until(lambda: sum(one.ident in first for one in receiver.taken) == 2 * len(first))
        assert daemon.drain() == 0
    assert len({one.data["id"] for one in receiver.taken}) == jobs
    assert dispatcher.depth("results") == 0


def test_a_failed_callback_comes_again_after_the_first_step(
    daemon_of: Callable[..., Daemon], dispatcher: Dispatcher, hostel: Hostel, receiver: Receiver
) -> None:
    """Through the delay tiers of the broker, with the same id and a new timestamp."""
    receiver.status = 404
    with daemon_of().ready() as daemon:
        dispatcher.publish({"url": hostel.url("/page/1"), "id": "a", "callback": "billing"})
        receiver.until(1)
        daemon.wait_for_line('"event":"callback_failed"')
        receiver.status = 204
        one, two = receiver.until(2)
        assert daemon.drain() == 0
    assert (one.ident, one.body) == (two.ident, two.body)
    assert int(two.headers["webhook-timestamp"]) - int(one.headers["webhook-timestamp"]) >= 5
    assert two.data["id"] == "a"


def test_a_reload_closes_an_address_for_callbacks_too(  # noqa: PLR0917 - fixtures
    daemon_of: Callable[..., Daemon],
    dispatcher: Dispatcher,
    hostel: Hostel,
    receiver: Receiver,
    settings: dict[str, Any],
    tmp_path: Path,
) -> None:
    """The guard of callbacks has the settings of now, though it is not that of pages."""
    file = tmp_path / "config.toml"
    file.write_text("[fetch]\ndeny_networks = []\n")
    options = ("--config", str(file))
    with daemon_of(options=options).ready() as daemon:
        dispatcher.publish({"url": hostel.url("/page/1"), "id": "a", "callback": "billing"})
        receiver.until(1)
        file.write_text('[fetch]\ndeny_networks = ["127.0.0.0/8"]\n')
        daemon.send_signal(signal.SIGHUP)
        daemon.wait_for_line('"event":"reloaded"')
        dispatcher.publish({"url": hostel.url("/page/2"), "id": "b", "callback": "billing"})
        line = json.loads(daemon.wait_for_line('"event":"callback_dead"'))
        assert (line["id"], line["reason"]) == ("b", "blocked")
        assert daemon.drain() == 0
    assert len(receiver.taken) == 1


def test_dead_callbacks_are_listed_replayed_and_purged(  # noqa: PLR0917 - fixtures
    daemon_of: Callable[..., Daemon],
    dispatcher: Dispatcher,
    hostel: Hostel,
    receiver: Receiver,
    scraperd: Command,
    env: dict[str, str],
) -> None:
    """A replay keeps the id and is signed again; what was forged is left unless it is chosen."""
    receiver.status = 410
    with daemon_of().ready() as daemon:
        for ident in "abc":
            dispatcher.publish({"url": hostel.url("/page/1"), "id": ident, "callback": "billing"})
        dispatcher.publish(b"{}", queue="callbacks")
        until(lambda: dispatcher.depth("callbacks.dead") == 4)
        listed = scraperd("callbacks", "list", **env)
        lines = [json.loads(line) for line in listed.stdout.splitlines()]
        assert sorted(line["reason"] for line in lines) == ["forged", "gone", "gone", "gone"]
        assert {line["id"] for line in lines if line["reason"] == "gone"} == {*"abc"}
        purged = scraperd("callbacks", "purge", "--id", "a", "--yes", **env)
        assert purged.stdout.startswith("removed 1 of 4 dead callbacks at "), purged
        receiver.status = 204
        replayed = scraperd("callbacks", "replay", "--all", **env)
        assert replayed.stdout.startswith("replayed 2 of 3 dead callbacks at "), replayed
        receiver.until(5)
        assert daemon.drain() == 0
    before, after = receiver.taken[:3], receiver.taken[3:]
    assert {one.ident for one in after} == {one.ident for one in before if one.data["id"] != "a"}
    assert dispatcher.depth("callbacks.dead") == 1


def test_no_secret_ends_the_start_and_the_check(
    env: dict[str, str], scraperd: Command, tmp_path: Path
) -> None:
    """With exit code 78, the setting, and what to write; never with what the file holds."""
    on = {**env, "SCRAPERD_CALLBACKS__ALLOW_URLS": "true"}
    for command in (["run"], ["check", "--no-broker"]):
        without = scraperd(*command, **on)
        assert without.returncode == 78, without
        assert "callbacks.secrets_file: not set" in without.stdout + without.stderr
    file = tmp_path / "secrets"
    file.write_text("whsec_hunter2")
    wrong = scraperd("check", "--no-broker", **on, SCRAPERD_CALLBACKS__SECRETS_FILE=str(file))
    assert wrong.returncode == 78
    assert "callbacks.secrets_file: line 1 " in wrong.stderr
    assert "hunter2" not in wrong.stdout + wrong.stderr


def test_without_the_extra_an_ed25519_key_ends_the_start_and_the_check(
    env: dict[str, str], scraperd: Command, tmp_path: Path
) -> None:
    """With exit code 78, the setting, and what to install; a whsec_ secret needs no extra."""
    (tmp_path / "cryptography.py").write_text("raise ModuleNotFoundError('not installed')\n")
    file = tmp_path / "secrets"
    file.write_text(f"whsk_{b64encode(bytes(32)).decode()}\n")
    on = {
        **env,
        "PYTHONPATH": str(tmp_path),
        "SCRAPERD_CALLBACKS__ALLOW_URLS": "true",
        "SCRAPERD_CALLBACKS__SECRETS_FILE": str(file),
    }
    for command in (["run"], ["check", "--no-broker"]):
        done = scraperd(*command, **on)
        assert done.returncode == 78, done
        said = done.stdout + done.stderr
        assert "callbacks.secrets_file: a whsk_ secret needs the extra `callbacks`" in said
        assert "pip install 'scraperd[callbacks]'" in said
    file.write_text(f"{SECRET}\n")
    assert scraperd("check", "--no-broker", **on).returncode == 0


@contextmanager
def example(words: list[str], name: str, cwd: Path) -> Iterator[tuple[Process, str]]:
    """A receiver of the examples, and its URL."""
    with Process([*words, EXAMPLES / name, "0"], env={"SECRET": SECRET}, cwd=cwd) as process:
        port = process.wait_for_line("listening on port").rpartition(" ")[2]
        yield process, f"http://127.0.0.1:{port}/"


def in_python(tmp_path: Path) -> tuple[list[str], str, Path]:
    return [sys.executable], "receiver.py", tmp_path


def in_javascript(tmp_path: Path) -> tuple[list[str], str, Path]:
    del tmp_path
    node = javascript()
    return node.words, "receiver.mjs", Path(node.env["NODE_PATH"]).parent


@pytest.mark.parametrize("how", [in_python, in_javascript])
def test_the_example_receivers_verify_and_answer(
    daemon_of: Callable[..., Daemon],
    how: Callable[[Path], tuple[list[str], str, Path]],
    dispatcher: Dispatcher,
    hostel: Hostel,
    tmp_path: Path,
) -> None:
    """With the library of the standard's authors, in each language, run as a reader runs them."""
    with (
        example(*how(tmp_path)) as (process, url),
        daemon_of(log__level="debug").ready() as daemon,
    ):
        dispatcher.publish({"url": hostel.url("/page/1"), "id": "a", "callback_url": url})
        assert process.wait_for_line(" a ok").startswith("msg_")
        daemon.wait_for_line('"event":"callback_delivered"')
        assert daemon.drain() == 0
