"""A worker as a user of Celery, requests and selectolax would write it.

May touch: the queues named in its environment, the pages that jobs name.
Must never: ack a job before its result is confirmed.
"""

from __future__ import annotations

import os
import sys

import requests
from celery import Celery
from celery.signals import worker_ready
from kombu import Queue
from requests.adapters import HTTPAdapter

from benchmarks.peers.page import take

PREFIX = os.environ["BENCH_PREFIX"]
# A process does one job at a time, so more of them than cores fetch while others parse.
PROCESSES = int(os.environ["BENCH_PROCESSES"])

app = Celery("bench", broker=os.environ["BENCH_BROKER_URL"])
app.conf.update(
    broker_transport_options={"confirm_publish": True},
    task_queues=[
        Queue(f"{PREFIX}.jobs", queue_arguments={"x-queue-type": "quorum"}, no_declare=True)
    ],
    task_default_queue=f"{PREFIX}.jobs",
    task_acks_late=True,
    task_ignore_result=True,
    worker_concurrency=PROCESSES,
    worker_prefetch_multiplier=max(1, int(os.environ["BENCH_CONCURRENCY"]) // PROCESSES),
    worker_enable_remote_control=False,
)
session = requests.Session()  # each process has its own copy, with no connection in it yet
session.mount("http://", HTTPAdapter(pool_maxsize=1))


@worker_ready.connect
def tell(**_: object) -> None:
    """Say that jobs are consumed."""
    print("READY", flush=True)


@app.task(name="scrape")
def scrape(url: str) -> None:
    """Publish the result and return once it is confirmed; then the job is acked."""
    response = session.get(url, timeout=30)
    response.raise_for_status()
    result = {"url": url, **take(response.content, response.url)}
    with app.producer_or_acquire() as producer:
        producer.publish(
            result, exchange=f"{PREFIX}.results", routing_key="ok", serializer="json", retry=True
        )


if __name__ == "__main__":
    quiet = ["--loglevel=WARNING", "--without-gossip", "--without-mingle", "--pool=prefork"]
    sys.exit(app.worker_main(["worker", *quiet]))
