"""`scraperd resume`: end a pause.

May touch: the configuration, the broker, the terminal, the exit code.
Must never: end another rule.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from scraperd.cli.console import EXIT_USAGE, epilog, fail
from scraperd.cli.rules.setting import match_argument, put
from scraperd.cli.shared.client import run_client
from scraperd.cli.shared.options import config_of, with_config
from scraperd.control.rules import RuleError, matched, without

if TYPE_CHECKING:
    from pathlib import Path


@click.command(
    "resume",
    epilog=epilog("scraperd pause batch=monday && scraperd resume batch=monday"),
)
@with_config
@match_argument
def command(path: Path | None, match: str) -> None:
    """End the pause that was set with the same words.

    Jobs come back as their delays end: at the latest after as long again as the pause has lasted,
    and within an hour. Exits with 1 if there is no such pause.
    """
    try:
        what, name, value = matched(match)
    except RuleError as error:
        fail(str(error), EXIT_USAGE)
    target = ("pause", what, name, value)
    edit = without(lambda rule: rule.target == target, time.time(), f"pause {match}")
    run_client(put(config_of(path), edit, f"resumed: {match}"))
