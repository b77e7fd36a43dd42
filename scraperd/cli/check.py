"""`scraperd check`: is the configuration good, can the broker be reached, what is in the queues.

May touch: the configuration, the broker, the terminal, the exit code.
Must never: create or change anything at the broker.
"""

from __future__ import annotations

import asyncio
import stat
from typing import TYPE_CHECKING, Final

import click

from scraperd.broker.ports import Lost
from scraperd.broker.rabbitmq.inspection.redeclare import compare
from scraperd.broker.rabbitmq.inspection.start import survey
from scraperd.broker.rabbitmq.reply_patterns import Addresses
from scraperd.broker.rabbitmq.topology import CLOSE_TIMEOUT, Topology
from scraperd.broker.rabbitmq.wire.dial import BrokerRefused, dial, endpoint
from scraperd.broker.rabbitmq.wire.dial import check as check_urls
from scraperd.broker.rabbitmq.wire.versions import ignores_priority, weakness
from scraperd.cli.console import EXIT_CONFIG, EXIT_FAILED, epilog, fail, say
from scraperd.cli.shared.client import run_client
from scraperd.cli.shared.lacks import EXIT_LACK
from scraperd.cli.shared.options import config_of, with_config
from scraperd.cli.shared.report import Report
from scraperd.config.keys import signing_key_file, signing_keys
from scraperd.config.load import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from scraperd.broker.rabbitmq.inspection.start import Found
    from scraperd.broker.rabbitmq.wire.connection import Connection
    from scraperd.config.settings import Config

HEARTBEAT: Final = 10  # seconds


@click.command(
    "check",
    epilog=epilog(
        "scraperd check", "SCRAPERD_CONCURRENCY=500 scraperd check", "scraperd check --json"
    ),
)
@with_config
@click.option(
    "--no-broker", is_flag=True, help="Ask no broker: only the configuration and this machine."
)
@click.option("--json", "as_json", is_flag=True, help="One line of JSON.")
def command(path: Path | None, *, no_broker: bool, as_json: bool) -> None:
    """Check all that `scraperd run` needs: configuration, this machine, broker, permissions.

    Creates and changes nothing. Exits with the code of `run` where the configuration or this
    machine is to blame, and with 1 where the daemon could not start at the broker.
    """
    config, report = config_of(path), Report(as_json)
    try:
        _say_keys(config, report)
    except ConfigError as error:
        fail(str(error), EXIT_CONFIG)
    shown = None if path is None else str(path)
    report.tell(f"configuration: good ({shown or 'defaults and environment'})", configuration=shown)
    _say_extraction(report)
    _try_machine(config)
    _say_callbacks(config, report)
    run_client(_checked(config, report, no_broker=no_broker))


async def _checked(config: Config, report: Report, *, no_broker: bool) -> int:
    """Return the exit code. The report ends also if no broker answers. Raises Lost over that."""
    try:
        code = await (_check_offline(config) if no_broker else _check(config, report))
    except Lost as error:
        report.faults += str(error).split("\n")
        report.end()
        raise
    report.end()
    return code


def _try_machine(config: Config) -> None:
    """End with 71 if this machine lacks descriptors or processes, with 78 if it lacks packages."""
    # Here and not above: `check --help` has no use for the daemon, which takes long to load.
    from scraperd import daemon  # noqa: PLC0415

    try:
        daemon.check_limits(config)
        daemon.check_tracing(config)
        daemon.signers_of(config)
    except daemon.Lacking as error:
        fail(str(error), EXIT_LACK)
    except ConfigError as error:
        fail(str(error), EXIT_CONFIG)


def _say_callbacks(config: Config, report: Report) -> None:
    """Say what is configured of callbacks, and what of it would not be sent."""
    # Here and not above: `check --help` has no use for the guard, which takes long to load.
    from scraperd.cli.callbacks.checked import say_callbacks  # noqa: PLC0415

    say_callbacks(config, report)


async def _try_parts(config: Config) -> None:
    """Open and close what fetches and searches pages, as the daemon does at its start."""
    from scraperd.base.clocks import SYSTEM  # noqa: PLC0415 - as above
    from scraperd.wiring import fetcher_of, scraper_of  # noqa: PLC0415

    async with fetcher_of(config) as fetcher, scraper_of(config, fetcher, SYSTEM):
        pass


def _say_extraction(report: Report) -> None:
    """Say whether pages are parsed by compiled code, and up to which size on the event loop."""
    # Here and not above: `check --help` has no use for a parser, which takes long to load.
    from scraperd.extract.compiled import engine  # noqa: PLC0415
    from scraperd.extract.document import BOUNDED_PAGE, LIGHT_PAGE  # noqa: PLC0415

    if engine.AVAILABLE:
        which, most = "compiled", BOUNDED_PAGE
    else:
        which, most = "not compiled (make setup builds it, with a C compiler)", LIGHT_PAGE
    report.tell(
        f"extraction: {which}; pages of up to {most // 1024} KiB are searched on the event loop",
        extraction={"compiled": engine.AVAILABLE, "loop_bytes": most},
    )


def _say_keys(config: Config, report: Report) -> None:
    """Say where the signing keys come from, and who could have them. Raises ConfigError."""
    setting = config.jobs.signing_key_file
    keys, file = signing_keys(setting), signing_key_file(setting)
    if file is None:
        report.tell(
            "signing key: made from user and password of the first broker_url; all "
            "processes need the same, and publishers another user. Else set jobs.signing_key_file",
            signing_key="broker_url",
        )
        return
    report.tell(f"signing key: the first of {len(keys)} in {file}", signing_key=str(file))
    if file.stat().st_mode & stat.S_IROTH:
        report.warn(f"{file} can be read by every user of this machine")


async def _check_offline(config: Config) -> int:
    """What can be known without the broker; the daemon ends with 78 over each of it."""
    await _try_parts(config)
    await asyncio.to_thread(check_urls, config.broker_urls)  # files are read
    return 0


async def _check(config: Config, report: Report) -> int:
    tallies = config.batches.enabled
    topology = Topology.of(config.broker, calls_back=config.calls_back, tallies=tallies)
    passive = config.broker.passive_declare
    await _check_offline(config)
    addresses = Addresses.of(topology, config.broker.allow_reply_to)
    for pattern in addresses.vain:
        report.warn(f"broker.allow_reply_to: no result is ever sent to {pattern}")
    brokers = await _reached(config)
    _say_brokers(config, brokers, report)
    url, connection = next((url, one) for url, one in brokers if not isinstance(one, Exception))
    try:
        found = await survey(
            connection,
            topology,
            config.fetch.connect_timeout,
            passive=passive,
            answers=config.broker.answer_status,
            topics=addresses.has_topics,
        )
        all_exist = None not in found.counts.values()  # a declare would create a missing one
        if passive and all_exist and not config.broker.management_api:
            found.differs += await compare(topology, connection.channel)
    except (Lost, OSError) as error:
        raise Lost(f"broker {endpoint(url)}: {error}") from error
    finally:
        await _close(brokers)
    _say_found(config, topology, found, endpoint(url), report)
    await _look(config, topology, report)
    return EXIT_FAILED if report.faults else 0


def _say_found(
    config: Config, topology: Topology, found: Found, broker: str, report: Report
) -> None:
    """Say what the broker has, and what fails or may need an action."""
    report.tell(f"queues at {broker}:", broker=broker, queues=_counted(topology, found))
    if not report.as_json:
        _say_queues(config, topology, found)
    if found.blocked:
        report.warn(f"{broker} takes no publish now: {found.blocked}")
    for words in found.differs:
        report.warn(words)
    for words in (found.unanswered, found.untold):
        if words:
            report.warn(f"{broker}: {words}")
    for words in found.faults:
        report.fault(f"{broker}: {words}")


async def _look(config: Config, topology: Topology, report: Report) -> None:
    """Say what policies do to the queues, and how queues that others made differ."""
    # Here and not above: `check --help` has no use for what reads the patterns of policies.
    from scraperd.broker.rabbitmq.inspection.policies import survey as look  # noqa: PLC0415

    said = await look(config.broker, config.broker_urls[0], topology)
    for words in (*said.policies, *said.unread, *said.differences):
        report.warn(words)
    for words in filter(None, (said.bounds, said.unknown)):
        report.remark(words)


async def _reached(config: Config) -> list[tuple[str, Connection | Exception]]:
    """Each broker's URL with a connection, or with the error. Raises Lost if no broker answers.

    They are dialled at once, so that several that are silent take no longer than one.
    """
    within = config.fetch.connect_timeout
    dialled = await asyncio.gather(
        *(dial(url, "scraperd check", HEARTBEAT, within) for url in config.broker_urls),
        return_exceptions=True,
    )
    found: list[tuple[str, Connection | Exception]] = []
    for url, outcome in zip(config.broker_urls, dialled, strict=True):
        if isinstance(outcome, BaseException) and not isinstance(outcome, OSError | BrokerRefused):
            raise outcome
        found.append((url, outcome))
    if all(isinstance(outcome, Exception) for _, outcome in found):
        raise Lost("\n".join(f"no broker at {endpoint(url)}: {error}" for url, error in found))
    return found


def _say_brokers(
    config: Config, brokers: list[tuple[str, Connection | Exception]], report: Report
) -> None:
    """Say of each broker whether it answers; a fault is one over which a daemon would end.

    One that answers is enough, as it is for the daemon. One before it that refuses the user ends
    the daemon; one that does not answer is passed over.
    """
    reached = False
    for url, outcome in brokers:
        if isinstance(outcome, Exception):
            words = f"no broker at {endpoint(url)}: {outcome}"
            if isinstance(outcome, BrokerRefused) and not reached:
                report.fault(f"{words}; `scraperd run` ends over that")
            else:
                report.warn(words)
            continue
        reached = True
        report.tell(f"broker: reached {endpoint(url)}")
        server = outcome.opened.result()
        server = server if isinstance(server, dict) else {}
        if words := weakness(server, config.broker.prefix):
            report.warn(words)
        if words := ignores_priority(server):
            report.remark(f"priorities: {words}")


async def _close(brokers: list[tuple[str, Connection | Exception]]) -> None:
    await asyncio.gather(
        *(one.close(CLOSE_TIMEOUT) for _, one in brokers if not isinstance(one, Exception))
    )


def _say_queues(config: Config, topology: Topology, found: Found) -> None:
    """Say what is in each queue; the delay queues together."""
    delays = topology.delays
    there = [counts for name in delays if (counts := found.counts.get(name)) is not None]
    for name, counts in found.counts.items():
        if name in delays:
            continue
        if counts is not None:
            say(f"queue {name}: {counts[0]} messages, {counts[1]} consumers")
        elif config.broker.passive_declare:
            say(f"queue {name}: does not exist; must be created first")
        else:
            say(f"queue {name}: does not exist; the daemon will create it")
    if there:
        waiting = sum(counts[0] for counts in there)
        say(f"queues {config.broker.prefix}.delay.*: {waiting} messages wait for a turn or a retry")


def _counted(topology: Topology, found: Found) -> dict[str, dict[str, int] | None]:
    """What is in each queue, by its name without the prefix, as `scraperd status` has it.

    None for a queue that does not exist; `delay` stands for all delay queues together.
    """
    start, delays = len(topology.prefix) + 1, topology.delays
    there = [counts for name in delays if (counts := found.counts.get(name)) is not None]
    queues = {name[start:]: it for name, it in found.counts.items() if name not in delays}
    queues["delay"] = (sum(ready for ready, _ in there), 0) if there else None
    return {
        name: None if it is None else {"ready": it[0], "consumers": it[1]}
        for name, it in queues.items()
    }
