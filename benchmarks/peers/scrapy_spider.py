"""A spider as a user of Scrapy would write it: URLs from a list, items to a file of JSON lines.

May touch: the two files named in its environment, the pages that the list names.
Must never: use a queue; a list is Scrapy's best case.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import scrapy
from scrapy.crawler import CrawlerProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

CONCURRENCY = int(os.environ["BENCH_CONCURRENCY"])
BODY = os.environ.get("BENCH_BODY") == "1"

# As `scrapy startproject` writes them, but for the throttle.
SETTINGS: dict[str, Any] = {
    "ROBOTSTXT_OBEY": True,
    "CONCURRENT_REQUESTS": CONCURRENCY,
    "CONCURRENT_REQUESTS_PER_DOMAIN": CONCURRENCY,
    "DOWNLOAD_DELAY": 0,
    "FEED_EXPORT_ENCODING": "utf-8",
    "FEEDS": {os.environ["BENCH_FEED"]: {"format": "jsonlines"}},
    "LOG_LEVEL": "INFO",
}


def urls() -> Iterator[str]:
    """Read the list, a URL a line."""
    with Path(os.environ["BENCH_URLS"]).open() as lines:
        yield from (line.strip() for line in lines)


class TitleAndLinks(scrapy.Spider):
    """Takes the title and all links of each page of the list."""

    name = "pages"

    async def start(self) -> AsyncIterator[scrapy.Request]:
        """Ask for each page of the list."""
        print("READY", flush=True)
        for url in urls():
            yield scrapy.Request(url)

    def parse(self, response: Any) -> Iterator[dict[str, object]]:
        """Take the title and all links, absolute."""
        found: dict[str, object] = {
            "url": response.url,
            "title": response.css("title::text").get(default=""),
            "links": [
                response.urljoin(link) for link in response.css("a[href]::attr(href)").getall()
            ],
        }
        yield found | ({"body": response.text} if BODY else {})


if __name__ == "__main__":
    crawler = CrawlerProcess(SETTINGS)
    crawler.crawl(TitleAndLinks)
    crawler.start()
