"""`scraperd publish`: publish jobs, and with --wait print their results.

May touch: the broker, files that are named, the terminal, the exit code.
Must never: publish a job of a list in which one is bad.
"""

from __future__ import annotations

import asyncio
import uuid
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import click
import msgspec
from msgspec import UNSET
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from scraperd.base.text import printable
from scraperd.base.urls import without_credentials
from scraperd.broker.rabbitmq import client
from scraperd.broker.rabbitmq.reply_patterns import Addresses
from scraperd.broker.rabbitmq.topology import Topology, TopologyError
from scraperd.cli.console import EXIT_FAILED, EXIT_USAGE, epilog, fail, say
from scraperd.cli.shared.client import WINDOW, run_client
from scraperd.cli.shared.inputs import (
    bytes_of_input,
    bytes_of_source,
    checked_job,
    compiled_rules,
    text_of,
)
from scraperd.cli.shared.job_options import fields_of, job_of, with_job_options
from scraperd.cli.shared.messages import show_message
from scraperd.cli.shared.options import Number, config_of, with_config
from scraperd.contract import MAX_ID, decode_result, encode

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from pathlib import Path

    from scraperd.config.settings import Config
    from scraperd.contract import Job, Result


@click.command(
    "publish",
    epilog=epilog(
        """scraperd publish https://example.com/ --extract '{"title": "h1"}' --wait""",
        "scraperd publish urls.txt --include links --max-retries 0",
        "scraperd publish jobs.jsonl --wait --wait-timeout 60 > results.jsonl",
        """scraperd publish https://example.com/api --json '{"page": 1}' -H 'Accept: text/html'""",
    ),
)
@with_config
@click.argument("sources", nargs=-1, metavar="[URL | FILE | -]...")
@with_job_options
@click.option("--reply-to", metavar="QUEUE", help="The queue for the results; it must exist.")
@click.option("--wait", is_flag=True, help="Wait for the results and print them as JSON lines.")
@click.option(
    "--wait-timeout",
    type=Number(min=0),
    default=None,
    metavar="SECONDS",
    help="With --wait: give up after so long.",
)
def command(
    path: Path | None,
    sources: tuple[str, ...],
    *,
    reply_to: str | None,
    wait: bool,
    wait_timeout: float | None,
    **given: Any,
) -> None:
    """Publish jobs: URLs, or files (- is standard input) with a URL or a JSON job on each line.

    Each line is checked before the first is published; a bad one names its line, and nothing goes.
    Options are fields of each job; a field that a JSON job has itself counts before the option.
    """
    config = config_of(path)
    _check_options(reply_to, wait_timeout, wait=wait)
    jobs = []
    for where, raw in _job_lines(sources or ("-",), fields_of(given)):
        job = checked_job(config, raw, where)
        compiled_rules(config, job, f"{where}: ")
        jobs.append((job.id if job.id is not UNSET else uuid.uuid4().hex, job))
    _refuse_twins([ident for ident, _ in jobs])
    if not jobs:
        fail("no jobs given", EXIT_USAGE)
    run_client(_publish(config, jobs, reply_to, wait=wait, within=wait_timeout))


def _check_options(reply_to: str | None, wait_timeout: float | None, *, wait: bool) -> None:
    if wait_timeout is not None and not wait:
        raise click.UsageError("--wait-timeout goes with --wait; --timeout is the job's own")
    if reply_to is not None and wait:
        raise click.UsageError("--wait makes a reply queue of its own, so leave out --reply-to")
    if reply_to is not None and not 0 < len(reply_to.encode(errors="replace")) <= MAX_ID:
        raise click.UsageError(f"--reply-to: a queue's name has 1 to {MAX_ID} bytes")


def _refuse_twins(idents: list[str]) -> None:
    """Results are matched by id: with two jobs of one id, one result would pass for both."""
    seen: set[str] = set()
    for ident in idents:
        if ident in seen:
            fail(f"id {ident!r} is given to more than one job; ids must differ", EXIT_USAGE)
        seen.add(ident)


def _job_lines(sources: tuple[str, ...], fields: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Pairs of where a job stands and its JSON."""
    for source in sources:
        if "://" in source:
            yield printable(without_credentials(source), 100), job_of(source, fields)
            continue
        raw = bytes_of_input() if source == "-" else bytes_of_source(source)
        for number, whole in enumerate(text_of(raw, source).split("\n"), 1):
            line = whole.strip()
            if line and not line.startswith("#"):
                yield f"{source}:{number}", job_of(line, fields)


async def _publish(
    config: Config,
    jobs: list[tuple[str, Job]],
    reply_to: str | None,
    *,
    wait: bool,
    within: float | None,
) -> int:
    topology = Topology(config.broker.prefix)
    async with client.connected(config.broker_urls, config.fetch.connect_timeout) as session:
        publisher = client.Publisher(session.channel, topology, config.broker.confirm_timeout)
        queue = await _reply_queue(config, session, topology) if wait else None
        to = queue.name if queue else reply_to
        slots = asyncio.Semaphore(WINDOW)
        confirmed = 0

        async def one(ident: str, job: Job) -> None:
            nonlocal confirmed
            async with slots:
                await publisher.publish(encode(job), ident, to)
                confirmed += 1

        try:
            await _all(one(ident, job) for ident, job in jobs)
        finally:
            done = f"published {confirmed} of {len(jobs)} jobs to {topology.jobs}"
            say(f"{done} at {session.broker}", err=True)
        return await _await_results(queue, jobs, within) if queue else 0


async def _reply_queue(config: Config, session: client.Session, topology: Topology) -> Any:
    """Return a queue of our own for the results. Raises TopologyError if none would come there."""
    queue = await client.replies(session, topology)
    if Addresses.of(topology, config.broker.allow_reply_to).refuses(queue.name):
        raise TopologyError(
            f"no result would come to the reply queue {queue.name}: broker.allow_reply_to must "
            "have {prefix}.reply.*"
        )
    return queue


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
                async for received in stream:
                    await received.ack()
                    result = _result(received.body)
                    if result is None:
                        continue
                    ident = received.message.correlation_id or result.id
                    if ident not in waiting:
                        continue  # a duplicate: delivery is at least once
                    waiting.discard(ident)
                    failed += result.status == "failed"
                    show_message(received.body, queue.name)
                    progress.update(bar, advance=1, description=f"results ({failed} failed)")
                    if not waiting:
                        break
        except TimeoutError:
            say(f"scraperd: {len(waiting)} results missing after {within:g} s", err=True)
    return EXIT_FAILED if failed or waiting else 0


def _result(raw: bytes) -> Result | None:
    """A result, or None for what someone else put into our queue."""
    try:
        return decode_result(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        say(f"scraperd: not a result, passed over: {error}", err=True)
        return None
