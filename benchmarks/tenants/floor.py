"""The least that a consumer can do and lose nothing: it answers without a page, and acks.

May touch: the private broker; the jobs, the results and the dead queue of one prefix.
Must never: fetch, retry, or read a message that is larger than a job may be: it is moved.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from functools import partial
from queue import Queue
from threading import Thread
from typing import TYPE_CHECKING, Final

import pika
from pika.exceptions import AMQPError

from scraperd.base.urls import host_of
from scraperd.contract import Result
from scraperd.jobs.settle import routing_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from pika.adapters.blocking_connection import BlockingChannel
    from pika.spec import Basic, BasicProperties

PREFETCH: Final = 200  # as the daemon has it
LONGEST: Final = 524_288  # bytes: jobs.max_size
HONEST: Final = b'{"id": "honest/'


def main(url: str, prefix: str, answer: str) -> None:
    """Consume until a signal ends the process; a lost connection is replaced at once."""
    large: Queue[Callable[[], None]] = Queue()
    if int(answer):
        Thread(target=publish, args=(url, prefix, b"x" * int(answer), large), daemon=True).start()
    while True:
        with suppress(AMQPError):
            consume(url, prefix, large if int(answer) else None)


def publish(url: str, prefix: str, body: bytes, wanted: Queue[Callable[[], None]]) -> None:
    """Publish a large answer for each that is wanted, and then do what that is followed by.

    In a thread, on a connection of its own: no other answer waits for a large one here.
    """
    parameters = pika.URLParameters(url)
    parameters.heartbeat = 0
    channel = pika.BlockingConnection(parameters).channel()
    channel.confirm_delivery()
    while True:
        then = wanted.get()
        channel.basic_publish(f"{prefix}.results", "ok.200.evil", body)
        then()


def consume(url: str, prefix: str, large: Queue[Callable[[], None]] | None) -> None:
    """Consume until the connection ends. Raises AMQPError."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.basic_qos(prefetch_count=PREFETCH)
    channel.confirm_delivery()

    def came(
        channel: BlockingChannel, method: Basic.Deliver, properties: BasicProperties, body: bytes
    ) -> None:
        route, result = "failed.invalid_job", b"{}"
        ack = partial(channel.basic_ack, method.delivery_tag or 0)
        if large is not None and not body.startswith(HONEST):
            large.put(partial(connection.add_callback_threadsafe, ack))
            return
        if len(body) > LONGEST:
            channel.basic_publish("", f"{prefix}.dead", body, properties)
        elif body.startswith(HONEST):
            job = json.loads(body)
            route, result = key(job["url"]), json.dumps({"id": job["id"], "status": "ok"}).encode()
        channel.basic_publish(f"{prefix}.results", route, result)
        ack()

    channel.basic_consume(f"{prefix}.jobs", came)
    channel.start_consuming()


def key(url: str) -> str:
    """The routing key of a result that is ok."""
    result = Result(id="", url=url, status="ok", attempt=1, http_status=200)
    return routing_key(result, host_of(url))


if __name__ == "__main__":
    main(*sys.argv[1:4])
