"""The programs of docs/publishing.md, each run as it stands there with the client it is for.

May touch: the document, to read; programs in a temporary folder; a private broker and a daemon.
Must never: hold a program of its own, or change one but for the prefix of the queues.
"""

from __future__ import annotations

import json
import re
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pika
import pytest

from scraperd.broker.rabbitmq.topology import Topology
from tests.rig.brokers.users import User
from tests.rig.clients.interpreters import CLIENTS, Interpreter
from tests.rig.daemon import Daemon

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    from pika.adapters.blocking_connection import BlockingChannel

    from tests.rig.brokers.node import Node
    from tests.rig.sites.hostel import Hostel

    Publish = Callable[..., subprocess.CompletedProcess[str]]

PAGE = (Path(__file__).parents[2] / "docs" / "publishing.md").read_text()
PROGRAMS = dict(
    re.findall(
        r"^## (\S+)\n(?:(?!## )[^\n]*\n)*?```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL
    )
)
ROWS = re.findall(r"^\| \[([\w-]+)\]\(#.*?\|.*?\| (\w+) \| (\w+) \| (\w+) \|$", PAGE, re.MULTILINE)
CONFIRMED = [name for name, *promises in ROWS if promises == ["yes", "yes", "yes"]]

WORDS = {  # ours, and those of the clients that raise by themselves
    "returned": "no queue took the job|UnroutableError|NO_ROUTE",
    "rejected": "the broker rejected the job|NackError|message nacked|DeliveryError",
}


class Place(NamedTuple):
    """A prefix on the shared node, and the user who may publish jobs there and do no more."""

    prefix: str
    url: str
    channel: BlockingChannel


@pytest.fixture(scope="module")
def place(node: Node) -> Iterator[Place]:
    """A prefix with a publisher, who has the permissions that the documents name."""
    prefix = f"t{secrets.token_hex(3)}"
    user = User.add(node, prefix)
    own = rf"^{prefix}\.reply\.|^amq\.gen-"
    user.permit(configure=own, write=rf"^{prefix}\.jobs$", read=own)
    parameters = pika.URLParameters(node.url)
    parameters.heartbeat = 0
    with pika.BlockingConnection(parameters) as connection:
        yield Place(prefix, user.url, connection.channel())
        topology = Topology(prefix)
        channel = connection.channel()
        for queue in topology.queues:
            channel.queue_delete(queue.name)
        for name, _ in topology.exchanges:
            channel.exchange_delete(name)
    user.delete()


@pytest.fixture(scope="module")
def daemon(node: Node, place: Place) -> Iterator[Daemon]:
    """A daemon on these queues."""
    with Daemon(node.url, place.prefix).ready() as running:
        yield running


@pytest.fixture
def publish(place: Place, tmp_path: Path) -> Publish:
    """Run the program of a client with a page; another prefix and another user may be named."""

    def run(
        client: str, page: str, prefix: str = "", broker: str = ""
    ) -> subprocess.CompletedProcess[str]:
        interpreter: Interpreter = CLIENTS[client]()
        file = tmp_path / f"publish{interpreter.suffix}"
        file.write_text(PROGRAMS[client].replace("scraperd.", f"{prefix or place.prefix}."))
        return interpreter.run(file, f"{(broker or place.url).rstrip('/')}/%2F", page)

    return run


def test_the_page_has_a_program_for_each_client() -> None:
    """The table, the headings and the rig name the same clients."""
    assert [name for name, *_ in ROWS] == list(PROGRAMS) == list(CLIENTS)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_program_publishes_a_job_and_reads_its_result(
    client: str,
    publish: Publish,
    place: Place,
    daemon: Daemon,
    hostel: Hostel,
) -> None:
    """It prints the result and ends well. The job was persistent, and the queue of replies is gone.

    Its user may do no more than a publisher may.
    """
    copies = place.channel.queue_declare("", exclusive=True).method.queue
    jobs = f"{place.prefix}.jobs"
    place.channel.queue_bind(copies, jobs, jobs)
    done = publish(client, hostel.url("/page/7"))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["status"], result["url"]) == ("ok", hostel.url("/page/7"))
    assert result["data"]["title"]
    _, properties, body = place.channel.basic_get(copies, auto_ack=True)
    place.channel.queue_delete(copies)
    assert properties.delivery_mode == 2
    assert json.loads(body).get("id", result["id"]) == result["id"]
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="NOT_FOUND"):
        place.channel.connection.channel().queue_declare(properties.reply_to, passive=True)


@pytest.mark.parametrize("client", CONFIRMED)
@pytest.mark.parametrize("trouble", ["returned", "rejected"])
def test_a_job_that_is_not_taken_is_an_error(
    client: str, trouble: str, publish: Publish, place: Place, node: Node
) -> None:
    """A program whose job no queue takes, or whose job the broker rejects, says so and fails."""
    prefix, channel = f"{place.prefix}{trouble}", place.channel
    jobs = f"{prefix}.jobs"
    channel.exchange_declare(jobs, auto_delete=False)
    if trouble == "rejected":
        full = {"x-max-length": 0, "x-overflow": "reject-publish"}
        channel.queue_declare(jobs, exclusive=True, arguments=full)
        channel.queue_bind(jobs, jobs, jobs)
    done = publish(client, "http://example.com/", prefix, node.url)
    channel.queue_delete(jobs)
    channel.exchange_delete(jobs)
    assert done.returncode != 0
    assert re.search(WORDS[trouble], done.stderr + done.stdout), done
