"""`scraperd results`: print results, copies of new ones or those of the queue.

May touch: the broker, the terminal, the exit code.
Must never: ack a result that is not printed.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

import click

from scraperd.broker.rabbitmq import client
from scraperd.broker.rabbitmq.topology import Topology
from scraperd.cli.console import epilog, say
from scraperd.cli.shared.client import WINDOW, run_client
from scraperd.cli.shared.messages import show_message
from scraperd.cli.shared.options import Number, config_of, with_config

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from scraperd.broker.rabbitmq.client import Received
    from scraperd.config.settings import Config


@click.command(
    "results",
    epilog=epilog(
        "scraperd results --key 'failed.#' --count 1",
        "scraperd results --consume --idle 2 > results.jsonl",
    ),
)
@with_config
@click.option("--key", default="#", show_default=True, help="Topic pattern, like 'failed.#'.")
@click.option("--consume", is_flag=True, help="Take results off the results queue instead.")
@click.option("--count", type=click.IntRange(min=1), default=None, help="Stop after this many.")
@click.option(
    "--idle",
    type=Number(min=0, min_open=True),
    default=None,
    metavar="SECONDS",
    help="Stop after so long without a result.",
)
def command(
    path: Path | None, *, key: str, consume: bool, count: int | None, idle: float | None
) -> None:
    """Print results as JSON lines: a copy of each new one, or with --consume the queue's own.

    Without --count and --idle it goes on until Ctrl-C. --consume removes a result from the queue
    once its line is written out. After a crash the last lines may come again, and none is missing.
    """
    config = config_of(path)
    if consume and key != "#":
        raise click.UsageError("--key works on copies; the results queue has them all")
    run_client(_results(config, key, consume=consume, count=count, idle=idle))


async def _results(
    config: Config, key: str, *, consume: bool, count: int | None, idle: float | None
) -> int:
    topology = Topology(config.broker.prefix)
    async with client.connected(config.broker_urls, config.fetch.connect_timeout) as session:
        if consume:
            await client.count(session.channel, topology.results)
            queue = await session.channel.get_queue(topology.results, ensure=False)
        else:
            queue = await client.tap(session, topology, key)
            say(f"copies of new results ({key}) at {session.broker}; Ctrl-C ends", err=True)
        window = min(count or WINDOW, WINDOW)
        seen = 0
        try:
            async with aclosing(client.messages(queue, prefetch=window)) as stream:
                while seen != count and (received := await _next(stream, idle)) is not None:
                    show_message(received.body, queue.name)
                    seen += 1
                    await received.ack()  # printed first: a result that was not seen is not gone
        finally:
            what = f"taken off {topology.results}" if consume else "copied"
            say(f"{seen} results {what} at {session.broker}", err=True)
    return 0


async def _next(stream: AsyncGenerator[Received], idle: float | None) -> Received | None:
    """Return the next result; None if none comes within `idle` seconds."""
    try:
        async with asyncio.timeout(idle):
            return await anext(stream)
    except TimeoutError:
        return None
