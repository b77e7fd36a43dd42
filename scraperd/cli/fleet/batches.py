"""`scraperd batches`: how far batches are, as the daemon says that tallies them.

May touch: the configuration, the broker, the terminal, the exit code.
Must never: change anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from scraperd.base.jsonline import dumps
from scraperd.batches.progress import Progress, question, read_answer, shown
from scraperd.broker.rabbitmq.inquiry.asking import asking
from scraperd.cli.console import EXIT_FAILED, EXIT_USAGE, epilog, fail, say, show
from scraperd.cli.shared.client import run_client
from scraperd.cli.shared.options import config_of, with_config
from scraperd.contract import is_batch_id

if TYPE_CHECKING:
    from pathlib import Path

    from scraperd.config.settings import Config

WAIT: Final = 1.0  # seconds for an answer


@click.command("batches", epilog=epilog("scraperd batches", "scraperd batches monday --json"))
@with_config
@click.option("--json", "as_json", is_flag=True, help="One line of JSON for each batch.")
@click.argument("ident", metavar="[ID]", default="")
def command(path: Path | None, ident: str, *, as_json: bool) -> None:
    """Print how far the batch ID is, or the 100 batches with the newest news.

    Exits with 1 if no daemon tallies batches, or the batch is not known.
    """
    if ident and not is_batch_id(ident):
        fail(f"{ident!r} cannot be the id of a batch", EXIT_USAGE)
    run_client(_batches(config_of(path), ident, as_json=as_json))


async def _batches(config: Config, ident: str, *, as_json: bool) -> int:
    prefix = config.broker.prefix
    async with asking(config.broker_urls, prefix, config.fetch.connect_timeout) as asker:
        asked = await asker.ask(question(ident))
        found = await asked.first(read_answer, WAIT)
    if found is None:
        fail(
            "no daemon tallies batches: none runs, none has batches.enabled = true, or it has only "
            "just begun",
            EXIT_FAILED,
        )
    for batch in found:
        if batch.state == "unknown":
            fail(
                f"no batch {ident} is known: no job of it has an outcome yet, or it ended longer "
                "ago than batches.keep",
                EXIT_FAILED,
            )
        if as_json:
            show(dumps(batch.values()))
        else:
            say(_line(batch))
    return 0


def _line(batch: Progress) -> str:
    """Return a batch as a person reads it."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in batch.kinds.items())
    when = f"ended {shown(batch.ended_at)}" if batch.ended_at else f"last {shown(batch.last_at)}"
    why = f"; {batch.reason}" if batch.reason else ""
    parts = (f"{batch.counted} of {batch.size}", kinds, f"began {shown(batch.started_at)}", when)
    return f"{batch.id}: {batch.state}, {', '.join(part for part in parts if part)}{why}"
