"""The floor: a worker with no feature at all, from the same libraries, to measure the daemon by.

May touch: aio-pika, aiohttp, lexbor, uvloop, the queues named in its environment.
Must never: import scraperd, or be taken for a worker: it loses jobs and believes every URL.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from urllib.parse import urljoin

import aio_pika
import aiohttp
import msgspec
import uvloop
from aio_pika.abc import AbstractIncomingMessage, DeliveryMode
from selectolax.lexbor import LexborHTMLParser


async def main(*, absolute: bool) -> None:
    """Consume, fetch, parse, publish confirmed, ack; until SIGTERM."""
    prefix, prefetch = os.environ["BENCH_PREFIX"], int(os.environ["BENCH_CONCURRENCY"])
    with_body = os.environ.get("BENCH_BODY") == "1"
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    connection = await aio_pika.connect(os.environ["BENCH_BROKER_URL"])
    connector = aiohttp.TCPConnector(limit=0)
    async with connection, aiohttp.ClientSession(connector=connector) as session:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=prefetch)
        queue = await channel.get_queue(f"{prefix}.jobs")
        results = await channel.get_exchange(f"{prefix}.results")

        async def on_message(message: AbstractIncomingMessage) -> None:
            url = msgspec.json.decode(message.body)["url"]
            async with session.get(url) as response:
                page = await response.read()
            found = {"url": url, **take(page, url if absolute else "")}
            if with_body:
                found["body"] = page.decode()
            body = msgspec.json.encode(found)
            answer = aio_pika.Message(body, delivery_mode=DeliveryMode.PERSISTENT)
            await results.publish(answer, "ok")
            await message.ack()

        await queue.consume(on_message)
        print("READY", flush=True)
        await stop.wait()


def take(page: bytes, base: str) -> dict[str, object]:
    """The title and every link; absolute if there is a base."""
    tree = LexborHTMLParser(page)
    title = tree.css_first("title")
    links = [node.attributes.get("href") for node in tree.css("a[href]")]
    if base:
        links = [urljoin(base, link or "") for link in links]
    return {"title": title.text() if title is not None else None, "links": links}


if __name__ == "__main__":
    uvloop.run(main(absolute="--absolute" in sys.argv))
