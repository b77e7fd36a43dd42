"""A worker as a user of FastStream, aiohttp and selectolax would write it.

May touch: the queues named in its environment, the pages that jobs name.
Must never: ack a job before its result is confirmed.
"""

from __future__ import annotations

import os

import aiohttp
import uvloop
from faststream import AckPolicy, FastStream
from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitExchange, RabbitQueue
from pydantic import BaseModel

from benchmarks.peers.page import take

PREFIX = os.environ["BENCH_PREFIX"]
CONCURRENCY = int(os.environ["BENCH_CONCURRENCY"])

broker = RabbitBroker(
    os.environ["BENCH_BROKER_URL"],
    default_channel=Channel(prefetch_count=CONCURRENCY, publisher_confirms=True),
    logger=None,
)
app = FastStream(broker, logger=None)
jobs = RabbitQueue(f"{PREFIX}.jobs", queue_type=QueueType.QUORUM, durable=True, declare=False)
results = RabbitExchange(f"{PREFIX}.results", declare=False)
sessions: list[aiohttp.ClientSession] = []


class Job(BaseModel):
    """What is taken from a message of the queue."""

    url: str


@app.on_startup
async def open_session() -> None:
    """Keep one session, so that connections stay open from job to job."""
    connector = aiohttp.TCPConnector(limit=CONCURRENCY)
    sessions.append(aiohttp.ClientSession(connector=connector, raise_for_status=True))


@app.after_startup
async def tell() -> None:
    """Say that jobs are consumed."""
    print("READY", flush=True)


@app.after_shutdown
async def close_session() -> None:
    """Close the connections to the sites."""
    await sessions.pop().close()


@broker.subscriber(jobs, ack_policy=AckPolicy.REJECT_ON_ERROR)
@broker.publisher(exchange=results, routing_key="ok", persist=True)
async def scrape(job: Job) -> dict[str, object]:
    """Return the result, which is published and confirmed before the job is acked."""
    async with sessions[0].get(job.url) as response:
        page = await response.read()
    return {"url": job.url, **take(page, str(response.url))}


if __name__ == "__main__":
    uvloop.run(app.run())
