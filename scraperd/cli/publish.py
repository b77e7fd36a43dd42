"""`scraperd publish`: publish jobs, and with --wait print their results.

May touch: the broker, files that are named, the terminal, the exit code.
Must never: publish a job of a list in which one is bad.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from msgspec import UNSET
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from scraperd.base.text import printable
from scraperd.base.urls import without_credentials
from scraperd.broker.rabbitmq import client
from scraperd.broker.rabbitmq.topology import Topology
from scraperd.cli.console import EPILOG, EXIT_FAILED, EXIT_USAGE, fail, say
from scraperd.cli.shared.client import WINDOW, run_client
from scraperd.cli.shared.inputs import (
    bytes_of,
    bytes_of_input,
    checked_job,
    compiled_rules,
    text_of,
)
from scraperd.cli.shared.messages import show_message
from scraperd.cli.shared.options import Number, config_of, with_config
from scraperd.contract import decode_result, encode

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from scraperd.config.settings import Config
    from scraperd.contract import Job, Result


@click.command("publish", epilog=EPILOG)
@with_config
@click.argument("sources", nargs=-1, metavar="[URL | FILE | -]...")
@click.option("--extract", "rules", metavar="JSON", help="Rules for plain URLs.")
@click.option("--wait", is_flag=True, help="Wait for the results and print them as JSON lines.")
@click.option(
    "--timeout",
    type=Number(min=0),
    default=None,
    help="With --wait: give up after SECONDS.",
)
def command(
    path: Path | None,
    sources: tuple[str, ...],
    rules: str | None,
    wait: bool,  # noqa: FBT001 - a flag
    timeout: float | None,
) -> None:
    """Publish jobs: URLs, or files (- is standard input) with a URL or a JSON job on each line.

    Each line is checked before the first is published; a bad one names its line, and nothing goes.
    """
    config = config_of(path)
    jobs = []
    for where, raw in _job_lines(sources or ("-",), rules):
        job = checked_job(config, raw, where)
        compiled_rules(config, job, f"{where}: ")
        jobs.append((job.id if job.id is not UNSET else uuid.uuid4().hex, job))
    _refuse_twins([ident for ident, _ in jobs])
    if not jobs:
        fail("no jobs given", EXIT_USAGE)
    run_client(_publish(config, jobs, wait=wait, within=timeout))


def _refuse_twins(idents: list[str]) -> None:
    """Results are matched by id: with two jobs of one id, one result would pass for both."""
    seen: set[str] = set()
    for ident in idents:
        if ident in seen:
            fail(f"id {ident!r} is given to more than one job; ids must differ", EXIT_USAGE)
        seen.add(ident)


def _job_lines(sources: tuple[str, ...], rules: str | None) -> Iterator[tuple[str, bytes]]:
    """Pairs of where a job stands and its JSON."""
    for source in sources:
        if "://" in source:
            yield printable(without_credentials(source), 100), _plain(source, rules)
            continue
        raw = bytes_of_input() if source == "-" else bytes_of(Path(source))
        for number, whole in enumerate(text_of(raw, source).split("\n"), 1):
            job = whole.strip()
            if job and not job.startswith("#"):
                body = job.encode() if job.startswith("{") else _plain(job, rules)
                yield f"{source}:{number}", body


def _plain(url: str, rules: str | None) -> bytes:
    try:
        extract = {} if rules is None else {"extract": json.loads(rules)}
    except (ValueError, RecursionError) as error:
        fail(f"--extract: not JSON: {error}", EXIT_USAGE)
    return json.dumps({"url": url, **extract}).encode()


async def _publish(
    config: Config, jobs: list[tuple[str, Job]], *, wait: bool, within: float | None
) -> int:
    topology = Topology(config.broker.prefix)
    async with client.connected(config.broker_urls, config.fetch.connect_timeout) as channel:
        publisher = client.Publisher(channel, topology, config.broker.confirm_timeout)
        queue = await client.replies(channel) if wait else None
        slots = asyncio.Semaphore(WINDOW)
        confirmed = 0

        async def one(ident: str, job: Job) -> None:
            nonlocal confirmed
            async with slots:
                await publisher.publish(encode(job), ident, queue.name if queue else None)
                confirmed += 1

        try:
            await _all(one(ident, job) for ident, job in jobs)
        finally:
            say(f"published {confirmed} of {len(jobs)} jobs to {topology.jobs}", err=True)
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
