"""`scraperd host`: what each daemon knows of a host.

May touch: the configuration, the broker, the terminal, the exit code.
Must never: change anything, or ask the host.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from scraperd.base.jsonline import dumps
from scraperd.base.urls import named_host
from scraperd.broker.rabbitmq.inquiry.asking import asking
from scraperd.broker.rabbitmq.topology import Topology
from scraperd.cli.console import EXIT_FAILED, EXIT_USAGE, epilog, fail, say, show
from scraperd.cli.fleet import words
from scraperd.cli.shared.client import run_client
from scraperd.cli.shared.options import config_of, with_config
from scraperd.ops.fleet.asked import ask_all

if TYPE_CHECKING:
    from pathlib import Path

    from scraperd.config.settings import Config


@click.command("host", epilog=epilog("scraperd host example.com"))
@with_config
@click.option("--json", "as_json", is_flag=True, help="One line of JSON for each process.")
@click.argument("host")
def command(path: Path | None, host: str, *, as_json: bool) -> None:
    """Print what each daemon knows of HOST: permits, delay, robots.txt, penalty, last failures.

    HOST is a name, an address, or a URL. Exits with 1 if no daemon answers, or one is silent.
    """
    if (name := named_host(host)) is None:
        fail(f"{host!r} is not a host name or an address", EXIT_USAGE)
    run_client(_host(config_of(path), name, as_json=as_json))


async def _host(config: Config, host: str, *, as_json: bool) -> int:
    prefix = config.broker.prefix
    async with asking(config.broker_urls, prefix, config.fetch.connect_timeout) as asker:
        fleet = await ask_all(asker, Topology(prefix), "host", host, queues=False)
    for it in fleet.statuses:
        if as_json:
            show(dumps({"process": it.name, "state": it.state, **msgspec.to_builtins(it.about)}))
        else:
            for line in words.about(it):
                say(line)
    say(f"{host}: {len(fleet.statuses)} processes answer, {fleet.silent} silent", err=True)
    return EXIT_FAILED if fleet.silent or not fleet.statuses else 0
