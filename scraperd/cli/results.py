"""`scraperd results`: print results, copies of new ones or those of the queue.

May touch: the broker, the terminal, the exit code.
Must never: ack a result that is not printed.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

import click

from scraperd.broker.rabbitmq import client
from scraperd.broker.rabbitmq.topology import Topology
from scraperd.cli.console import EPILOG, say
from scraperd.cli.shared.client import WINDOW, run_client
from scraperd.cli.shared.messages import show_message
from scraperd.cli.shared.options import config_of, with_config

if TYPE_CHECKING:
    from pathlib import Path

    from scraperd.config.settings import Config


@click.command("results", epilog=EPILOG)
@with_config
@click.option("--key", default="#", show_default=True, help="Topic pattern, like 'failed.#'.")
@click.option("--consume", is_flag=True, help="Take results off the results queue instead.")
@click.option("--count", type=click.IntRange(min=1), default=None, help="Stop after this many.")
def command(path: Path | None, key: str, consume: bool, count: int | None) -> None:  # noqa: FBT001
    """Print results as JSON lines: a copy of each new one, or with --consume the queue's own."""
    config = config_of(path)
    if consume and key != "#":
        raise click.UsageError("--key works on copies; the results queue has them all")
    run_client(_results(config, key, consume=consume, count=count))


async def _results(config: Config, key: str, *, consume: bool, count: int | None) -> int:
    topology = Topology(config.broker.prefix)
    async with client.connected(config.broker_urls, config.fetch.connect_timeout) as channel:
        if consume:
            await client.count(channel, topology.results)
            queue = await channel.get_queue(topology.results, ensure=False)
        else:
            queue = await client.tap(channel, topology, key)
            say(f"copies of new results ({key}); Ctrl-C ends", err=True)
        seen = 0
        async with aclosing(
            client.messages(queue, prefetch=min(count or WINDOW, WINDOW))
        ) as stream:
            async for received in stream:
                show_message(received.body, queue.name)
                await received.ack()  # printed first: a result that was not seen is not gone
                seen += 1
                if seen == count:
                    break
    return 0
