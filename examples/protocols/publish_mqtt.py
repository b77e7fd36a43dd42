"""Publish one job by MQTT 5 (paho-mqtt), wait for its result, and print it.

    pip install paho-mqtt
    python publish_mqtt.py mqtt://user:password@localhost:1883 https://example.com/

RabbitMQ needs version 4 and the plugin rabbitmq_mqtt, a binding of the jobs queue to `amq.topic`,
and `/topic/scraperd.reply.*` in broker.allow_reply_to (docs/publishing.md).
"""

import json
import queue
import sys
import uuid
from urllib.parse import urlsplit

from paho.mqtt.client import CallbackAPIVersion, Client, MQTTv5
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

JOBS = "scraperd/jobs"  # a topic; RabbitMQ makes it the routing key `scraperd.jobs`
REPLIES = "scraperd/reply/"


def main(broker_url: str, page_url: str) -> None:
    """Publish a job and print its result."""
    events = queue.Queue()  # the client calls back in a thread of its own
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
    client.on_connect = client.on_disconnect = lambda *told: events.put(told[3])
    client.on_subscribe = lambda *told: events.put(told[3][0])
    client.on_publish = lambda *told: events.put(told[3])
    client.on_message = lambda *told: events.put(told[2].payload)

    def done(what: str) -> None:
        """Wait for the broker's answer."""
        reason = events.get(timeout=60)
        if reason.getName() not in {"Success", "Granted QoS 1"}:
            sys.exit(f"{what}: {reason}")

    broker = urlsplit(broker_url)
    client.username_pw_set(broker.username, broker.password)
    client.connect(broker.hostname, broker.port or 1883)
    client.loop_start()
    done("not connected")
    job = {"id": uuid.uuid4().hex, "url": page_url, "extract": {"title": "title"}}
    client.subscribe(REPLIES + job["id"], qos=1)
    done("not subscribed")

    properties = Properties(PacketTypes.PUBLISH)
    properties.ResponseTopic = REPLIES + job["id"]
    client.publish(JOBS, json.dumps(job), qos=1, properties=properties)
    done("the job was not taken")  # No matching subscribers: the jobs queue is not bound
    print(events.get(timeout=60).decode())
    client.disconnect()
    client.loop_stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
