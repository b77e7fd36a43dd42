"""`scraperd rules`: the rules in force, and what they have done.

May touch: the configuration, the broker, the terminal, the exit code.
Must never: show as in force what has ended.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

import click

from scraperd.base.jsonline import dumps
from scraperd.broker.rabbitmq.rules.writing import book
from scraperd.cli.console import EXIT_FAILED, epilog, fail, say, show
from scraperd.cli.fleet.words import table
from scraperd.cli.rules.setting import asked, put, told
from scraperd.cli.shared.client import run_client
from scraperd.cli.shared.options import config_of, keys_of, with_config
from scraperd.control.desk import forget, rules_of
from scraperd.control.rules import RuleError, shown, without

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from scraperd.config.settings import Config
    from scraperd.control.rules import Rule


@click.command("rules", epilog=epilog("scraperd rules", "scraperd rules --json"))
@with_config
@click.option("--json", "as_json", is_flag=True, help="One line of JSON for each rule.")
@click.option("--remove", metavar="ID", help="Remove the rule with this id.")
@click.option(
    "--forget", "forgets", is_flag=True, help="Remove all rules, also those of a lost key."
)
def command(path: Path | None, remove: str | None, *, as_json: bool, forgets: bool) -> None:
    """Print the rules in force: who set them, until when, and what they did.

    What they did is counted by the processes that run now, each since its start. Exits with 1 if a
    process does not answer, or does not have the rules.
    """
    config = config_of(path)
    if remove and forgets:
        raise click.UsageError("--remove and --forget exclude each other")
    if forgets:
        run_client(_forget(config))
    if remove:
        edit = without(lambda rule: rule.id == remove, time.time(), remove)
        run_client(put(config, edit, f"removed: {remove}"))
    run_client(_list(config, as_json=as_json))


async def _forget(config: Config) -> int:
    within = config.fetch.connect_timeout
    async with book(config.broker_urls, config.broker.prefix, within) as found:
        after = await forget(found, keys_of(config), time.time())
    say("no rule is in force any more")
    return await told(config, after)


async def _list(config: Config, *, as_json: bool) -> int:
    prefix, within = config.broker.prefix, config.fetch.connect_timeout
    try:
        async with book(config.broker_urls, prefix, within, writes=False) as found:
            rules = await rules_of(found, keys_of(config))
    except RuleError as error:
        fail(str(error), EXIT_FAILED)
    fleet = await asked(config, rules.version)
    touched: Counter[str] = Counter()
    for it in fleet.statuses:
        touched.update(it.rules.touched if it.rules is not None else {})
    in_force = rules.at(time.time())
    if as_json:
        for rule in in_force:
            show(dumps(_values(rule, touched[rule.id])))
    else:
        for line in _lines(in_force, touched):
            say(line)
    having = [it for it in fleet.statuses if it.rules and it.rules.version >= rules.version]
    lacking = len(fleet.statuses) - len(having) + fleet.silent
    say(
        f"{len(in_force)} rules; {len(having)} processes have them, {lacking} do not or are silent",
        err=True,
    )
    return EXIT_FAILED if lacking else 0


def _values(rule: Rule, touched: int) -> dict[str, object]:
    """Return a rule as JSON has it."""
    return {
        "id": rule.id,
        "do": rule.do,
        "match": rule.match,
        "sets": rule.says,
        "by": rule.by,
        "at": shown(rule.at),
        "until": shown(rule.until),
        "touched": touched,
    }


def _lines(rules: Sequence[Rule], touched: Counter[str]) -> list[str]:
    """Return a line for each rule, below a head."""
    if not rules:
        return []
    head = ["ID", "RULE", "MATCH", "TOUCHED", "UNTIL", "SET AT", "BY"]
    rows = [
        [
            rule.id,
            rule.do,
            f"{rule.match} {rule.says}".rstrip(),
            str(touched[rule.id]),
            shown(rule.until),
            shown(rule.at),
            rule.by,
        ]
        for rule in rules
    ]
    return table([head, *rows], frozenset({3}))
