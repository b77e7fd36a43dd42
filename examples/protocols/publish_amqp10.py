"""Publish one job by AMQP 1.0 (Qpid Proton), wait for its result, and print it.

    apt install python3-qpid-proton
    python3 publish_amqp10.py amqp://user:password@localhost:5672 https://example.com/

RabbitMQ 4 speaks AMQP 1.0 by itself; RabbitMQ 3 needs the plugin rabbitmq_amqp1_0.
"""

import json
import sys
import uuid

from proton import Message
from proton.utils import BlockingConnection

JOBS = "/exchange/scraperd.jobs/scraperd.jobs"  # an exchange and a routing key
REPLIES = "/queue/scraperd.reply.amqp10"  # RabbitMQ creates it. Each dispatcher needs another name


def main(broker_url: str, page_url: str) -> None:
    """Publish a job and print its result."""
    connection = BlockingConnection(broker_url, timeout=60, allowed_mechs="PLAIN")
    results = connection.create_receiver(REPLIES)

    job = {"id": uuid.uuid4().hex, "url": page_url, "extract": {"title": "title"}}
    message = Message(
        json.dumps(job).encode(),
        inferred=True,  # as data, and not as a value of AMQP's own types
        durable=True,
        content_type="application/json",
        correlation_id=job["id"],  # a text: RabbitMQ 3 cannot hand out a job with a number here
        reply_to=REPLIES,
    )
    connection.create_sender(JOBS).send(message)  # raises unless RabbitMQ accepts the job

    while (result := results.receive(timeout=60)).correlation_id != job["id"]:
        results.accept()  # of an earlier run of this program
    print(result.body.decode())
    results.accept()
    connection.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
