"""What a user hands to a command: files, standard input, jobs. Checked as the daemon checks a job.

May touch: the files that are named, standard input, the exit code.
Must never: show a traceback for what a user can cause.
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from msgspec import UNSET

from scraperd.cli.console import EXIT_USAGE, fail
from scraperd.contract import Invalid, Job, decode_job
from scraperd.extract.compile import compile_rules
from scraperd.extract.limits import bounds_of
from scraperd.extract.rules import RuleError, Rules
from scraperd.scrape.cookies.suffixes import is_listed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scraperd.config.settings import Config

_HOST: Final = re.compile(r"(?:[a-z0-9-]+\.)+[a-z0-9-]+")
_ADDRESS: Final = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")
_CLOSED: Final = "-: can't be read: standard input is closed"


def bytes_of(path: Path) -> bytes:
    """A file's bytes, or the end in words."""
    try:
        return path.read_bytes()
    except OSError as error:
        fail(f"{path}: can't be read: {error.strerror}", EXIT_USAGE)


def bytes_of_source(source: str) -> bytes:
    """A file's bytes, or the end in words, which ask after a URL if it looks like one."""
    try:
        return Path(source).read_bytes()
    except OSError as error:
        fail(f"{source}: can't be read: {error.strerror}{_meant(source)}", EXIT_USAGE)


def _meant(source: str) -> str:
    """Ask whether a URL was meant, if `source` begins like the host of a site; else nothing."""
    host = re.split("[/?#:]", source, maxsplit=1)[0].lower()
    name, _, top = host.rpartition(".")
    near = host == "localhost" or (top.isdigit() and _ADDRESS.fullmatch(host))
    if near:
        return f"; did you mean http://{source}?"
    if name and _HOST.fullmatch(host) and is_listed(top):
        return f"; did you mean https://{source}?"
    return ""


def bytes_of_input() -> bytes:
    """All of standard input, or the end in words."""
    if sys.stdin is None:  # Python's word for one that was closed before the start
        fail(_CLOSED, EXIT_USAGE)
    try:
        return sys.stdin.buffer.read()
    except OSError as error:
        fail(f"-: can't be read: {error.strerror}", EXIT_USAGE)


def opened(source: str) -> IO[bytes]:
    """Return a file to read, or standard input for `-`; or the end in words."""
    if source == "-":
        if sys.stdin is None:
            fail(_CLOSED, EXIT_USAGE)
        return sys.stdin.buffer
    try:
        return Path(source).open("rb")
    except OSError as error:
        fail(f"{source}: can't be read: {error.strerror}{_meant(source)}", EXIT_USAGE)


class InputError(Exception):
    """A file, or standard input, that was opened can't be read on; the message says which."""


def lines_in(file: IO[bytes], source: str) -> Iterator[bytes]:
    """The lines of a file, by their line feeds alone. Raises InputError."""
    try:
        yield from file
    except OSError as error:
        raise InputError(f"{source}: can't be read: {error.strerror}") from error


def text_of(raw: bytes, source: str | Path) -> str:
    """The text of a file with these bytes, or the end in words."""
    try:  # Windows editors begin with a mark
        return io.TextIOWrapper(io.BytesIO(raw), encoding="utf-8-sig").read()
    except UnicodeDecodeError as error:
        fail(f"{source}: not UTF-8: {error.reason} at byte {error.start}", EXIT_USAGE)


def checked_job(config: Config, raw: bytes, where: str) -> Job:
    """The job that a message of these bytes would be, or the end in words."""
    job = decode_job(raw, config.jobs.max_size)
    if isinstance(job, Invalid):
        fail(f"{where}: {job.message}", EXIT_USAGE)
    return job


def compiled_rules(config: Config, job: Job, where: str = "") -> Rules | None:
    """The job's rules as the daemon would compile them, or the end in words."""
    try:
        if job.extract is UNSET:
            return None
        return compile_rules(bytes(job.extract), bounds_of(config.extract))
    except RuleError as error:
        fail(f"{where}{error}", EXIT_USAGE)
