"""`scraperd scrape`: one page without a broker, from the web or from a file.

May touch: the network and files through `scrape.standalone`, the terminal, the exit code.
Must never: need a broker.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from scraperd.base.clocks import SYSTEM
from scraperd.base.jsonline import line, visible
from scraperd.cli.console import EPILOG, EXIT_FAILED, EXIT_USAGE, fail, say, show
from scraperd.cli.shared.inputs import (
    bytes_of,
    bytes_of_input,
    checked_job,
    compiled_rules,
    text_of,
)
from scraperd.cli.shared.options import config_of, with_config
from scraperd.cli.shared.running import run
from scraperd.contract import Include, encode
from scraperd.scrape import standalone
from scraperd.scrape.content import unavailable
from scraperd.wiring import extractor_of, fetcher_of, scraper_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from scraperd.config.settings import Config
    from scraperd.contract import Job
    from scraperd.extract.rules import Rules


@click.command("scrape", epilog=EPILOG)
@with_config
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
@click.option("--no-follow", is_flag=True, help="A redirect is itself the result.")
@click.option("--base", metavar="URL", help="The URL a FILE came from (default: http://localhost/)")
@click.option(
    "--media", metavar="TYPE", help="A FILE's Content-Type (default: by its name, or its content)"
)
@click.option("--compact", is_flag=True, help="One line of JSON, as on the queue.")
def command(  # noqa: PLR0917 - click passes each option
    path: Path | None,
    source: str,
    rules: str | None,
    rules_file: Path | None,
    include: tuple[str, ...],
    headers: tuple[str, ...],
    no_follow: bool,  # noqa: FBT001 - a flag
    base: str | None,
    media: str | None,
    compact: bool,  # noqa: FBT001 - a flag
) -> None:
    """Scrape one URL without a broker, or a FILE (- is standard input) as if it were a page.

    Prints the result as JSON, and how often each rule matched on standard error. Exits 1 if
    the page failed.
    """
    config = config_of(path)
    if rules is not None and rules_file is not None:
        fail("--extract and --extract-file exclude each other", EXIT_USAGE)
    if rules_file is not None:
        rules = text_of(bytes_of(rules_file), rules_file)
    local = "://" not in source
    _check_source(
        local, {"--header": headers, "--no-follow": no_follow}, {"--base": base, "--media": media}
    )
    url = (base or "http://localhost/") if local else source
    origin = str(rules_file or "--extract")
    job = _job_from_options(
        config, url, rules, include, headers, follow=not no_follow, origin=origin
    )
    if fault := unavailable(job):
        fail(f"--include: {fault}", EXIT_USAGE)
    compiled = compiled_rules(config, job)
    if local:
        body, kind = _page_file(source)
        kind = kind if media is None else media
        work = partial(_extracted, config, job, compiled, body, kind)
    else:
        work = partial(_scraped, config, job, compiled)
    run(_tell(work, compact=compact))


def _check_source(local: bool, of_url: dict[str, Any], of_file: dict[str, Any]) -> None:  # noqa: FBT001 - plain
    """Refuse an option that is for the other kind of source."""
    for name, given in (of_url if local else of_file).items():
        if given:
            fail(f"{name} is for {'a URL' if local else 'a FILE'}", EXIT_USAGE)


async def _scraped(config: Config, job: Job, rules: Rules | None) -> standalone.Once:
    async with fetcher_of(config) as fetcher, scraper_of(config, fetcher, SYSTEM) as scraper:
        return await standalone.scrape(scraper, job, rules, SYSTEM)


async def _extracted(
    config: Config, job: Job, rules: Rules | None, body: bytes, media: str
) -> standalone.Once:
    async with extractor_of(config) as extractor:
        return await standalone.extract(extractor, job, rules, body, media)


async def _tell(work: Callable[[], Awaitable[standalone.Once]], *, compact: bool) -> int:
    """Print the result, and on standard error how often each rule matched."""
    result, matches = await work()
    text = encode(result)
    shaped = line(text, -1 if compact else 2)
    show(visible(text.decode()) if shaped is None else shaped)
    width = max((len(path) for path, _ in matches), default=0)
    for path, count in matches:
        say(f"{path:<{width}}  {count} match{'' if count == 1 else 'es'}", err=True)
    return 0 if result.status == "ok" else EXIT_FAILED


def _page_file(source: str) -> tuple[bytes, str]:
    """A local page, and its Content-Type by its name."""
    if source == "-":
        return bytes_of_input(), ""
    return bytes_of(Path(source)), standalone.media_type(Path(source))


def _job_from_options(
    config: Config,
    url: str,
    rules: str | None,
    include: tuple[str, ...],
    headers: tuple[str, ...],
    *,
    follow: bool,
    origin: str,
) -> Job:
    """The job that a queue message with these values would be, checked the same way."""
    job: dict[str, Any] = {"url": url}
    if rules is not None:
        try:
            job["extract"] = json.loads(rules)
        except (ValueError, RecursionError) as error:
            fail(f"{origin}: not JSON: {error}", EXIT_USAGE)
    if not follow:
        job["follow_redirects"] = False
    if include:
        job["include"] = list(include)
    if headers:
        for header in headers:
            if ":" not in header:
                fail(f"--header: {header!r} has no colon; write 'NAME: VALUE'", EXIT_USAGE)
        pairs = [header.partition(":") for header in headers]
        job["headers"] = {}
        for name, _, value in pairs:
            if name.strip() in job["headers"]:
                fail(f"--header: {name.strip()!r} is given twice", EXIT_USAGE)
            job["headers"][name.strip()] = value.strip()
    return checked_job(config, json.dumps(job).encode(), "job")
