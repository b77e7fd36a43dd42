"""`scraperd batch`: jobs of a file, without a broker.

May touch: the file, the terminal, the exit code, signals.
Must never: print a result in another form than `scraperd results` does.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import click
from msgspec.structs import replace

from scraperd import batch
from scraperd.cli.console import EXIT_FAILED, EXIT_USAGE, epilog, fail, say
from scraperd.cli.shared.inputs import InputError, lines_in, opened
from scraperd.cli.shared.messages import show_message
from scraperd.cli.shared.options import config_of, with_config
from scraperd.cli.shared.running import run, stopped_by
from scraperd.ops.log import configure
from scraperd.ops.telemetry import Observer

if TYPE_CHECKING:
    import signal
    from collections.abc import Iterator

    from scraperd.batch import Line, Progress
    from scraperd.config.settings import Config

TOLD_EVERY: Final = 0.2  # seconds between two updates of the progress bar


@click.command(
    "batch",
    epilog=epilog(
        "scraperd batch urls.txt > results.jsonl",
        "scraperd batch urls.txt --resume results.jsonl >> results.jsonl",
    ),
)
@click.argument("source", metavar="FILE")
@click.option(
    "--resume",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Results of an earlier run: jobs that have one are left out.",
)
@with_config
def command(path: Path | None, source: str, resume: Path | None) -> None:
    """Scrape the URLs or jobs in FILE (`-` is standard input), one a line, without a broker.

    A line is a URL, or a job as JSON. Results come on standard output, one a line, as they are
    ready. After Ctrl-C go on with: scraperd batch FILE --resume RESULTS >> RESULTS
    """
    config, file = config_of(path), opened(source)
    quiet = "error" if config.log.level == "error" else "warning"
    configure(replace(config.log, level=quiet), sys.stderr)
    try:
        known = _known(resume)
        total = _count(file, source, known)
        jobs = batch.lines_of(lines_in(file, source))
        run(_run(config, (job for job in jobs if not known.take(job)), total))
    except batch.ResumeError as error:
        fail(f"--resume: {error}", EXIT_USAGE)
    except InputError as error:
        fail(str(error), EXIT_USAGE)


def _known(resume: Path | None) -> batch.Resumed:
    if resume is None:
        return batch.Resumed()
    with opened(str(resume)) as results:
        return batch.Resumed.of(lines_in(results, str(resume)))


def _count(file: IO[bytes], source: str, known: batch.Resumed) -> int | None:
    """How many jobs there are to do; None if that can't be known before they are read."""
    if not file.seekable():
        return None
    there = batch.Resumed(dict(known.known))
    total = sum(not there.take(line) for line in batch.lines_of(lines_in(file, source)))
    file.seek(0)
    return total


async def _run(config: Config, lines: Iterator[Line], total: int | None) -> int:
    stop = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        stop.set()
        say(f"scraperd: {number.name}: waiting for jobs that are under way", err=True)

    bar = _Bar(total)
    with stopped_by(on_signal) as stopped:
        try:
            progress = await batch.run(
                config,
                lines,
                lambda raw: show_message(raw, "the results"),
                Observer(job_lines=False, settings=config.log),
                stop=stop,
                tell=bar.tell,
            )
        except BaseExceptionGroup as group:
            raise _expected(group) or group from None
        finally:
            bar.end()
    ok = progress.done - progress.failed
    say(f"scraperd: {ok} ok, {progress.failed} failed", err=True)
    if stopped.first and progress.done != total:
        left = "all others" if total is None else f"{total - progress.done} of {total} jobs"
        say(f"scraperd: {left} have no result; go on with --resume RESULTS", err=True)
        return 128 + stopped.first
    return EXIT_FAILED if progress.failed else 0


def _expected(group: BaseExceptionGroup[BaseException]) -> BaseException | None:
    """Return what is wrong with the input or the output if nothing else went wrong."""
    faults, others = group.split((batch.ResumeError, InputError, OSError))
    return faults.exceptions[0] if faults is not None and others is None else None


class _Bar:
    """How far it is, on standard error, if that is a terminal."""

    def __init__(self, total: int | None) -> None:
        self._total = total
        self._told = 0.0
        self._bar: Any = None
        if sys.stderr.isatty() and total is not None:
            self._bar = click.progressbar(length=total, file=sys.stderr, show_pos=True)
            self._bar.render_progress()

    def tell(self, progress: Progress) -> None:
        """Show it, unless it was shown a moment ago."""
        now = time.monotonic()
        if self._bar is None or now - self._told < TOLD_EVERY:
            return
        self._told = now
        self._bar.label = f"{progress.failed} failed" if progress.failed else ""
        self._bar.update(progress.done - self._bar.pos)

    def end(self) -> None:
        """Leave the cursor on a line of its own."""
        if self._bar is not None:
            self._bar.render_finish()
