"""The least that a consumer can do and lose nothing: it answers without a page, and acks.

May touch: the private broker; the jobs, the results and the dead queue of one prefix.
Must never: fetch, retry, or read a message that is larger than a job may be: it is moved.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import pika
from pika.exceptions import AMQPError

from scraperd.base.urls import host_of
from scraperd.contract import Result
from scraperd.jobs.settle import routing_key

if TYPE_CHECKING:
    from pika.adapters.blocking_connection import BlockingChannel
    from pika.spec import Basic, BasicProperties

PREFETCH: Final = 200  # as the daemon has it
LONGEST: Final = 524_288  # bytes: jobs.max_size
HONEST: Final = b'{"id": "honest/'


def main(url: str, prefix: str) -> None:
    """Consume until a signal ends the process; a lost connection is replaced at once."""
    while True:
        with suppress(AMQPError):
            consume(url, prefix)


def consume(url: str, prefix: str) -> None:
    """Consume until the connection ends. Raises AMQPError."""
    channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
    channel.basic_qos(prefetch_count=PREFETCH)
    channel.confirm_delivery()

    def came(
        channel: BlockingChannel, method: Basic.Deliver, properties: BasicProperties, body: bytes
    ) -> None:
        route, result = "failed.invalid_job", b"{}"
        if len(body) > LONGEST:
            channel.basic_publish("", f"{prefix}.dead", body, properties)
        elif body.startswith(HONEST):
            job = json.loads(body)
            route, result = key(job["url"]), json.dumps({"id": job["id"], "status": "ok"}).encode()
        channel.basic_publish(f"{prefix}.results", route, result)
        channel.basic_ack(method.delivery_tag or 0)

    channel.basic_consume(f"{prefix}.jobs", came)
    channel.start_consuming()


def key(url: str) -> str:
    """The routing key of a result that is ok."""
    result = Result(id="", url=url, status="ok", attempt=1, http_status=200)
    return routing_key(result, host_of(url))


if __name__ == "__main__":
    main(*sys.argv[1:3])
