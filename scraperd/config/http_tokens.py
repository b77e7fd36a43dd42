"""The text of the file of HTTP tokens: that of http.tokens_file, or of systemd's credential.

May touch: that file, and where the environment says that systemd put it.
Must never: log, exit, or say a token.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from scraperd.config.files import credential, read
from scraperd.config.load import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

CREDENTIAL: Final = "http-tokens"
NAME: Final = "http.tokens_file"
FORM: Final = "write NAME ROLE TOKEN a line"


def tokens_file(setting: str, environ: Mapping[str, str] | None = None) -> Path | None:
    """Return the file of the tokens: the one set, or systemd's credential, or None."""
    environ = os.environ if environ is None else environ
    return Path(setting) if setting else credential(CREDENTIAL, environ)


def tokens_text(path: Path) -> str:
    """Return what the file holds. Raises ConfigError, which says where, and never a token."""
    try:
        return read(path).decode()
    except UnicodeDecodeError:
        raise ConfigError([f"{NAME}: {path} is not UTF-8; {FORM}"]) from None
    except ValueError as error:
        raise ConfigError([f"{NAME}: {error}; {FORM}"]) from error
