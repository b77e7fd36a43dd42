"""The options that say what a job is: one for each field of the contract.

May touch: the options that were given, files that they name, the exit code.
Must never: check a value. The job that they make is checked as the daemon checks it.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

import click
import msgspec

from scraperd.cli.console import EXIT_USAGE, fail
from scraperd.cli.shared.inputs import bytes_of, text_of
from scraperd.cli.shared.options import Number
from scraperd.contract import Include, Method

if TYPE_CHECKING:
    from collections.abc import Callable

_FILE: Final = click.Path(path_type=Path)

extract_options: Final = (
    click.option("--extract", metavar="JSON", help='Rules, like \'{"title": "h1"}\'.'),
    click.option("--extract-file", type=_FILE, help="Rules in a file."),
)
include_option: Final = click.option(
    "--include",
    multiple=True,
    type=click.Choice(get_args(Include)),
    help="What else to return; may be repeated.",
)
header_option: Final = click.option(
    "--header", "-H", "headers", multiple=True, metavar="'NAME: VALUE'", help="A request header."
)
no_follow_option: Final = click.option(
    "--no-follow", is_flag=True, help="A redirect is itself the result."
)
_ALL: Final = (
    click.option("--id", metavar="ID", help="The job's id; for one job only."),
    *extract_options,
    include_option,
    click.option("--method", "-X", type=click.Choice(get_args(Method)), help="The request method."),
    header_option,
    click.option(
        "--cookie", "cookies", multiple=True, metavar="NAME=VALUE", help="A cookie for the URL."
    ),
    click.option("--cookies-file", type=_FILE, help="`cookies` of an earlier result, as JSON."),
    click.option("--body", metavar="TEXT", help="The request's body."),
    click.option("--json", metavar="JSON", help="JSON as the request's body."),
    click.option(
        "--form", multiple=True, metavar="NAME=VALUE", help="A field of a form as the body."
    ),
    click.option(
        "--timeout",
        type=Number(min=0, min_open=True),
        metavar="SECONDS",
        help="The job's limit for fetching.",
    ),
    click.option("--max-retries", type=click.IntRange(min=0), help="Attempts after the first one."),
    click.option(
        "--max-body-size",
        type=click.IntRange(min=1),
        metavar="BYTES",
        help="The largest body, after decompression.",
    ),
    click.option(
        "--max-redirects", type=click.IntRange(min=0), help="Redirects that are followed."
    ),
    no_follow_option,
    click.option("--etag", metavar="ETAG", help="Of an earlier result: fetch only what changed."),
    click.option("--last-modified", metavar="DATE", help="Of an earlier result, as --etag."),
    click.option("--proxy", metavar="NAME", help="A proxy of the daemon's configuration."),
    click.option("--expires-at", metavar="DATE", help="RFC 3339: not begun after this time."),
    click.option("--callback-url", metavar="URL", help="POST the result there too, signed."),
    click.option("--callback", metavar="NAME", help="The same, to an endpoint of the daemon's."),
    click.option("--batch", metavar="JSON", help='As \'{"id": "monday", "size": 3}\'.'),
    click.option("--meta", metavar="JSON", help="Comes back in the result."),
)
_AS_GIVEN: Final = (  # fields whose option is their value
    *("id", "method", "body", "timeout", "max_retries", "max_body_size", "max_redirects"),
    *("etag", "last_modified", "proxy", "expires_at", "callback_url", "callback"),
)


def with_job_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each field of a job but `url`, its argument."""
    for option in reversed(_ALL):
        command = option(command)
    return command


def fields_of(given: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a job that the options give.

    Ends the process, with exit code 2, over a text that has no such form.
    """
    job = {name: given[name] for name in _AS_GIVEN if given[name] is not None}
    job |= rules_of(given["extract"], given["extract_file"])
    for name in ("json", "batch", "meta"):
        if given[name] is not None:
            job[name] = json_of(given[name], f"--{name}")
    if given["include"]:
        job["include"] = list(given["include"])
    if given["headers"]:
        job["headers"] = pairs_of(given["headers"], "--header", ":", "NAME: VALUE")
    if given["form"]:
        job["form"] = pairs_of(given["form"], "--form", "=", "NAME=VALUE")
    if given["no_follow"]:
        job["follow_redirects"] = False
    return job | _cookies_of(given["cookies"], given["cookies_file"])


def rules_of(text: str | None, file: Path | None) -> dict[str, Any]:
    """Return the field `extract` of --extract or --extract-file, or nothing without both."""
    if text is not None and file is not None:
        fail("--extract and --extract-file exclude each other", EXIT_USAGE)
    if file is not None:
        return {"extract": json_of(text_of(bytes_of(file), file), str(file))}
    return {} if text is None else {"extract": json_of(text, "--extract")}


def _cookies_of(given: tuple[str, ...], file: Path | None) -> dict[str, Any]:
    if given and file is not None:
        fail("--cookie and --cookies-file exclude each other", EXIT_USAGE)
    if file is not None:
        return {"cookies": json_of(text_of(bytes_of(file), file), str(file))}
    return {"cookies": pairs_of(given, "--cookie", "=", "NAME=VALUE")} if given else {}


def json_of(text: str, where: str) -> Any:
    """Return what a JSON text says, or the end in words."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        fail(f"{where}: not JSON: {error}", EXIT_USAGE)


def pairs_of(texts: tuple[str, ...], option: str, between: str, form: str) -> dict[str, str]:
    """Return names and values of texts such as `NAME=VALUE`, or the end in words."""
    what = {":": "colon", "=": "equals sign"}[between]
    pairs: dict[str, str] = {}
    for text in texts:
        name, separator, value = text.partition(between)
        if not separator:
            fail(f"{option}: {text!r} has no {what}; write '{form}'", EXIT_USAGE)
        if between == ":":  # of a header: spaces around it mean nothing (RFC 9110 section 5.5)
            name, value = name.strip(), value.strip()
        if name in pairs:
            fail(f"{option}: {name!r} is given twice", EXIT_USAGE)
        pairs[name] = value
    return pairs


def job_of(line: str, fields: dict[str, Any]) -> bytes:
    """Return the job of a line, which is a URL or a job as JSON.

    The fields are added; those that a JSON job has itself stay as they are, byte for byte. A job of
    a batch gets an id too.
    """
    if "batch" in fields:
        fields = {"id": uuid.uuid4().hex, **fields}
    if not line.startswith("{"):
        return json.dumps({"url": line, **fields}).encode()
    if not fields:
        return line.encode()
    try:
        own = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, RecursionError):
        return line.encode()  # the check that follows says what is wrong with it
    added = {name: msgspec.Raw(json.dumps(value).encode()) for name, value in fields.items()}
    return msgspec.json.encode({**added, **own})
