"""Settings whose values stand in files of their own, so that no secret is in a file or variable.

May touch: the files that settings and variables name, and where systemd put its credentials.
Must never: log, exit, or say what a file holds.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from pathlib import Path
from typing import TYPE_CHECKING, Final

from scraperd.base.text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

BROKER_URL_CREDENTIAL: Final = "scraperd-broker-url"  # in systemd's $CREDENTIALS_DIRECTORY
LARGEST: Final = 64 * 1024  # bytes of such a file


def credential(name: str, environ: Mapping[str, str]) -> Path | None:
    """Return the file of a credential that systemd passed on (systemd.exec, LoadCredential)."""
    folder = environ.get("CREDENTIALS_DIRECTORY")
    path = Path(folder) / name if folder else None
    return path if path is not None and path.exists() else None


def read(path: str | Path, most: int = LARGEST) -> bytes:
    """Return what a file holds, without white space around it. Raises ValueError, with the path.

    A byte order mark at the beginning, which editors of Windows write, is left out.
    """
    shown = printable(str(path))
    try:
        with Path(path).open("rb") as file:
            data = file.read(most + 1)
    except (OSError, ValueError) as error:  # a ValueError: the path has a null byte
        why = getattr(error, "strerror", None) or "not a path"
        raise ValueError(f"{shown}: {why}") from error
    if len(data) > most:
        raise ValueError(f"{shown} has more than {most} bytes")
    if not (text := data.removeprefix(BOM_UTF8).strip()):
        raise ValueError(f"{shown} is empty")
    return text


def lines_of(path: str | Path) -> tuple[str, ...]:
    """Return the lines of a file that are not empty. Raises ValueError, with the path."""
    try:
        text = read(path).decode()
    except UnicodeDecodeError:
        raise ValueError(f"{printable(str(path))} is not UTF-8") from None
    return tuple(line.strip() for line in text.split("\n") if line.strip())
