"""`scraperd schema`: the JSON Schemas and the example configuration.

May touch: the contract, the settings, the terminal.
Must never: read a configuration, or need a broker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from scraperd.base.jsonline import dumps
from scraperd.cli.console import epilog, show
from scraperd.config.example import example
from scraperd.config.settings import Config
from scraperd.contract import BatchEnd, Job, Result, schema

if TYPE_CHECKING:
    import msgspec


@click.command(
    "schema", epilog=epilog("scraperd schema job", "scraperd schema example > config.toml")
)
@click.argument(
    "what", type=click.Choice(["job", "result", "batch", "config", "example"]), default="job"
)
def command(what: str) -> None:
    """Print the JSON Schema of a job, a result, the end of a batch or the config; or an example."""
    if what == "example":
        show(example().removesuffix("\n"))
        return
    types: dict[str, type[msgspec.Struct]] = {
        "job": Job,
        "result": Result,
        "batch": BatchEnd,
        "config": Config,
    }
    show(dumps(schema(types[what]), 2))
