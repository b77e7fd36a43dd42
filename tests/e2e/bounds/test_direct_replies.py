"""RPC clients that wait on amq.rabbitmq.reply-to: they get their results, or the queue gets them.

May touch: nodes of its own; the daemon as a child; pika as the client.
Must never: reach into the daemon; what came of it is read from queues and logs.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from typing import TYPE_CHECKING, Any

import pika

from scraperd.broker.rabbitmq.reply_patterns import is_direct
from tests.rig.brokers.users import User
from tests.rig.daemon import Daemon

if TYPE_CHECKING:
    from tests.rig.brokers.node import Node
    from tests.rig.daemon import Dispatcher
    from tests.rig.sites.hostel import Hostel

DIRECT = "amq.rabbitmq.reply-to"
REFUSED = "http://127.0.0.1:9/"
WENT_ELSEWHERE = "x-scraperd-unroutable-reply-to"


class Client:
    """An RPC client, as RabbitMQ's tutorial has it: one channel, no queue."""

    def __init__(self, broker_url: str, prefix: str) -> None:
        self.connection = pika.BlockingConnection(pika.URLParameters(broker_url))
        self.channel = self.connection.channel()
        self.prefix = prefix
        self.got: dict[str, dict[str, Any]] = {}
        self.channel.basic_consume(DIRECT, self._take, auto_ack=True)

    def ask(self, ident: str, url: str) -> None:
        """Publish a job; its result comes to this client."""
        properties = pika.BasicProperties(reply_to=DIRECT, correlation_id=ident, delivery_mode=2)
        body = json.dumps({"url": url, "id": ident}).encode()
        jobs = f"{self.prefix}.jobs"
        self.channel.basic_publish(jobs, jobs, body, properties, mandatory=True)

    def results(self, count: int) -> dict[str, dict[str, Any]]:
        """Wait for so many results, by their correlation ids."""
        deadline = time.monotonic() + 60
        while len(self.got) < count:
            assert time.monotonic() < deadline, f"{len(self.got)} of {count} results"
            self.connection.process_data_events(0.1)
        return self.got

    def _take(self, _channel: Any, _method: Any, properties: Any, body: bytes) -> None:
        self.got[properties.correlation_id] = json.loads(body)


def forged(key: bytes, number: int) -> str:
    """A name as RabbitMQ makes them, of a node that the cluster does not have."""
    process = b"\x83Xv\0\x0ereply@%08d" % number + bytes(12)
    return f"{DIRECT}.{base64.b64encode(process).decode()}.{base64.b64encode(key).decode()}"


def test_a_client_gets_its_results(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """Each one once, also after a retry, and none is in the results queue."""
    with Daemon(broker_url, prefix, jobs__max_retries=1).ready() as daemon:
        client = Client(broker_url, prefix)
        for number in range(20):
            client.ask(f"job {number}", hostel.url(f"/page/{number}"))
        client.ask("late", REFUSED)
        results = client.results(21)
        client.connection.close()
        assert daemon.drain() == 0
    assert results.keys() == {f"job {number}" for number in range(20)} | {"late"}
    assert {result["status"] for ident, result in results.items() if ident != "late"} == {"ok"}
    assert (results["late"]["status"], results["late"]["attempt"]) == ("failed", 2)
    assert dispatcher.depth("results") == 0
    assert not daemon.logged("broker_lost")


def test_the_result_of_a_client_that_is_gone_is_in_the_results_queue(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """With a header that names the address. It is published once, and the job is not fetched
    again.
    """
    with Daemon(broker_url, prefix).ready() as daemon:
        client = Client(broker_url, prefix)
        client.ask("gone", hostel.url("/hold"))
        hostel.wait_for(lambda hits: hits["/hold"] == 1)
        client.connection.close()
        hostel.release()
        properties, body = dispatcher.take("results")
        assert daemon.drain() == 0
    assert json.loads(body)["id"] == properties.correlation_id == "gone"
    assert is_direct(properties.headers[WENT_ELSEWHERE])
    assert hostel.hits["/hold"] == 1
    assert [line["verdict"] for line in daemon.logged("job")] == ["done"]
    assert not daemon.logged("broker_lost")


def test_made_up_addresses_harm_no_other_reply(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """Of a node that is not there, or not as RabbitMQ writes them: their results are in the
    results queue, and the clients beside them get theirs.
    """
    names = [forged(secrets.token_bytes(16), number) for number in range(5)]
    names += [f"{DIRECT}.g1h.x", f"{DIRECT}.", f"{DIRECT}.{'A' * 60}.{'B' * 22}=="]
    with Daemon(broker_url, prefix).ready() as daemon:
        client = Client(broker_url, prefix)
        for number, name in enumerate(names):
            job = {"url": hostel.url("/page/1"), "id": f"forged {number}"}
            dispatcher.publish(job, reply_to=name)
            client.ask(f"job {number}", hostel.url("/page/2"))
        assert len(client.results(len(names))) == len(names)
        found = {}
        for properties, body in dispatcher.stream("results", 30):
            found[json.loads(body)["id"]] = properties.headers[WENT_ELSEWHERE]
            if len(found) == len(names):
                break
        client.connection.close()
        assert daemon.drain() == 0
    assert found == {f"forged {number}": name for number, name in enumerate(names)}
    assert not daemon.logged("broker_lost")


def test_the_documented_permissions_are_enough(
    node: Node, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """The daemon configures its own queues only, and the client may publish jobs and no more."""
    ours, jobs = rf"^{prefix}\.", rf"^{prefix}\.jobs$"
    server, dispatching = User.add(node, f"{prefix}d"), User.add(node, f"{prefix}c")
    server.permit(ours, rf"{ours}|^amq\.default$", ours)
    dispatching.permit("^$", jobs, "^$")
    with Daemon(server.url, prefix).ready() as daemon:
        client = Client(dispatching.url, prefix)
        client.ask("a", hostel.url("/page/1"))
        assert client.results(1)["a"]["status"] == "ok"
        client.connection.close()
        assert daemon.drain() == 0
    assert dispatcher.depth("results") == 0
