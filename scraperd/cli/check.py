"""`scraperd check`: is the configuration good, can the broker be reached, what is in the queues.

May touch: the configuration, the broker, the terminal, the exit code.
Must never: create or change anything at the broker.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import click

from scraperd.broker.ports import Lost
from scraperd.broker.rabbitmq import client
from scraperd.broker.rabbitmq.reply_patterns import Addresses
from scraperd.broker.rabbitmq.survey.survey import survey
from scraperd.broker.rabbitmq.topology import Topology, TopologyError
from scraperd.broker.rabbitmq.wire.dial import endpoint
from scraperd.broker.rabbitmq.wire.versions import ignores_priority, weakness
from scraperd.cli.console import EPILOG, EXIT_CONFIG, EXIT_FAILED, fail, say
from scraperd.cli.shared.client import run_client
from scraperd.cli.shared.options import config_of, with_config
from scraperd.config.keys import signing_key_file, signing_keys
from scraperd.config.load import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from scraperd.broker.rabbitmq.topology import Queue
    from scraperd.config.settings import Config


@click.command("check", epilog=EPILOG)
@with_config
def command(path: Path | None) -> None:
    """Check the configuration, then whether the broker can be reached and has the queues."""
    config = config_of(path)
    try:
        _say_keys(config)
    except ConfigError as error:
        fail(str(error), EXIT_CONFIG)
    say(f"configuration: good ({path or 'defaults and environment'})")
    _say_extraction()
    run_client(_check(config))


def _say_extraction() -> None:
    """Say whether pages are parsed by compiled code, and up to which size on the event loop."""
    # Here and not above: `check --help` has no use for a parser, which takes long to load.
    from scraperd.extract.compiled import engine  # noqa: PLC0415
    from scraperd.extract.document import BOUNDED_PAGE, LIGHT_PAGE  # noqa: PLC0415

    if engine.AVAILABLE:
        which, most = "compiled", BOUNDED_PAGE
    else:
        which, most = "not compiled (make setup builds it, with a C compiler)", LIGHT_PAGE
    say(f"extraction: {which}; pages of up to {most // 1024} KiB are searched on the event loop")


def _say_keys(config: Config) -> None:
    """Say where the signing keys come from, and who could have them. Raises ConfigError."""
    setting = config.jobs.signing_key_file
    keys, file = signing_keys(setting), signing_key_file(setting)
    if file is None:
        say(
            "signing key: made from user and password of the first broker_url; all "
            "processes need the same, and publishers another user. Else set jobs.signing_key_file"
        )
        return
    say(f"signing key: the first of {len(keys)} in {file}")
    if file.stat().st_mode & stat.S_IROTH:
        say(f"scraperd: {file} can be read by every user of this machine", err=True)


async def _check(config: Config) -> int:
    topology = Topology.of(config.broker)
    for pattern in Addresses.of(topology, config.broker.allow_reply_to).vain:
        say(f"scraperd: broker.allow_reply_to: no result is ever sent to {pattern}", err=True)
    await _reach(config)
    found, waiting = 0, 0
    for queue in topology.queues:
        counts = await _counted(config, queue)
        if queue.name in topology.delays:
            found, waiting = found + (counts is not None), waiting + (counts or (0, 0))[0]
        elif counts is not None:
            say(f"queue {queue.name}: {counts[0]} messages, {counts[1]} consumers")
        elif config.broker.passive_declare:
            say(f"queue {queue.name}: does not exist; must be created first")
            return EXIT_FAILED
        else:
            say(f"queue {queue.name}: does not exist; the daemon will create it")
    if found:
        say(f"queues {config.broker.prefix}.delay.*: {waiting} messages wait for a turn or a retry")
    await _look(config, topology)
    return 0


async def _look(config: Config, topology: Topology) -> None:
    """Say what policies do to the queues, and how queues that others made differ."""
    said = await survey(config.broker, config.broker_urls[0], topology)
    differs = said.differences
    if config.broker.passive_declare and not config.broker.management_api:
        differs = await client.compare_all(
            config.broker_urls, config.fetch.connect_timeout, topology
        )
    for words in (*said.policies, *said.unread, *differs):
        say(f"scraperd: {words}", err=True)
    for words in filter(None, (said.bounds, said.unknown)):
        say(words)


async def _counted(config: Config, queue: Queue) -> tuple[int, int] | None:
    """Its messages and consumers; None if it does not exist. Says in what it differs.

    Raises TopologyError if it could not be used. A queue that is missing or differs closes the
    channel, so each look takes its own connection.
    """
    urls, within = config.broker_urls, config.fetch.connect_timeout
    async with client.connected(urls, within) as channel:
        try:
            counts = await client.count(channel, queue.name)
        except TopologyError:
            return None
    if not config.broker.passive_declare and (words := await client.compare(urls, within, queue)):
        say(f"scraperd: {words}", err=True)
    return counts


async def _reach(config: Config) -> None:
    """Say of each broker whether it answers, and what can be done to it.

    One that answers is enough, as it is for the daemon.
    """
    faults: list[Lost] = []
    for url in config.broker_urls:
        try:
            async with client.connected((url,), config.fetch.connect_timeout) as channel:
                say(f"broker: reached {endpoint(url)}")
                server = await client.server(channel)
                if words := weakness(server, config.broker.prefix):
                    say(f"scraperd: {words}", err=True)
                if words := ignores_priority(server):
                    say(f"priorities: {words}")
        except Lost as error:
            faults.append(error)
    if len(faults) == len(config.broker_urls):
        raise Lost("\n".join(map(str, faults)))
    for fault in faults:
        say(f"scraperd: {fault}", err=True)
