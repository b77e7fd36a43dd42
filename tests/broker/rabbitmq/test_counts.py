"""What RabbitMQ says of a queue that is too busy to be counted.

May touch: a private RabbitMQ, and a process of it that is suspended.
Must never: wait for luck.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pika

from scraperd.broker.rabbitmq.wire.dial import dial

if TYPE_CHECKING:
    from tests.rig.brokers.node import Node


async def test_a_queue_that_is_too_busy_to_be_counted_is_not_empty(
    node: Node, broker_url: str, prefix: str
) -> None:
    """RabbitMQ says that it holds nothing, after a quarter of a second. It is asked again until it
    has time to answer.
    """
    name = f"{prefix}.counted"
    broker = pika.BlockingConnection(pika.URLParameters(broker_url))
    channel = broker.channel()
    channel.confirm_delivery()
    channel.queue_declare(name, durable=True, arguments={"x-queue-type": "quorum"})
    channel.basic_publish("", name, b"a letter")
    connection = await dial(broker_url, "counts", 0, 10)
    try:
        asking = await connection.channel()
        assert await asking.count(name) == (1, 0)
        node.eval(f"sys:suspend('%2F_{name}')")
        try:
            assert await asking.declare_queue(name, passive=True) == (0, 0)
            counting = asyncio.create_task(asking.count(name))
            await asyncio.wait({counting}, timeout=1)
            assert not counting.done()
        finally:
            node.eval(f"sys:resume('%2F_{name}')")
        assert await counting == (1, 0)
    finally:
        await connection.close(5)
        channel.queue_delete(name)
        broker.close()
