"""The keys that sign our notes on jobs: the file of jobs.signing_key_file, or systemd's credential.

May touch: that file, and where the environment says that systemd put it.
Must never: log, exit, or say a key.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from scraperd.base.text import printable
from scraperd.config.load import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

CREDENTIAL: Final = "scraperd-signing-key"  # in systemd's $CREDENTIALS_DIRECTORY
SHORTEST_KEY: Final = 32  # bytes of text: what `openssl rand -hex 16` prints has 128 random bits
LARGEST_KEY_FILE: Final = 16 * 1024  # bytes
_NAME: Final = "jobs.signing_key_file"


def signing_key_file(setting: str, environ: Mapping[str, str] | None = None) -> Path | None:
    """Return the file of the signing keys: the one set, or systemd's credential, or None."""
    environ = os.environ if environ is None else environ
    if setting:
        return Path(setting)
    if folder := environ.get("CREDENTIALS_DIRECTORY"):
        path = Path(folder) / CREDENTIAL
        return path if path.exists() else None
    return None


def signing_keys(setting: str, environ: Mapping[str, str] | None = None) -> tuple[bytes, ...]:
    """Return the keys, one a line of their file: the first is to sign, all are to be believed.

    `setting` is jobs.signing_key_file. There is no key without such a file. Raises ConfigError,
    which says where, and never a key.
    """
    if (path := signing_key_file(setting, environ)) is None:
        return ()
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_KEY_FILE + 1)
    except (OSError, ValueError) as error:  # a ValueError: the path has a null byte
        why = getattr(error, "strerror", None) or "not a path"
        raise ConfigError([f"{_NAME}: {printable(str(path))}: {why}"]) from error
    lines = [(number, line.strip()) for number, line in enumerate(data.split(b"\n"), 1)]
    faults = [
        f"{_NAME}: line {number} of {printable(str(path))} has {len(line)} bytes, fewer than "
        f"{SHORTEST_KEY}; `openssl rand -hex 32` makes a key"
        for number, line in lines
        if 0 < len(line) < SHORTEST_KEY
    ]
    keys = tuple(line for _, line in lines if line)
    if len(data) > LARGEST_KEY_FILE or not keys:
        has = f"more than {LARGEST_KEY_FILE} bytes" if keys else "no key"
        faults.append(f"{_NAME}: {printable(str(path))} has {has}; write one key a line")
    if faults:
        raise ConfigError(faults)
    return keys
