"""`scraperd scrape`: one page without a broker, from the web or from a file.

May touch: the network and files through `scrape.standalone`, the terminal, the exit code.
Must never: need a broker.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from yarl import URL

from scraperd.base.clocks import SYSTEM
from scraperd.base.jsonline import line, visible
from scraperd.base.urls import check_url
from scraperd.cli.console import EXIT_FAILED, EXIT_USAGE, epilog, fail, say, show
from scraperd.cli.shared.inputs import (
    bytes_of_input,
    bytes_of_source,
    checked_job,
    compiled_rules,
)
from scraperd.cli.shared.job_options import (
    extract_options,
    header_option,
    include_option,
    no_follow_option,
    pairs_of,
    rules_of,
)
from scraperd.cli.shared.options import config_of, with_config
from scraperd.cli.shared.running import run
from scraperd.contract import encode
from scraperd.fetch.guard import Guard
from scraperd.scrape import standalone
from scraperd.scrape.content import unavailable
from scraperd.wiring import extractor_of, fetcher_of, scraper_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from scraperd.config.settings import Config
    from scraperd.contract import Job
    from scraperd.extract.rules import Rules


@click.command(
    "scrape",
    epilog=epilog(
        """scraperd scrape https://example.com/ --extract '{"title": "h1"}'""",
        "scraperd scrape https://example.com/ --include links --include metadata",
        "scraperd scrape page.html --extract-file rules.json --base https://example.com/",
    ),
)
@with_config
@click.argument("source", metavar="URL | FILE | -")
@extract_options[0]
@extract_options[1]
@include_option
@header_option
@no_follow_option
@click.option("--base", metavar="URL", help="The URL a FILE came from (default: http://localhost/)")
@click.option(
    "--media", metavar="TYPE", help="A FILE's Content-Type (default: by its name, or its content)"
)
@click.option("--compact", is_flag=True, help="One line of JSON, as on the queue.")
def command(  # noqa: PLR0917 - click passes each option
    path: Path | None,
    source: str,
    extract: str | None,
    extract_file: Path | None,
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
    rules = rules_of(extract, extract_file)
    local = "://" not in source
    _check_source(
        local, {"--header": headers, "--no-follow": no_follow}, {"--base": base, "--media": media}
    )
    url = (base or "http://localhost/") if local else source
    if not local and (fault := _url_fault(config, url)):
        fail(f"job: url: {fault}", EXIT_USAGE)
    job = _job_from_options(config, {"url": url, **rules}, include, headers, follow=not no_follow)
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


def _url_fault(config: Config, url: str) -> str | None:
    """What is wrong with a URL that no job can have, and all that the guard says of it.

    None for a URL that a job may have: then the result says what the guard refuses.
    """
    fault = check_url(url)
    if fault is None:
        return None
    try:
        target = URL(url)
        refused = Guard(config.fetch).refuses(target) if target.raw_host else None
    except (ValueError, IndexError):  # yarl raises the second for `http://[]@/`
        return fault
    return f"{fault}; {refused}" if refused else fault


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
    return bytes_of_source(source), standalone.media_type(Path(source))


def _job_from_options(
    config: Config,
    job: dict[str, Any],
    include: tuple[str, ...],
    headers: tuple[str, ...],
    *,
    follow: bool,
) -> Job:
    """The job that a queue message with these values would be, checked the same way."""
    if not follow:
        job["follow_redirects"] = False
    if include:
        job["include"] = list(include)
    if headers:
        job["headers"] = pairs_of(headers, "--header", ":", "NAME: VALUE")
    return checked_job(config, json.dumps(job).encode(), "job")
