"""Publish one job by RabbitMQ's own HTTP API, poll for its result, and print it.

    python publish_http.py http://user:password@localhost:15672 https://example.com/

RabbitMQ needs the plugin rabbitmq_management, and the user the tag `management`. RabbitMQ does not
recommend this API for many messages: each is a request, and the result has to be polled for.
"""

import base64
import json
import sys
import time
import urllib.request
import uuid
from urllib.parse import urlsplit

VHOST = "%2F"
JOBS = "scraperd.jobs"


def main(broker_url: str, page_url: str) -> None:
    """Publish a job and print its result."""
    broker = urlsplit(broker_url)
    login = base64.b64encode(f"{broker.username}:{broker.password}".encode()).decode()

    def ask(method: str, path: str, content: dict) -> list | dict | None:
        """Return what RabbitMQ answers, decoded. Raises HTTPError."""
        request = urllib.request.Request(
            f"{broker.scheme}://{broker.hostname}:{broker.port or 15672}/api/{path}",
            json.dumps(content).encode(),
            {"Authorization": f"Basic {login}", "Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or "null")

    job = {"id": uuid.uuid4().hex, "url": page_url, "extract": {"title": "title"}}
    replies = f"queues/{VHOST}/scraperd.reply.{job['id']}"
    # Deleted when nobody has asked for ten minutes, should this program end before the result.
    ask("PUT", replies, {"durable": True, "arguments": {"x-expires": 600_000}})
    message = {
        "routing_key": JOBS,
        "properties": {"delivery_mode": 2, "reply_to": f"scraperd.reply.{job['id']}"},
        "payload": json.dumps(job),
        "payload_encoding": "string",
    }
    if not ask("POST", f"exchanges/{VHOST}/{JOBS}/publish", message)["routed"]:
        sys.exit("no queue took the job")

    wanted = {"count": 1, "ackmode": "ack_requeue_false", "encoding": "auto"}
    while not (found := ask("POST", f"{replies}/get", wanted)):
        time.sleep(0.5)
    print(found[0]["payload"])
    ask("DELETE", replies, {})


if __name__ == "__main__":
    main(*sys.argv[1:])
