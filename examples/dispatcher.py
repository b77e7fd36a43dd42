"""A dispatcher (C+D) to copy: publish jobs, consume results, match them by id.

Results come to a durable queue of its own. Give each dispatcher another NAME, or they will eat each
other's results. Its user on the broker needs write on the exchange `scraperd.jobs`, and configure
and read on queues `scraperd.reply.*`. Run it while a scraperd runs on the same broker:
    python examples/dispatcher.py amqp://user:password@localhost:5672/ https://example.com/ ...
"""

import json
import sys
import uuid

import pika

PREFIX, NAME = "scraperd", "dispatcher"
RULES = {"title": "title", "headings": {"selector": "h1, h2", "type": "list"}}


def dispatch(broker_url: str, urls: list[str], prefix: str = PREFIX) -> dict[str, dict]:
    """Scrape `urls` and return the result of each job by its id."""
    connection = pika.BlockingConnection(pika.URLParameters(broker_url))
    channel = connection.channel()
    channel.confirm_delivery()  # basic_publish now raises unless the broker has the job safely

    jobs, mine = f"{prefix}.jobs", f"{prefix}.reply.{NAME}"
    channel.queue_declare(mine, durable=True, arguments={"x-queue-type": "quorum"})
    waiting = {uuid.uuid4().hex: url for url in urls}
    for job_id, url in waiting.items():
        job = {"id": job_id, "url": url, "extract": RULES}
        persistent = pika.BasicProperties(delivery_mode=2, reply_to=mine)
        channel.basic_publish(jobs, jobs, json.dumps(job), persistent, mandatory=True)

    results: dict[str, dict] = {}
    channel.basic_qos(prefetch_count=100)
    for method, _, body in channel.consume(mine):
        result = json.loads(body)
        if result["id"] in waiting:  # delivery is at least once: a second result has the same id
            del waiting[result["id"]]
            results[result["id"]] = result
            handle(result)
        channel.basic_ack(method.delivery_tag)  # only now: a crash above brings the result again
        if not waiting:
            break
    channel.cancel()
    connection.close()
    return results


def handle(result: dict) -> None:
    """Do what the results are for. Here: print one line."""
    if result["status"] == "ok":
        print(f"ok      {result['url']}  {result['data']['title']}")
    else:
        print(f"failed  {result['url']}  {result['error']['kind']}: {result['error']['message']}")


if __name__ == "__main__":
    if len(sys.argv) < 3:  # noqa: PLR2004
        sys.exit("usage: dispatcher.py BROKER_URL PAGE_URL...")
    dispatch(sys.argv[1], sys.argv[2:])
