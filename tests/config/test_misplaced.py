"""A setting in the wrong place, or with the wrong name: told what was meant, and where it stands.

May touch: files in pytest's own folder, environments that are passed in.
Must never: read or change the real environment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from scraperd.config.load import ConfigError, load
from scraperd.config.names import ALL_TABLES, SETTINGS, nearest

if TYPE_CHECKING:
    from pathlib import Path

VARIABLE = "'fetch.connect_timeout' (SCRAPERD_FETCH__CONNECT_TIMEOUT)?"
CONCURRENCIES = "'concurrency' (above the first table) or 'callbacks.concurrency'"
ALL = "'jobs.timeout' or 'sandbox.timeout' or 'callbacks.timeout'?"

# what stands in the file, what the message says after the file's name
IN_THE_FILE = [
    (
        "connect_timeout = 5",
        "unknown setting 'connect_timeout'; did you mean 'fetch.connect_timeout'?",
    ),
    (
        "conect_timeout = 5",
        "unknown setting 'conect_timeout'; did you mean 'fetch.connect_timeout'?",
    ),
    (
        "[jobs]\nconnect_timeout = 5",
        "'jobs.connect_timeout'; did you mean 'fetch.connect_timeout'?",
    ),
    (
        "[fetch]\nconect_timeout = 5",
        "'fetch.conect_timeout'; did you mean 'fetch.connect_timeout'?",
    ),
    (
        "[fetch]\nConnect-Timeout = 5",
        "'fetch.Connect-Timeout'; did you mean 'fetch.connect_timeout'?",
    ),
    ("[fetch]\nfetch_proxy = 'a'", "'fetch.fetch_proxy'; did you mean 'fetch.proxy'?"),
    ("log_level = 'debug'", "unknown setting 'log_level'; did you mean 'log.level'?"),
    ("timeout = 5", f"unknown setting 'timeout'; did you mean {ALL}"),
    ("[extract]\ntimeout = 5", f"unknown setting 'extract.timeout'; did you mean {ALL}"),
    (
        "[fetch]\ntimeout = 5",
        "'fetch.timeout'; did you mean 'fetch.download_timeout' or 'fetch.connect_timeout'?",
    ),
    (
        "[log]\nlevel = 'info'\nconcurrency = 5",
        f"'log.concurrency'; did you mean {CONCURRENCIES}?",
    ),
    ("[broker]\nproxies = {}", "unknown setting 'broker.proxies'; did you mean 'proxies'?"),
    ("[log]\nzzz = 5", "unknown setting 'log.zzz'; `config.example.toml` lists them all"),
    ("[fetsh]\nproxy = 'a'", "unknown table 'fetsh'; did you mean 'fetch'?"),
    ("[host.a]", "unknown table 'host'; did you mean 'hosts'?"),
    (
        "[zzz]\nproxy = 'a'",
        f"unknown table 'zzz'; the tables are {', '.join(ALL_TABLES)}",
    ),
    ("fetch = 5", "fetch: is a table, not a value; set each of its settings: [fetch]"),
    ("[[fetch]]", "fetch: is a table, not a value; set each of its settings: [fetch]"),
    ("[concurrency]\na = 1", "concurrency: is a single value, not a table (pages)"),
    ("[fetch.connect_timeout]", "fetch.connect_timeout: is a single value, not a table (seconds)"),
    ("[fetch.tls]\nminimum = 1", "unknown setting 'fetch.tls'"),
    ("hosts = 5", "hosts: Expected `object`, got `int` (table by host, *.domain or *)"),
]


@pytest.mark.parametrize(("text", "words"), IN_THE_FILE)
def test_a_line_of_the_file_in_the_wrong_place(text: str, words: str, tmp_path: Path) -> None:
    """One line for it: the file, what stands there, and which setting may be meant."""
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    [fault] = caught.value.faults
    assert fault.startswith(f"{path}: ")
    assert words in fault


# the end of the variable's name, its text, what the message says
IN_THE_ENVIRONMENT = [
    (
        "CONNECT_TIMEOUT",
        "5",
        "unknown setting 'connect_timeout'; did you mean " + VARIABLE,
    ),
    (
        "FETCH_CONNECT_TIMEOUT",
        "5",
        "unknown setting 'fetch_connect_timeout'; did you mean " + VARIABLE,
    ),
    ("JOBS__CONCURRENCY", "5", "unknown setting 'jobs.concurrency'; did you mean 'concurrency'"),
    ("FETCH__CONECT_TIMEOUT", "5", "unknown setting 'fetch.conect_timeout'; did you mean 'fetch.c"),
    ("FETSH__PROXY", "a", "unknown table 'fetsh'; did you mean 'fetch'?"),
    (
        "FETCH",
        "5",
        "fetch: is a table, not a value; set each of its settings: SCRAPERD_FETCH__NAME",
    ),
    (
        "FETCH",
        "{proxy = 'a'}",
        "fetch: is a table, not a value; set each of its settings: SCRAPERD",
    ),
    (
        "FETCH__TLS__MINIMUM",
        "1.2",
        "unknown setting 'fetch.tls.minimum'; did you mean 'fetch.tls_m",
    ),
    ("CONCURRENCY__A", "1", "concurrency.a: concurrency is a single value, not a table (pages)"),
    ("CONCURRENCY", "{a = 1}", "concurrency: is a single value, not a table (pages)"),
    ("HOSTS__A", "{}", "hosts.a: hosts is set as a whole (table by host, *.domain or *)"),
    ("FETCH__", "1", "unknown setting 'fetch.'"),
    ("__", "1", "unknown setting '.'; `config.example.toml` lists them all"),
]


@pytest.mark.parametrize(("name", "text", "words"), IN_THE_ENVIRONMENT)
def test_a_variable_that_names_no_setting(name: str, text: str, words: str) -> None:
    """One line for it, with the variable that may be meant where its name is not plain."""
    with pytest.raises(ConfigError) as caught:
        load(None, {f"SCRAPERD_{name}": text})
    [fault] = caught.value.faults
    assert fault.startswith(f"environment: {words}")


def test_a_fault_of_a_table_hides_no_other(tmp_path: Path) -> None:
    """Faults in the file and the environment, of names, places and values, are told at once."""
    path = tmp_path / "config.toml"
    path.write_text("proxy = 'a'\nlog = 5\n[fetsh]\n[jobs]\nmax_retries = -1\nproxy = 'a'\n")
    with pytest.raises(ConfigError) as caught:
        load(path, {"SCRAPERD_LOG": "x", "SCRAPERD_BROKER__RECONNECT_MIN": "99"})
    words = [
        "'proxy'",
        "log: ",
        "'fetsh'",
        "jobs.max_retries",
        "'jobs.proxy'",
        "log: ",
        "reconnect",
    ]
    for fault, word in zip(caught.value.faults, words, strict=True):
        assert word in fault


@pytest.mark.parametrize("name", [name for name in SETTINGS if "." in name])
def test_each_setting_is_found_without_its_table(name: str) -> None:
    """The name alone, the name in another table, and both names as one word lead to it."""
    table, _, leaf = name.partition(".")
    assert name in nearest(leaf)
    other = "log" if table != "log" else "broker"
    assert name in nearest(f"{other}.{leaf}")
    assert name in nearest(f"{table}_{leaf}")
