"""One short function a command.

May touch: everything below, the terminal, the exit code.
Must never: hold logic of its own, or show a traceback for what a user can cause.
"""

from __future__ import annotations

import asyncio
import json
import stat
import sys
import uuid
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

import click
import msgspec
from msgspec import UNSET
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from scraperd import __version__, daemon
from scraperd.base.jsonline import dumps, line, visible
from scraperd.base.text import printable
from scraperd.base.urls import without_credentials
from scraperd.broker.ports import Lost
from scraperd.broker.rabbitmq import client
from scraperd.broker.rabbitmq.link import censored
from scraperd.broker.rabbitmq.reply_patterns import Addresses
from scraperd.broker.rabbitmq.topology import Queue, Topology, TopologyError
from scraperd.broker.rabbitmq.wire.versions import weakness
from scraperd.cli import batch as cli_batch
from scraperd.cli import dead as cli_dead
from scraperd.cli.console import EPILOG as _EPILOG
from scraperd.cli.console import EXIT_FAILED, EXIT_USAGE, Commands, show_message
from scraperd.cli.console import config_of as _config
from scraperd.cli.console import fail as _fail
from scraperd.cli.console import run_client as _run
from scraperd.cli.console import say as _say
from scraperd.cli.console import show as _show
from scraperd.cli.console import with_config as _with_config
from scraperd.config.load import ConfigError, example, marks_file, marks_keys, notify_socket
from scraperd.config.settings import Config
from scraperd.contract import (
    Include,
    Invalid,
    Job,
    Result,
    decode_job,
    decode_result,
    encode,
    schema,
)
from scraperd.extract.limits import bounds_of
from scraperd.extract.rules import RuleError, Rules, compile_rules
from scraperd.ops.log import quiet_libraries
from scraperd.ops.systemd import Notifier
from scraperd.scrape import standalone
from scraperd.scrape.content import unavailable

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

PUBLISH_WINDOW: Final = 100  # unconfirmed publishes at a time


@click.group(cls=Commands, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="scraperd")
def main() -> None:
    """Scrape jobs from a RabbitMQ queue, many at once, and publish the results."""
    quiet_libraries()


@main.command(epilog=_EPILOG)
@_with_config
def run(path: Path | None) -> None:
    """Run the daemon until SIGTERM or SIGINT; a second signal ends it at standalone."""
    config = _config(path)
    try:
        sys.exit(daemon.run(config, Notifier(*notify_socket())))
    except ConfigError as error:
        _fail(str(error), daemon.EXIT_CONFIG)


@main.command(epilog=_EPILOG)
@_with_config
def check(path: Path | None) -> None:
    """Check the configuration, then whether the broker can be reached and has the queues."""
    config = _config(path)
    try:
        _say_marks(config)
    except ConfigError as error:
        _fail(str(error), daemon.EXIT_CONFIG)
    _say(f"configuration: good ({path or 'defaults and environment'})")
    _run(_check(config))


def _say_marks(config: Config) -> None:
    """Where the keys of marks come from, and who could have them. Raises ConfigError."""
    keys, file = marks_keys(config), marks_file(config)
    if file is None:
        _say(
            "marks: signed by a key made from user and password of the first broker_url; all "
            "processes need the same, and publishers another user. Else set marks_key_file"
        )
        return
    _say(f"marks: signed by the first of {len(keys)} keys in {file}")
    if file.stat().st_mode & stat.S_IROTH:
        _say(f"scraperd: {file} can be read by every user of this machine", err=True)


async def _check(config: Config) -> int:
    topology = Topology(config.prefix)
    for pattern in Addresses.of(topology, config.allow_reply_to).vain:
        _say(f"scraperd: allow_reply_to: no result is ever sent to {pattern}", err=True)
    await _reach(config)
    found, waiting = 0, 0
    for queue in topology.queues:
        counts = await _counted(config, queue)
        if queue.name in topology.delays:
            found, waiting = found + (counts is not None), waiting + (counts or (0, 0))[0]
        elif counts is not None:
            _say(f"queue {queue.name}: {counts[0]} messages, {counts[1]} consumers")
        elif config.passive_declare:
            _say(f"queue {queue.name}: does not exist; must be created first")
            return EXIT_FAILED
        else:
            _say(f"queue {queue.name}: does not exist; the daemon will create it")
    if found:
        _say(f"queues {config.prefix}.delay.*: {waiting} messages wait for a turn or a retry")
    return 0


async def _counted(config: Config, queue: Queue) -> tuple[int, int] | None:
    """Its messages and consumers; None if it does not exist. Says in what it differs.

    Raises TopologyError if it could not be used. A queue that is missing or differs closes the
    channel, so each look takes its own connection.
    """
    urls, within = config.broker_urls, config.connect_timeout
    async with client.connected(urls, within) as channel:
        try:
            counts = await client.count(channel, queue.name)
        except TopologyError:
            return None
    if not config.passive_declare and (words := await client.compare(urls, within, queue)):
        _say(f"scraperd: {words}", err=True)
    return counts


async def _reach(config: Config) -> None:
    """Say of each broker whether it answers, and what can be done to it.

    One that answers is enough, as it is for the daemon.
    """
    faults: list[Lost] = []
    for url in config.broker_urls:
        try:
            async with client.connected((url,), config.connect_timeout) as channel:
                _say(f"broker: reached {censored(url)}")
                if words := weakness(await client.server(channel), config.prefix):
                    _say(f"scraperd: {words}", err=True)
        except Lost as error:
            faults.append(error)
    if len(faults) == len(config.broker_urls):
        raise Lost("\n".join(map(str, faults)))
    for fault in faults:
        _say(f"scraperd: {fault}", err=True)


@main.command(epilog=_EPILOG)
@_with_config
@click.argument("source", metavar="URL | FILE | -")
@click.option("--extract", "rules", metavar="JSON", help='Rules, like \'{"title": "h1"}\'.')
@click.option(
    "--extract-file", "rules_file", type=click.Path(path_type=Path), help="Rules in a file."
)
@click.option(
    "--include",
    multiple=True,
    type=click.Choice(get_args(Include)),
    help="What else to return; may be repeated.",
)
@click.option(
    "--header", "-H", "headers", multiple=True, metavar="'NAME: VALUE'", help="A request header."
)
@click.option("--base", metavar="URL", help="The URL a FILE came from (default: http://localhost/)")
@click.option(
    "--media", metavar="TYPE", help="A FILE's Content-Type (default: by its name, or its content)"
)
@click.option("--compact", is_flag=True, help="One line of JSON, as on the queue.")
def scrape(  # noqa: PLR0917 - click passes each option
    path: Path | None,
    source: str,
    rules: str | None,
    rules_file: Path | None,
    include: tuple[str, ...],
    headers: tuple[str, ...],
    base: str | None,
    media: str | None,
    compact: bool,  # noqa: FBT001 - a flag
) -> None:
    """Scrape one URL without a broker, or a FILE (- is standard input) as if it were a page.

    Prints the result as JSON, and how often each rule matched on standard error. Exits 1 if
    the page failed.
    """
    config = _config(path)
    if rules is not None and rules_file is not None:
        _fail("--extract and --extract-file exclude each other", EXIT_USAGE)
    if rules_file is not None:
        rules = _read(rules_file)
    local = "://" not in source
    for name, given, fits in (
        ("--header", headers, not local),
        ("--base", base, local),
        ("--media", media, local),
    ):
        if given and not fits:
            _fail(f"{name} is for {'a URL' if local else 'a FILE'}", EXIT_USAGE)
    url = (base or "http://localhost/") if local else source
    job = _job_from_options(
        config, url, rules, include, headers, origin=str(rules_file or "--extract")
    )
    if fault := unavailable(job):
        _fail(f"--include: {fault}", EXIT_USAGE)
    compiled = _compiled(config, job)
    if local:
        body, kind = _page_file(source)
        work = standalone.extract(config, job, compiled, body, kind if media is None else media)
    else:
        work = standalone.scrape(config, job, compiled)
    _run(_tell(work, compact=compact))


async def _tell(work: Coroutine[Any, Any, standalone.Once], *, compact: bool) -> int:
    """Print the result, and on standard error how often each rule matched."""
    result, matches = await work
    text = encode(result)
    shaped = line(text, -1 if compact else 2)
    _show(visible(text.decode()) if shaped is None else shaped)
    width = max((len(path) for path, _ in matches), default=0)
    for path, count in matches:
        _say(f"{path:<{width}}  {count} match{'' if count == 1 else 'es'}", err=True)
    return 0 if result.status == "ok" else EXIT_FAILED


def _page_file(source: str) -> tuple[bytes, str]:
    """A local page, and its Content-Type by its name."""
    if source == "-":
        return sys.stdin.buffer.read(), ""
    try:
        return Path(source).read_bytes(), standalone.media_type(Path(source))
    except OSError as error:
        _fail(f"{source}: can't be read: {error.strerror}", EXIT_USAGE)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # Windows editors begin with a mark
    except OSError as error:
        _fail(f"{path}: can't be read: {error.strerror}", EXIT_USAGE)
    except UnicodeDecodeError as error:
        _fail(f"{path}: not UTF-8: {error.reason} at byte {error.start}", EXIT_USAGE)


def _job_from_options(
    config: Config,
    url: str,
    rules: str | None,
    include: tuple[str, ...],
    headers: tuple[str, ...],
    *,
    origin: str,
) -> Job:
    """The job that a queue message with these values would be, checked the same way."""
    job: dict[str, Any] = {"url": url}
    if rules is not None:
        try:
            job["extract"] = json.loads(rules)
        except (ValueError, RecursionError) as error:
            _fail(f"{origin}: not JSON: {error}", EXIT_USAGE)
    if include:
        job["include"] = list(include)
    if headers:
        for header in headers:
            if ":" not in header:
                _fail(f"--header: {header!r} has no colon; write 'NAME: VALUE'", EXIT_USAGE)
        pairs = [header.partition(":") for header in headers]
        job["headers"] = {}
        for name, _, value in pairs:
            if name.strip() in job["headers"]:
                _fail(f"--header: {name.strip()!r} is given twice", EXIT_USAGE)
            job["headers"][name.strip()] = value.strip()
    return _checked(config, json.dumps(job).encode(), "job")


def _checked(config: Config, raw: bytes, where: str) -> Job:
    job = decode_job(raw, config.max_job_size)
    if isinstance(job, Invalid):
        _fail(f"{where}: {job.message}", EXIT_USAGE)
    return job


def _refuse_twins(idents: list[str]) -> None:
    """Results are matched by id: with two jobs of one id, one result would pass for both."""
    seen: set[str] = set()
    for ident in idents:
        if ident in seen:
            _fail(f"id {ident!r} is given to more than one job; ids must differ", EXIT_USAGE)
        seen.add(ident)


def _compiled(config: Config, job: Job, where: str = "") -> Rules | None:
    try:
        if job.extract is UNSET:
            return None
        return compile_rules(bytes(job.extract), bounds_of(config))
    except RuleError as error:
        _fail(f"{where}{error}", EXIT_USAGE)


@main.command(epilog=_EPILOG)
@_with_config
@click.argument("sources", nargs=-1, metavar="[URL | FILE | -]...")
@click.option("--extract", "rules", metavar="JSON", help="Rules for plain URLs.")
@click.option("--wait", is_flag=True, help="Wait for the results and print them as JSON lines.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=None,
    help="With --wait: give up after SECONDS.",
)
def publish(
    path: Path | None,
    sources: tuple[str, ...],
    rules: str | None,
    wait: bool,  # noqa: FBT001 - a flag
    timeout: float | None,
) -> None:
    """Publish jobs: URLs, or files (- is standard input) with a URL or a JSON job on each line.

    Each line is checked before the first is published; a bad one names its line, and nothing goes.
    """
    config = _config(path)
    jobs = []
    for where, raw in _job_lines(sources or ("-",), rules):
        job = _checked(config, raw, where)
        _compiled(config, job, f"{where}: ")
        jobs.append((job.id if job.id is not UNSET else uuid.uuid4().hex, job))
    _refuse_twins([ident for ident, _ in jobs])
    if not jobs:
        _fail("no jobs given", EXIT_USAGE)
    _run(_publish(config, jobs, wait=wait, within=timeout))


def _job_lines(sources: tuple[str, ...], rules: str | None) -> Iterator[tuple[str, bytes]]:
    """Pairs of where a job stands and its JSON."""
    for source in sources:
        if "://" in source:
            yield printable(without_credentials(source), 100), _plain(source, rules)
            continue
        text = sys.stdin.read() if source == "-" else _read(Path(source))
        for number, whole in enumerate(text.split("\n"), 1):
            job = whole.strip()
            if job and not job.startswith("#"):
                raw = job.encode() if job.startswith("{") else _plain(job, rules)
                yield f"{source}:{number}", raw


def _plain(url: str, rules: str | None) -> bytes:
    try:
        extract = {} if rules is None else {"extract": json.loads(rules)}
    except (ValueError, RecursionError) as error:
        _fail(f"--extract: not JSON: {error}", EXIT_USAGE)
    return json.dumps({"url": url, **extract}).encode()


async def _publish(
    config: Config, jobs: list[tuple[str, Job]], *, wait: bool, within: float | None
) -> int:
    topology = Topology(config.prefix)
    async with client.connected(config.broker_urls, config.connect_timeout) as channel:
        publisher = client.Publisher(channel, topology, config.confirm_timeout)
        queue = await client.replies(channel) if wait else None
        slots = asyncio.Semaphore(PUBLISH_WINDOW)
        confirmed = 0

        async def one(ident: str, job: Job) -> None:
            nonlocal confirmed
            async with slots:
                await publisher.publish(encode(job), ident, queue.name if queue else None)
                confirmed += 1

        try:
            await _all(one(ident, job) for ident, job in jobs)
        finally:
            _say(f"published {confirmed} of {len(jobs)} jobs to {topology.jobs}", err=True)
        return await _await_results(queue, jobs, within) if queue else 0


async def _all(coroutines: Iterator[Coroutine[Any, Any, None]]) -> None:
    """Run all; the first error is raised as itself."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def _await_results(queue: Any, jobs: list[tuple[str, Job]], within: float | None) -> int:
    """Print results as they come, once each; 1 if any failed or is missing."""
    waiting = {ident for ident, _ in jobs}
    failed = 0
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("results", total=len(waiting))
        try:
            async with asyncio.timeout(within), aclosing(client.messages(queue)) as stream:
                async for taken in stream:
                    await taken.ack()
                    result = _result(taken.body)
                    if result is None:
                        continue
                    ident = taken.message.correlation_id or result.id
                    if ident not in waiting:
                        continue  # a duplicate: delivery is at least once
                    waiting.discard(ident)
                    failed += result.status == "failed"
                    show_message(taken.body, queue.name)
                    progress.update(bar, advance=1, description=f"results ({failed} failed)")
                    if not waiting:
                        break
        except TimeoutError:
            _say(f"scraperd: {len(waiting)} results missing after {within:g} s", err=True)
    return EXIT_FAILED if failed or waiting else 0


def _result(raw: bytes) -> Result | None:
    """A result, or None for what someone else put into our queue."""
    try:
        return decode_result(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        _say(f"scraperd: not a result, passed over: {error}", err=True)
        return None


@main.command(epilog=_EPILOG)
@_with_config
@click.option("--key", default="#", show_default=True, help="Topic pattern, like 'failed.#'.")
@click.option("--consume", is_flag=True, help="Take results off the results queue instead.")
@click.option("--count", type=click.IntRange(min=1), default=None, help="Stop after this many.")
def results(path: Path | None, key: str, consume: bool, count: int | None) -> None:  # noqa: FBT001
    """Print results as JSON lines: a copy of each new one, or with --consume the queue's own."""
    config = _config(path)
    if consume and key != "#":
        raise click.UsageError("--key works on copies; the results queue has them all")
    _run(_results(config, key, consume=consume, count=count))


async def _results(config: Config, key: str, *, consume: bool, count: int | None) -> int:
    topology = Topology(config.prefix)
    async with client.connected(config.broker_urls, config.connect_timeout) as channel:
        if consume:
            await client.count(channel, topology.results)
            queue = await channel.get_queue(topology.results, ensure=False)
        else:
            queue = await client.tap(channel, topology, key)
            _say(f"copies of new results ({key}); Ctrl-C ends", err=True)
        seen = 0
        async with aclosing(
            client.messages(queue, prefetch=min(count or PUBLISH_WINDOW, PUBLISH_WINDOW))
        ) as stream:
            async for taken in stream:
                show_message(taken.body, queue.name)
                await taken.ack()  # printed first: a result that was not seen is not gone
                seen += 1
                if seen == count:
                    break
    return 0


@main.command("schema", epilog=_EPILOG)
@click.argument("what", type=click.Choice(["job", "result", "config", "example"]), default="job")
def show_schema(what: str) -> None:
    """Print the JSON Schema of a job, a result or the config; or an example config."""
    if what == "example":
        _show(example().removesuffix("\n"))
        return
    types: dict[str, type[msgspec.Struct]] = {"job": Job, "result": Result, "config": Config}
    _show(dumps(schema(types[what]), 2))


main.add_command(cli_dead.group)
main.add_command(cli_batch.batch)
