"""scraperd: an asyncio scraper daemon between two RabbitMQ queues.

May touch: nothing. This file names the version, and that is all.
Must never: import anything, so that reading the version stays free.
"""

__version__ = "0.1.0"
