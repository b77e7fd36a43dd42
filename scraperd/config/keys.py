"""The keys that sign our notes on jobs: the file of jobs.signing_key_file, or systemd's credential.

May touch: that file, and where the environment says that systemd put it.
Must never: log, exit, or say a key.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from scraperd.base.text import printable
from scraperd.config.files import credential, read
from scraperd.config.load import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

CREDENTIAL: Final = "signing-key"
SHORTEST_KEY: Final = 32  # bytes of text: what `openssl rand -hex 16` prints has 128 random bits
LARGEST_KEY_FILE: Final = 16 * 1024  # bytes
_NAME: Final = "jobs.signing_key_file"


def signing_key_file(setting: str, environ: Mapping[str, str] | None = None) -> Path | None:
    """Return the file of the signing keys: the one set, or systemd's credential, or None."""
    environ = os.environ if environ is None else environ
    return Path(setting) if setting else credential(CREDENTIAL, environ)


def signing_keys(setting: str, environ: Mapping[str, str] | None = None) -> tuple[bytes, ...]:
    """Return the keys, one a line of their file: the first is to sign, all are to be believed.

    `setting` is jobs.signing_key_file. There is no key without such a file. Raises ConfigError,
    which says where, and never a key.
    """
    if (path := signing_key_file(setting, environ)) is None:
        return ()
    try:
        data = read(path, LARGEST_KEY_FILE)
    except ValueError as error:
        raise ConfigError([f"{_NAME}: {error}; write one key a line"]) from error
    lines = [(number, line.strip()) for number, line in enumerate(data.split(b"\n"), 1)]
    faults = [
        f"{_NAME}: line {number} of {printable(str(path))} has {len(line)} bytes, fewer than "
        f"{SHORTEST_KEY}; `openssl rand -hex 32` makes a key"
        for number, line in lines
        if 0 < len(line) < SHORTEST_KEY
    ]
    if faults:
        raise ConfigError(faults)
    return tuple(line for _, line in lines if line)
