"""Messages that RabbitMQ 3 cannot deliver by AMQP 0-9-1: set aside, and named by the commands.

May touch: a private broker with AMQP 1.0, the daemon and the commands as subprocesses.
Must never: run on a broker that others use: each such message ends connections.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pika
import pytest

from tests.rig.brokers import amqp10
from tests.rig.brokers.node import Node
from tests.rig.daemon import Daemon, Dispatcher, until, variables

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    from tests.rig.sites.hostel import Hostel


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A RabbitMQ 3 that speaks AMQP 1.0 too."""
    node = Node(tmp_path_factory.mktemp("amqp10"), release="3")
    node.plugins = ("rabbitmq_amqp1_0",)
    with node:
        yield node


@pytest.mark.parametrize("field", ["message_id", "correlation_id"])
def test_a_message_that_the_broker_cannot_deliver_is_set_aside(
    old: Node, prefix: str, hostel: Hostel, field: str
) -> None:
    """It ends each connection. It is found, named with its queue and dead-lettered unread, and each
    job around it has its one good result.
    """
    connection = pika.BlockingConnection(pika.URLParameters(f"{old.url}?heartbeat=0"))
    dispatcher = Dispatcher(connection.channel(), prefix)
    dispatcher.channel.confirm_delivery()
    with Daemon(old.url, prefix).ready():
        pass
    idents = dispatcher.publish_many([hostel.url(f"/page/{n}") for n in range(20)])
    job = f'{{"url": "{hostel.url("/page/evil")}"}}'.encode()
    evil: dict[str, Any] = {field: amqp10.ulong(7)}
    amqp10.publish(old.port, f"{prefix}.jobs", job, **evil)
    idents += dispatcher.publish_many([hostel.url(f"/page/{n}") for n in range(20, 40)])
    with Daemon(old.url, prefix).ready() as daemon:
        dead = f"{prefix}.dead"
        until(lambda: old.counts()[dead][0] == 1, "it is not set aside")
        until(lambda: sum(old.counts()[f"{prefix}.results"][:2]) >= 40, "not all are done")
        found: dict[str, str] = {}
        for _, body in dispatcher.stream("results", 60):  # some may come twice
            result = json.loads(body)
            found[result["id"]] = result["status"]
            if len(found) == 40:
                break
        assert found == dict.fromkeys(idents, "ok")
        said = [(line["queue"], line["moved_to"]) for line in daemon.logged("undeliverable")]
        assert said == [
            (f"{prefix}.jobs", f"{prefix}.undelivered"),
            (f"{prefix}.undelivered", f"{prefix}.dead"),
        ]
        assert not [line for line in daemon.logged("job") if line["verdict"] == "dead"]
        assert daemon.drain() == 0
    assert old.counts()[dead][0] == 1
    connection.close()


def test_the_commands_name_a_letter_that_cannot_be_delivered(
    old: Node, prefix: str, scraperd: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """`dead list` says why it cannot read on, and what removes the letter. That command removes
    this letter, and no other.
    """
    with Daemon(old.url, prefix).ready():
        pass
    connection = pika.BlockingConnection(pika.URLParameters(f"{old.url}?heartbeat=0"))
    dispatcher = Dispatcher(connection.channel(), prefix)
    dispatcher.channel.confirm_delivery()
    for ident in "012":
        dispatcher.publish(b"{}", queue="dead", message_id=ident)
    amqp10.publish(old.port, f"{prefix}.dead", b"{}", message_id=amqp10.ulong(7))
    dispatcher.publish(b"{}", queue="dead", message_id="3")
    env = variables({"broker_url": old.url, "broker__prefix": prefix})
    done = scraperd("dead", "list", **env)
    assert done.returncode == 1
    assert f"fails (541) when it delivers a letter of '{prefix}.dead'" in done.stderr
    assert "scraperd dead purge --undeliverable" in done.stderr
    until(lambda: old.counts()[f"{prefix}.dead"][0] == 5, "the letters are not back")
    at = f"at amqp://{old.url.partition('@')[2]}"
    purge = ("dead", "purge", "--undeliverable")
    assert scraperd(*purge, **env).returncode == 2
    seen = scraperd(*purge, "--dry-run", **env)
    assert (seen.returncode, seen.stdout) == (0, f"would remove one letter or more {at}, unread\n")
    until(lambda: old.counts()[f"{prefix}.dead"][0] == 5, "the letters are not back")
    gone = scraperd(*purge, "--yes", **env)
    assert (gone.returncode, gone.stdout) == (0, f"removed 1 dead letters {at}, unread\n")
    listed = scraperd("dead", "list", **env)
    assert listed.returncode == 0
    assert {json.loads(line)["id"] for line in listed.stdout.splitlines()} == {*"0123"}
    none = scraperd(*purge, "--yes", **env)
    assert (none.returncode, none.stdout) == (0, f"no letter is undeliverable {at}\n")
    connection.close()
