"""`scraperd status`: the whole fleet on one screen, or with --capacity what the broker has to bear.

May touch: the configuration, the broker, the terminal, the exit code.
Must never: change anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from scraperd.base.jsonline import dumps
from scraperd.broker.rabbitmq.inquiry.asking import asking
from scraperd.broker.rabbitmq.topology import Topology
from scraperd.cli.console import EXIT_FAILED, epilog, say, show
from scraperd.cli.fleet import capacity, words
from scraperd.cli.shared.client import run_client
from scraperd.cli.shared.options import config_of, with_config
from scraperd.ops.fleet.asked import Fleet, ask_all

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

    from scraperd.config.settings import Config


@click.command("status", epilog=epilog("scraperd status", "scraperd status --capacity --json"))
@with_config
@click.option("--capacity", "sheet", is_flag=True, help="What the broker has to bear.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON.")
def command(path: Path | None, *, sheet: bool, as_json: bool) -> None:
    """Ask all daemons of the prefix how they are, and the broker what is in the queues.

    Waits a second at most. Exits with 1 if no daemon answers, or one is silent.
    """
    run_client(_status(config_of(path), sheet=sheet, as_json=as_json))


async def _status(config: Config, *, sheet: bool, as_json: bool) -> int:
    prefix = config.broker.prefix
    async with asking(config.broker_urls, prefix, config.fetch.connect_timeout) as asker:
        fleet = await ask_all(asker, Topology(prefix), "capacity" if sheet else "status")
    if as_json:
        show(dumps(capacity.values(fleet) if sheet else values(fleet)))
    else:
        for line in capacity.lines(fleet) if sheet else lines(fleet, prefix):
            say(line)
    return EXIT_FAILED if fleet.silent or not fleet.statuses else 0


def values(fleet: Fleet) -> dict[str, Any]:
    """The fleet as JSON has it."""
    return {
        "broker": fleet.broker,
        "silent": fleet.silent,
        "processes": [_without_parts(msgspec.to_builtins(it)) for it in fleet.statuses],
        "queues": {
            name: None if count is None else {"ready": count[0], "consumers": count[1]}
            for name, count in fleet.queues.items()
        },
    }


def _without_parts(status: dict[str, Any]) -> dict[str, Any]:
    """Without the parts that were not asked for."""
    return {name: value for name, value in status.items() if value is not None}


def lines(fleet: Fleet, prefix: str) -> Iterator[str]:
    """The fleet as a person reads it."""
    count = len(fleet.statuses)
    rate = sum(it.rates.get("done", 0.0) for it in fleet.statuses)
    yield (
        f"{prefix} at {fleet.broker}: {count} processes answer, {fleet.silent} silent; "
        f"{rate:.1f} pages/s in the last minute"
    )
    yield from words.remarks(fleet)
    if fleet.statuses:
        yield ""
        yield from words.processes(fleet.statuses)
        steps = words.latencies(fleet.statuses)
        yield f"latency, half / 99 of 100: {', '.join(steps) or 'no job in the last minute'}"
        yield f"failures in the last minute: {words.kinds(fleet.statuses)}"
    yield ""
    yield from words.queues(fleet)
    if waiting := words.hosts(fleet.statuses):
        total = sum(it.hosts_waiting for it in fleet.statuses)
        yield ""
        yield f"hosts that wait: {total}"
        yield from waiting
