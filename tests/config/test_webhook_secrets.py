"""The secrets of callbacks: which file counts for which endpoint, and what is said without one.

May touch: files in pytest's own folder, environments that are passed in.
Must never: read or change the real environment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from scraperd.config.load import ConfigError
from scraperd.config.tables import EndpointSettings
from scraperd.config.webhook_secrets import FORM, URLS, secret_texts
from tests.rig.settings import configured

if TYPE_CHECKING:
    from pathlib import Path

BILLING = EndpointSettings(url="https://billing.example/hooks")


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Credentials as systemd passes them: those of all, and those of one endpoint."""
    (tmp_path / "scraperd_callback-secrets").write_text("of all\n")
    (tmp_path / "scraperd_callback-secrets-billing").write_text("of billing\n")
    return {"CREDENTIALS_DIRECTORY": str(tmp_path)}


def texts(environ: dict[str, str], **settings: Any) -> dict[str, str]:
    found = secret_texts(configured(**settings), environ)
    return {name: text for name, (_, text) in found.items()}


def test_nothing_is_read_that_is_not_needed(environ: dict[str, str]) -> None:
    """Without callbacks a process needs no secret."""
    assert texts({}) == texts(environ) == {}


def test_an_endpoint_has_its_own_secrets_or_those_of_all(
    environ: dict[str, str], tmp_path: Path
) -> None:
    """Its setting, then its credential, then the setting and the credential of all."""
    own = tmp_path / "own"
    own.write_text("its own")
    named = {
        "billing": BILLING,
        "shop": BILLING,
        "other": EndpointSettings(url=BILLING.url, secrets_file=str(own)),
    }
    found = {"billing": "of billing", "shop": "of all", "other": "its own"}
    assert texts(environ, callback_endpoints=named) == found
    assert texts(environ, callbacks__allow_urls=True) == {URLS: "of all"}
    settings = {"callbacks__secrets_file": str(own), "callback_endpoints": {"shop": BILLING}}
    assert texts(environ, **settings) == {"shop": "its own"}


def test_each_file_that_lacks_is_named_with_its_setting(tmp_path: Path) -> None:
    """All at once, with what to write; never with what a file holds."""
    empty, binary = tmp_path / "empty", tmp_path / "binary"
    empty.write_text("\n")
    binary.write_bytes(b"hunter2\xff")
    named = {
        "a": BILLING,
        "b": EndpointSettings(url=BILLING.url, secrets_file=str(empty)),
        "c": EndpointSettings(url=BILLING.url, secrets_file=str(binary)),
    }
    with pytest.raises(ConfigError) as error:
        texts({}, callbacks__allow_urls=True, callback_endpoints=named)
    without = "not set, and there is no credential callback-secrets"
    told = {
        "callbacks.secrets_file": without,
        "callback_endpoints.a.secrets_file": without,
        "callback_endpoints.b.secrets_file": f"{empty} is empty",
        "callback_endpoints.c.secrets_file": f"{binary} is not UTF-8",
    }
    assert error.value.faults == [f"{name}: {words}; {FORM}" for name, words in told.items()]
