"""A dispatcher (C+D) to copy: publish jobs, consume results, match them by id.

It takes every result of the shared results queue as its own. With several dispatchers, give each a
durable queue of its own, called `scraperd.reply.` and what you like, and name it in `reply_to`, or
they will eat each other's results.

Run it while a scraperd runs on the same broker:
    python examples/dispatcher.py amqp://guest:guest@localhost:5672/ https://example.com/ ...
"""

import json
import sys
import uuid

import pika

PREFIX = "scraperd"
RULES = {"title": "title", "headings": {"selector": "h1, h2", "type": "list"}}


def dispatch(broker_url: str, urls: list[str], prefix: str = PREFIX) -> dict[str, dict]:
    """Scrape `urls` and return the result of each job by its id."""
    connection = pika.BlockingConnection(pika.URLParameters(broker_url))
    channel = connection.channel()
    channel.confirm_delivery()  # basic_publish now raises unless the broker has the job safely

    waiting = {uuid.uuid4().hex: url for url in urls}
    for job_id, url in waiting.items():
        job = {"id": job_id, "url": url, "extract": RULES}
        persistent = pika.BasicProperties(delivery_mode=2, content_type="application/json")
        channel.basic_publish("", f"{prefix}.jobs", json.dumps(job), persistent, mandatory=True)

    results: dict[str, dict] = {}
    channel.basic_qos(prefetch_count=100)
    for method, _, body in channel.consume(f"{prefix}.results"):
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
