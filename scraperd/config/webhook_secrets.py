"""The texts of the files of callbacks' secrets: those of the settings, or of systemd's credentials.

May touch: those files, and where the environment says that systemd put them.
Must never: log, exit, or say a secret.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from scraperd.config.files import credential, read
from scraperd.config.load import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from scraperd.config.settings import Config

CREDENTIAL: Final = "callback-secrets"
FORM: Final = "write one secret a line, whsec_... or whsk_..."
URLS: Final = ""  # the name of the secrets for URLs; an endpoint has its own


def secret_texts(
    config: Config, environ: Mapping[str, str] | None = None
) -> dict[str, tuple[str, str]]:
    """Return setting and text of the secrets of each endpoint by its name; by URLS those for URLs.

    Raises ConfigError, which says where, and never a secret.
    """
    environ = os.environ if environ is None else environ
    texts: dict[str, tuple[str, str]] = {}
    faults: list[str] = []
    for name, setting, path in _files(config, environ):
        try:
            texts[name] = setting, _text(path)
        except ValueError as error:
            faults.append(f"{setting}: {error}; {FORM}")
    if faults:
        raise ConfigError(faults)
    return texts


def secret_files(config: Config, environ: Mapping[str, str] | None = None) -> list[Path]:
    """Return the files that `secret_texts` reads, each once."""
    environ = os.environ if environ is None else environ
    return [*dict.fromkeys(Path(path) for _, _, path in _files(config, environ) if path)]


def _files(
    config: Config, environ: Mapping[str, str]
) -> Iterator[tuple[str, str, str | Path | None]]:
    """Yield name, setting and file of all secrets that are needed; no file is a fault."""
    fleet = config.callbacks.secrets_file or credential(CREDENTIAL, environ)
    if config.callbacks.allow_urls:
        yield URLS, "callbacks.secrets_file", fleet
    for name, endpoint in config.callback_endpoints.items():
        own = endpoint.secrets_file or credential(f"{CREDENTIAL}-{name}", environ)
        setting = "callbacks.secrets_file" if not own and fleet else _setting(name)
        yield name, setting, own or fleet


def _setting(name: str) -> str:
    return f"callback_endpoints.{name}.secrets_file"


def _text(path: str | Path | None) -> str:
    """What a file holds. Raises ValueError."""
    if path is None:
        raise ValueError(f"not set, and there is no credential {CREDENTIAL}")
    try:
        return read(path).decode()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8") from None
