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

BROKER_URL_CREDENTIAL: Final = "broker-url"
FOLDER_VARIABLE: Final = "CREDENTIALS_DIRECTORY"  # where systemd put the credentials
LARGEST: Final = 64 * 1024  # bytes of such a file


def credential(name: str, environ: Mapping[str, str]) -> Path | None:
    """Return the file of a credential that systemd passed on (systemd.exec, LoadCredential).

    A file that is loaded by itself has the name that its unit gives it: `scraperd-NAME`. The files
    of a folder that is loaded as `scraperd` become `scraperd_NAME`; the folder has them as `NAME`.
    """
    if not (folder := environ.get(FOLDER_VARIABLE)):
        return None
    spelled = (Path(folder) / text for text in (name, f"scraperd-{name}", f"scraperd_{name}"))
    return next(filter(_is_there, spelled), None)


def _is_there(path: Path) -> bool:
    """Whether a file is there, or may not be looked for: `read` then says what is wrong."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        pass
    return True


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
