"""Publish one job by MQTT 3.1.1 (paho-mqtt), wait for its result, and print it.

    pip install paho-mqtt
    python publish_mqtt311.py mqtt://user:password@localhost:1883 https://example.com/

RabbitMQ needs the plugin rabbitmq_mqtt, a binding of the jobs queue to `amq.topic`, and a binding
of `amq.topic` to the results (docs/publishing.md). By MQTT 3.1.1 a job cannot say where its result
is wanted: this program is sent all results, and keeps its own.
"""

import json
import queue
import sys
import uuid
from urllib.parse import urlsplit

from paho.mqtt.client import CallbackAPIVersion, Client, MQTTv311

JOBS = "scraperd/jobs"  # a topic; RabbitMQ makes it the routing key `scraperd.jobs`
RESULTS = ["ok/#", "failed/#"]  # the routing keys of results


def main(broker_url: str, page_url: str) -> None:
    """Publish a job and print its result."""
    events = queue.Queue()  # the client calls back in a thread of its own
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv311)
    client.on_connect = lambda *told: events.put(told[3])
    client.on_subscribe = lambda *told: events.put(told[3])
    client.on_message = lambda *told: events.put(told[2].payload)

    broker = urlsplit(broker_url)
    client.username_pw_set(broker.username, broker.password)
    client.connect(broker.hostname, broker.port or 1883)
    client.loop_start()
    if (reason := events.get(timeout=60)).is_failure:
        sys.exit(f"not connected: {reason}")
    client.subscribe([(topic, 1) for topic in RESULTS])
    if any(reason.is_failure for reason in events.get(timeout=60)):
        sys.exit("not subscribed")

    job = {"id": uuid.uuid4().hex, "url": page_url, "extract": {"title": "title"}}
    client.publish(JOBS, json.dumps(job), qos=1).wait_for_publish(60)
    while json.loads(result := events.get(timeout=60))["id"] != job["id"]:
        pass  # of another client
    print(result.decode())
    client.disconnect()
    client.loop_stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
