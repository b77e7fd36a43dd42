"""Jobs by AMQP 1.0, STOMP, MQTT and RabbitMQ's HTTP API, by real clients, and their results.

May touch: examples/protocols/, run as users run it; the clients; private nodes and a daemon.
Must never: change a program but for the prefix of the queues.
"""

from __future__ import annotations

import json
import queue
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from paho.mqtt.client import CallbackAPIVersion, Client, MQTTMessage, MQTTv5, MQTTv311
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.rig.brokers import amqp10
from tests.rig.brokers.users import User
from tests.rig.clients.interpreters import proton, python
from tests.rig.daemon import until, variables

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    from tests.doors.conftest import Doors
    from tests.rig.clients.interpreters import Interpreter
    from tests.rig.sites.hostel import Hostel

EXAMPLES = Path(__file__).parents[2] / "examples/protocols"
HERE = Path(__file__).parent
PUBLISHING = (EXAMPLES.parents[1] / "docs/publishing.md").read_text()
PROGRAMS: dict[str, tuple[Callable[[], Interpreter], str]] = {
    "publish_amqp10": (proton, "amqp"),
    "publish_stomp": (python, "stomp"),
    "publish_mqtt311": (python, "mqtt"),
    "publish_mqtt": (python, "mqtt"),
    "publish_http": (python, "http"),
}


def permit(user: User, program: str, prefix: str) -> None:
    """Give a user the permissions that docs/publishing.md has for this program, and no more."""
    [row] = re.findall(rf"^\|.*?`{program}\.py`.*$", PUBLISHING, re.MULTILINE)
    *_, configure, write, read = re.findall(r"`(\^[^`]*)`", row)
    own = [
        text.replace(r"\|", "|").replace("scraperd", prefix) for text in (configure, write, read)
    ]
    user.permit(*own)
    if "http" in program:
        user.tag("management")


def run(program: str, doors: Doors, user: User, page: str, folder: Path) -> str:
    """What a program prints; if it fails, what it says of that."""
    interpreter, protocol = PROGRAMS[program]
    text = (EXAMPLES / f"{program}.py").read_text()
    file = folder / f"{program}.py"
    file.write_text(re.sub(r"scraperd(?=[./])", doors.prefix, text))
    done: subprocess.CompletedProcess[str] = interpreter().run(
        file, doors.url(protocol, user.name), page
    )
    return done.stdout if done.returncode == 0 else f"failed: {done.stderr}"


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_publishes_a_job_and_reads_its_result(
    program: str, doors: Doors, user: User, hostel: Hostel, tmp_path: Path
) -> None:
    """With the permissions of its row in the document. RabbitMQ 3 refuses MQTT 5, and the program
    says so.
    """
    permit(user, program, doors.prefix)
    page = hostel.url(f"/page/{program}")
    told = run(program, doors, user, page, tmp_path)
    if program == "publish_mqtt" and doors.node.release == "3":
        assert "failed: not connected" in told
        return
    result = json.loads(told)
    assert (result["status"], result["url"]) == ("ok", page)
    assert result["data"]["title"] == f"/page/{program}"
    assert hostel.hits[f"/page/{program}"] == 1


def test_what_a_body_and_its_properties_become(doors: Doors, hostel: Hostel) -> None:
    """A text and data are jobs, in each form that AMQP 1.0 has. Other values are refused, and the
    result says what to send. Each result has the properties of its own, and the job's where
    RabbitMQ hands them on. Addresses are of the newest form that the broker takes.
    """
    name = f"{doors.prefix}.jobs"
    jobs, replies = f"/exchange/{name}/{name}", f"/amq/queue/{doors.prefix}.reply.bodies"
    if doors.node.release == "4":
        jobs, replies = f"/exchanges/{name}/{name}", f"/queues/{doors.prefix}%2Ereply.bodies"
    doors.dispatcher.channel.queue_declare(f"{doors.prefix}.reply.bodies", durable=True)
    page = hostel.url("/flaky/1/")  # the first time 503: each job is retried
    done = proton().run(HERE / "bodies.py", doors.url("amqp"), jobs, replies, page)
    assert done.returncode == 0, done.stderr
    results = {result["correlation_id"]: result for result in json.loads(done.stdout)}
    for kind in ("string", "binary", "data"):
        body = results[kind]["body"]
        assert (body["status"], body["id"], body["attempt"]) == ("ok", kind, 2)
    for kind in ("map", "sequence"):
        error = results[kind]["body"]["error"]
        assert error["kind"] == "invalid_job"
        assert f"the body is a {kind} of AMQP 1.0: send the job as JSON" in error["message"]
    theirs = {} if doors.node.release == "3" else {"own": "text"}
    for result in results.values():
        assert result["content_type"] == "application/json"
        assert result["reply_to"] is None
        assert result["properties"] == theirs
        assert "x-scraperd-dropped-headers" not in result["annotations"]


def test_several_sections_of_data(doors: Doors, hostel: Hostel) -> None:
    """RabbitMQ 4 joins them. RabbitMQ 3 hands them out in another order: the job is refused.

    The application properties come back as headers, from both.
    """
    job = json.dumps({"url": hostel.url("/page/several"), "id": "several"}).encode()
    body = amqp10.data(job[:9]) + amqp10.data(job[9:])
    ident = amqp10.text("several")
    jobs = f"{doors.prefix}.jobs"
    own = amqp10.application_properties("own", amqp10.text("text"))
    amqp10.publish(
        doors.node.port, jobs, body, message_id=ident, application_properties=own, framed=True
    )
    found = ((told, json.loads(body)) for told, body in doors.dispatcher.stream("results", 20))
    told, result = next((told, result) for told, result in found if result["id"] == "several")
    assert told.headers["own"] == "text"
    assert "x-scraperd-dropped-headers" not in told.headers
    if doors.node.release == "3":
        assert "RabbitMQ 3 does not keep their order" in result["error"]["message"]
    else:
        assert result["status"] == "ok"


@contextmanager
def subscribed(doors: Doors, topic: str) -> Iterator[tuple[Client, queue.Queue[MQTTMessage]]]:
    """An MQTT client of the newest version that the node takes, and the messages of a topic."""
    version = MQTTv311 if doors.node.release == "3" else MQTTv5
    client = Client(CallbackAPIVersion.VERSION2, protocol=version)
    messages: queue.Queue[MQTTMessage] = queue.Queue()
    ready: queue.Queue[str] = queue.Queue()
    client.on_connect = lambda *_: client.subscribe(topic, qos=1)
    client.on_subscribe = lambda *told: ready.put(str(told[3]))
    client.on_message = lambda *told: messages.put(told[2])
    client.username_pw_set("guest", "guest")
    client.connect("127.0.0.1", doors.ports["mqtt"])
    client.loop_start()
    assert "Granted QoS 1" in ready.get(timeout=20)
    yield client, messages
    client.disconnect()
    client.loop_stop()


def test_a_job_of_any_protocol_can_have_its_result_sent_to_a_topic(
    doors: Doors, hostel: Hostel
) -> None:
    """A header that ends the connection of an MQTT client of RabbitMQ 3 stays behind."""
    job = {"url": hostel.url("/page/topic"), "id": "topic"}
    jobs = doors.dispatcher
    with subscribed(doors, f"{doors.prefix}/reply/me") as (_, messages):
        headers = {"x-mqtt-publish-qos": "evil", "own": "text"}
        jobs.publish(job, reply_to=f"/topic/{doors.prefix}.reply.me", headers=headers)
        message = messages.get(timeout=20)
        assert (json.loads(message.payload)["id"], message.qos) == ("topic", 1)


@pytest.mark.parametrize("node", ["4"], indirect=True)
def test_a_result_has_what_a_job_by_mqtt_5_said(doors: Doors, hostel: Hostel) -> None:
    """Correlation data of any bytes and user properties come back, and no response topic. A job
    that no queue takes is told of.
    """
    job = json.dumps({"url": hostel.url("/page/mqtt"), "id": "mqtt"})
    topic = f"{doors.prefix}/reply/mqtt"
    with subscribed(doors, topic) as (client, messages):
        reasons: queue.Queue[str] = queue.Queue()
        client.on_publish = lambda *told: reasons.put(str(told[3]))
        for data in (b"text", b"\xff\x00\xfe"):
            properties = Properties(PacketTypes.PUBLISH)
            properties.ResponseTopic = topic
            properties.CorrelationData = data
            properties.UserProperty = [("own", "text")]
            client.publish(f"{doors.prefix}/jobs", job, qos=1, properties=properties)
            assert reasons.get(timeout=20) == "Success"
            found = messages.get(timeout=20).properties
            assert found.CorrelationData == data
            assert ("own", "text") in found.UserProperty
            assert found.ContentType == "application/json"
            assert not hasattr(found, "ResponseTopic")
        client.publish(f"{doors.prefix}/no", job, qos=1)
        assert reasons.get(timeout=20) == "No matching subscribers"


@pytest.mark.parametrize("topic", ["other.me", "{prefix}.jobs"])
def test_a_topic_that_is_not_allowed_gets_no_result(
    topic: str, doors: Doors, hostel: Hostel
) -> None:
    """It goes to the results queue, and says which address was refused."""
    address = f"/topic/{topic.format(prefix=doors.prefix)}"
    job = {"url": hostel.url("/page/refused"), "id": topic}
    doors.dispatcher.publish(job, reply_to=address)
    for properties, body in doors.dispatcher.stream("results", 20):
        if json.loads(body)["id"] == topic:
            assert properties.headers["x-scraperd-unroutable-reply-to"] == address
            break
    doors.daemon.wait_for_line(lambda line: '"reply_refused"' in line and address in line)


def test_a_topic_that_the_broker_refuses_costs_only_its_own_result(
    doors: Doors, hostel: Hostel
) -> None:
    """Its result goes to the results queue, and the log says which command grants the topic."""
    User(doors.node, "guest").permit_topics("amq.topic", r"^(?!.*\.forbidden$)")
    topic = f"{doors.prefix}.reply.forbidden"
    job = {"url": hostel.url("/page/forbidden"), "id": "forbidden"}
    doors.dispatcher.publish(job, reply_to=f"/topic/{topic}")
    found = doors.dispatcher.stream("results", 20)
    headers = next(told.headers for told, body in found if json.loads(body)["id"] == "forbidden")
    assert headers["x-scraperd-unroutable-reply-to"] == f"/topic/{topic}"
    doors.daemon.wait_for_line(lambda line: '"publish_refused"' in line)  # the log may come later
    [said] = doors.daemon.logged("publish_refused")
    assert said["exchange"] == "amq.topic"
    assert f"lacks write on the topic '{topic}' of the exchange 'amq.topic'" in said["error"]
    assert not doors.daemon.logged("broker_lost")


@pytest.mark.parametrize("node", ["4"], indirect=True)
def test_the_check_names_the_permission_that_topics_need(
    doors: Doors, user: User, scraperd: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """It is a warning: the daemon works without. The command that it names grants all."""
    ours = rf"^{doors.prefix}\."
    user.permit(ours, rf"{ours}|^amq\.default$", ours)
    allowed = ["/topic/{prefix}.reply.*"]
    url = doors.node.url.replace("guest:guest", f"{user.name}:{user.name}")
    settings = {"broker_url": url, "broker__prefix": doors.prefix}
    env = variables({**settings, "broker__allow_reply_to": allowed})
    done = scraperd("check", **env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no topic gets a result (broker.allow_reply_to)" in done.stdout + done.stderr
    assert r"|^amq\.default$|^amq\.topic$'" in done.stdout + done.stderr


def test_a_job_that_rabbitmq_cannot_hand_out_is_set_aside(doors: Doors, hostel: Hostel) -> None:
    """RabbitMQ fails over a number as an id (3) or a UUID as a property (4.0). Other jobs go on."""
    job = json.dumps({"url": hostel.url("/page/evil")}).encode()
    jobs = f"{doors.prefix}.jobs"
    before = doors.dispatcher.depth("dead")
    if doors.node.release == "3":
        amqp10.publish(doors.node.port, jobs, job, correlation_id=amqp10.ulong(7))
    else:
        odd = amqp10.application_properties("odd", amqp10.uuid(bytes(16)))
        amqp10.publish(doors.node.port, jobs, job, application_properties=odd)
    until(lambda: doors.dispatcher.depth("dead") == before + 1, "it is not set aside")
    doors.daemon.wait_for_line(lambda line: '"undeliverable"' in line)
