"""What the commands share that set rules: who sets them, with which keys, and what the fleet says.

May touch: the configuration, the broker, the terminal, the exit code.
Must never: say that a rule is in force in a process that does not have it.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import socket
import time
from typing import TYPE_CHECKING, Final, NoReturn

import click

from scraperd.broker.rabbitmq.inquiry.asking import asking
from scraperd.broker.rabbitmq.rules.writing import book
from scraperd.broker.rabbitmq.topology import Topology
from scraperd.cli.console import EXIT_FAILED, EXIT_USAGE, fail, say
from scraperd.cli.shared.client import run_client
from scraperd.cli.shared.options import keys_of
from scraperd.control.desk import change, rule_of
from scraperd.control.rules import RuleError, limits_of, matched, shown, until_of, with_rule
from scraperd.ops.fleet.asked import ask_all

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from scraperd.config.settings import Config
    from scraperd.control.rules import Do, Edit, RuleSet
    from scraperd.ops.fleet.asked import Fleet

IN_FORCE_WITHIN: Final = 2.0  # seconds
ASK_INTERVAL: Final = 0.2  # seconds between two questions to the fleet

match_argument = click.argument("match", metavar="id=ID|batch=ID|host=HOST|meta.NAME=VALUE")


def until_option(about: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return what gives a command the option `--until`."""
    return click.option(
        "--until",
        metavar="WHEN",
        help=f"How long: 30s, 15m, 2h, 7d, or a date with its zone; {about}, at most 30 days.",
    )


def who() -> str:
    """Return who calls the command, for those who read the rules later."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, in a container
        name = f"uid {os.getuid()}"
    return f"{name}@{socket.gethostname()}"


def set_rule(
    config: Config, do: Do, match: str, until: str | None, limits: Sequence[str] = ()
) -> NoReturn:
    """Put a rule in force that was typed, and say where it is."""
    now = time.time()
    try:
        found = matched(match, do)
        sets = limits_of(limits) if do == "limit" else {}
        rule = rule_of(do, found, who(), now, until_of(until, do, now), limits=sets)
    except RuleError as error:
        fail(str(error), EXIT_USAGE)
    what = f"{rule.match} {rule.says}".rstrip()
    said = f"rule {rule.id}: {do} {what} until {shown(rule.until)}"
    run_client(put(config, with_rule(rule, now), said))


async def put(config: Config, edit: Edit, said: str) -> int:
    """Change the rules, say it by `said`, and say which processes have it. Return the exit code."""
    within = config.fetch.connect_timeout
    try:
        async with book(config.broker_urls, config.broker.prefix, within) as found:
            after = await change(found, keys_of(config), edit, time.time())
    except RuleError as error:
        fail(str(error), EXIT_FAILED)
    say(said)
    return await told(config, after)


async def told(config: Config, after: RuleSet) -> int:
    """Wait until each process has the rules, and say how many do. Return the exit code."""
    fleet = await asked(config, after.version)
    late = [it for it in fleet.statuses if it.rules is None or it.rules.version < after.version]
    count = len(fleet.statuses) - len(late)
    if not fleet.statuses and not fleet.silent:
        say("no process runs now; each reads the rules when it starts", err=True)
        return 0
    say(f"in force in {count} processes", err=True)
    for it in late:
        say(f"not in force in {it.name} at {it.host}: {_why(it.rules is None)}", err=True)
    if fleet.silent:
        say(
            f"{fleet.silent} processes do not answer, so nobody knows whether they have it; see "
            "docs/operations/fleet.md",
            err=True,
        )
    return EXIT_FAILED if late or fleet.silent else 0


def _why(older: bool) -> str:  # noqa: FBT001 - a word for each
    if older:
        return "its version of scraperd knows no rules"
    return (
        "it does not believe the rules or cannot read them; its log says rules_refused or "
        "rules_unread. Do both have the same jobs.signing_key_file?"
    )


async def asked(config: Config, version: int) -> Fleet:
    """Ask the fleet for rules until each process has this version, for IN_FORCE_WITHIN."""
    prefix, loop = config.broker.prefix, asyncio.get_running_loop()
    ends = loop.time() + IN_FORCE_WITHIN
    async with asking(config.broker_urls, prefix, config.fetch.connect_timeout) as asker:
        while True:
            fleet = await ask_all(asker, Topology(prefix), "rules", queues=False)
            known = [it.rules.version for it in fleet.statuses if it.rules is not None]
            missing = fleet.silent or len(known) < len(fleet.statuses)
            if not missing and min(known, default=version) >= version:
                return fleet
            if loop.time() >= ends:
                return fleet
            await asyncio.sleep(ASK_INTERVAL)
