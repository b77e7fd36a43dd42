"""Publish one job by STOMP (stomp.py), wait for its result, and print it.

    pip install stomp.py
    python publish_stomp.py stomp://user:password@localhost:61613 https://example.com/

RabbitMQ needs the plugin rabbitmq_stomp. It makes the queue of replies, which only this connection
can read, and deletes it at the end.
"""

import json
import queue
import sys
import uuid
from urllib.parse import urlsplit

import stomp

JOBS = "/exchange/scraperd.jobs/scraperd.jobs"  # an exchange and a routing key


class Listener(stomp.ConnectionListener):
    """Hands over what the broker sends: it comes in a thread of its own."""

    def __init__(self) -> None:
        self.frames = queue.Queue()

    def put(self, frame: stomp.utils.Frame) -> None:
        """Keep a frame."""
        self.frames.put(frame)

    on_receipt = on_message = on_error = put

    def next(self, wanted: str) -> stomp.utils.Frame:
        """Return the next frame, which has to be this one."""
        frame = self.frames.get(timeout=60)
        if frame.cmd != wanted:
            sys.exit(f"{frame.cmd} instead of {wanted}: {frame.headers} {frame.body}")
        return frame


def main(broker_url: str, page_url: str) -> None:
    """Publish a job and print its result."""
    broker = urlsplit(broker_url)
    connection = stomp.Connection12([(broker.hostname, broker.port or 61613)], vhost="/")
    listener = Listener()
    connection.set_listener("results", listener)
    connection.connect(broker.username, broker.password, wait=True)

    job = {"id": uuid.uuid4().hex, "url": page_url, "extract": {"title": "title"}}
    connection.send(
        JOBS,
        json.dumps(job),
        content_type="application/json",
        headers={
            "persistent": "true",
            "reply-to": "/temp-queue/results",
            "receipt": job["id"],  # comes when RabbitMQ has the job safely
        },
    )
    listener.next("RECEIPT")
    print(listener.next("MESSAGE").body)
    connection.disconnect()


if __name__ == "__main__":
    main(*sys.argv[1:])
