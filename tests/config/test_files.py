"""Tests of settings whose values stand in files: which file counts, and what is said of a bad one.

May touch: files in pytest's own folder.
Must never: read or change the real environment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from scraperd.config.files import BROKER_URL_CREDENTIAL, LARGEST
from scraperd.config.load import ConfigError, load

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

URL = "amqp://user:hunter2@broker.example/"
OTHER = "amqps://user:hunter2@other.example/v"


@pytest.mark.parametrize(
    ("text", "urls"),
    [(URL, (URL,)), (f"\n  {URL}\r\n\n{OTHER} \n", (URL, OTHER)), (f"\ufeff{URL}\r\n", (URL,))],
)
def test_the_broker_s_urls_are_the_lines_of_their_file(
    text: str, urls: tuple[str, ...], write: Callable[[str | bytes], Path], tmp_path: Path
) -> None:
    """By the variable, by the setting in the file, and by systemd's credential."""
    path = str(write(text))
    assert load(None, {"SCRAPERD_BROKER_URL_FILE": path}).broker_urls == urls
    (config := tmp_path / "own.toml").write_text(f'broker_url_file = "{path}"')
    assert load(config, {}).broker_urls == urls
    for name in ("scraperd-broker-url", "scraperd_broker-url", "broker-url"):  # as in a unit's
        (folder := tmp_path / name).mkdir()
        (folder / name).write_text(text)
        assert load(None, {"CREDENTIALS_DIRECTORY": str(folder)}).broker_urls == urls


def test_which_of_several_counts(write: Callable[[str | bytes], Path], tmp_path: Path) -> None:
    """A file goes before the credential, and so does a URL. A URL and a file are refused together,
    but for the default URL, which the example of all settings has.
    """
    (tmp_path / BROKER_URL_CREDENTIAL).write_text("amqp://credential.example/")
    folder = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    by_file = {"SCRAPERD_BROKER_URL_FILE": str(write(OTHER))}
    assert load(None, {**folder, **by_file}).broker_urls == (OTHER,)
    assert load(None, {**folder, "SCRAPERD_BROKER_URL": URL}).broker_urls == (URL,)
    default = {"SCRAPERD_BROKER_URL": load(None, {}).broker_urls[0]}
    assert load(None, {**default, **by_file}).broker_urls == (OTHER,)
    with pytest.raises(ConfigError, match="broker_url is set as well; set one of them") as caught:
        load(None, {"SCRAPERD_BROKER_URL": URL, **by_file})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        (" \n\t", "is empty"),
        (None, "No such file or directory"),
        (b"amqp://hunter2\xff", "is not UTF-8"),
        ("hunter2" * LARGEST, f"has more than {LARGEST} bytes"),
        ("http://hunter2@a.example/", "broker_url: must be: amqp:// or amqps:// URL"),
        ("amqp://u:hunter2/x@a.example/", "broker_url: not a URL"),
    ],
)
def test_a_bad_file_is_told_without_what_it_holds(
    text: str | bytes | None, words: str, write: Callable[[str | bytes], Path]
) -> None:
    """Which setting, which file, and why."""
    path = write(text or "")
    name = str(path) if text is not None else f"{path}.gone"
    with pytest.raises(ConfigError) as caught:
        load(None, {"SCRAPERD_BROKER_URL_FILE": name})
    [fault] = caught.value.faults
    assert words in fault
    assert "hunter2" not in fault


def test_any_variable_can_name_a_file(write: Callable[[str | bytes], Path]) -> None:
    """The text of the file is read as that of the variable would be."""
    path = str(write('{ office = "http://user:hunter2@proxy.example:3128" }\n'))
    proxies = load(None, {"SCRAPERD_PROXIES_FILE": path}).proxies
    assert proxies == {"office": "http://user:hunter2@proxy.example:3128"}
    path = str(write("250\n"))
    assert load(None, {"SCRAPERD_CONCURRENCY_FILE": path}).concurrency == 250
    with pytest.raises(ConfigError) as caught:
        load(None, {"SCRAPERD_FETCH__USER_AGENT_FILE": f"{path}.gone"})
    assert "SCRAPERD_FETCH__USER_AGENT_FILE: " in str(caught.value)
    assert f"{path}.gone: No such file or directory" in str(caught.value)


def test_tls_of_the_broker_is_set_once_for_all_urls() -> None:
    """The settings are options of each amqps:// URL; an option of the URL itself goes first."""
    variables = {
        "SCRAPERD_BROKER_URL": '["amqps://a.example/v", "amqps://b.example/?cafile=/own&auth=plain"'
        ', "amqp://c.example/"]',
        "SCRAPERD_BROKER__CA_FILE": "/etc/a b.pem",
        "SCRAPERD_BROKER__CERT_FILE": "/c.pem",
        "SCRAPERD_BROKER__KEY_FILE": "/k.pem",
        "SCRAPERD_BROKER__VERIFY": "false",
    }
    rest = "certfile=%2Fc.pem&keyfile=%2Fk.pem&no_verify_ssl=true"
    assert load(None, variables).broker_urls == (
        f"amqps://a.example/v?cafile=%2Fetc%2Fa+b.pem&{rest}",
        f"amqps://b.example/?cafile=/own&auth=plain&{rest}",
        "amqp://c.example/",
    )
    with pytest.raises(ConfigError, match="settings of TLS are set, and no broker_url is amqps"):
        load(None, {**variables, "SCRAPERD_BROKER_URL": URL})
