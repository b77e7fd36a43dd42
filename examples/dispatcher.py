"""A dispatcher (C+D) to copy: publish jobs, consume results, survive a crash at any moment.

What was asked for stands in a file, before it is published. Stopped at any point, start it again
with the same file: it publishes what is not known to be safe, and waits for what is still missing.
A job may run twice then, and its second result is dropped, by `id` and `run`.

Results come to a durable queue of its own. Give each dispatcher another NAME. Its user on the
broker needs write on the exchange `scraperd.jobs`, and configure and read on `scraperd.reply.*`.
Run it while a scraperd runs on the same broker:
    python examples/dispatcher.py amqp://user:password@localhost:5672/ https://example.com/ ...
"""

import json
import sqlite3
import sys
import uuid

import pika
from pika.adapters.blocking_connection import BlockingChannel

PREFIX, NAME, FILE = "scraperd", "dispatcher", "dispatcher.db"
RULES = {"title": "title", "headings": {"selector": "h1, h2", "type": "list"}}
MAX_OTHERS = 50  # results that we did not ask for; so many mean that something is wrong
TABLE = """create table if not exists jobs
    (id text primary key, url text, published int default 0, run int default 0, result text)"""


def dispatch(broker_url: str, urls: list[str], prefix: str = PREFIX, file: str = FILE) -> None:
    """Scrape `urls`, and what the file still lacks a result of."""
    known = sqlite3.connect(file)
    known.execute(TABLE)
    known.executemany(
        "insert into jobs (id, url) values (?, ?)", [(uuid.uuid4().hex, url) for url in urls]
    )
    known.commit()  # from now on they are not forgotten

    connection = pika.BlockingConnection(pika.URLParameters(broker_url))
    channel = connection.channel()
    channel.confirm_delivery()  # basic_publish now raises unless the broker has the job safely
    mine = f"{prefix}.reply.{NAME}"
    channel.queue_declare(mine, durable=True, arguments={"x-queue-type": "quorum"})
    publish(channel, known, f"{prefix}.jobs", mine)
    consume(channel, known, mine)
    connection.close()  # what was not acked goes back into the queue


def publish(channel: BlockingChannel, known: sqlite3.Connection, jobs: str, mine: str) -> None:
    """Publish the jobs that are not known to be safe; at worst one of them twice."""
    for job_id, url in known.execute("select id, url from jobs where not published").fetchall():
        job = {"id": job_id, "url": url, "extract": RULES}
        persistent = pika.BasicProperties(delivery_mode=2, reply_to=mine)
        channel.basic_publish(jobs, jobs, json.dumps(job), persistent, mandatory=True)
        known.execute("update jobs set published = 1 where id = ?", [job_id])
        known.commit()


def consume(channel: BlockingChannel, known: sqlite3.Connection, mine: str) -> None:
    """Take results until each job has one. Results of other dispatchers stay in the queue."""
    others = 0
    channel.basic_qos(prefetch_count=2 * MAX_OTHERS)
    while known.execute("select 1 from jobs where result is null").fetchone():
        method, _, body = next(channel.consume(mine))
        result = json.loads(body)
        row = known.execute("select run from jobs where id = ?", [result["id"]]).fetchone()
        if row is None:  # no ack: it belongs to another dispatcher
            others += 1
            print(f"not ours: {result['id']}", file=sys.stderr)
            if others == MAX_OTHERS:
                sys.exit(f"{mine} has results of others: does another dispatcher use this NAME?")
            continue
        if result.get("run", 1) > row[0]:  # else it is a duplicate
            handle(result)
            known.execute(
                "update jobs set result = ?, run = ? where id = ?",
                [body, result.get("run", 1), result["id"]],
            )
            known.commit()
        channel.basic_ack(method.delivery_tag)  # only now: a crash above brings the result again


def handle(result: dict) -> None:
    """Do what the results are for, in a way that may be done twice. Here: print one line."""
    if result["status"] == "ok":
        print(f"ok      {result['url']}  {result['data']['title']}")
    else:
        print(f"failed  {result['url']}  {result['error']['kind']}: {result['error']['message']}")


if __name__ == "__main__":
    if len(sys.argv) < 2:  # noqa: PLR2004
        sys.exit("usage: dispatcher.py BROKER_URL [PAGE_URL...]")
    dispatch(sys.argv[1], sys.argv[2:])
