"""The configuration: strict, every fault told at once and in words, never with a secret.

May touch: the example file, files in pytest's own folder, environments that are passed in.
Must never: read or change the real environment.
"""

from __future__ import annotations

import json
import os
import re
import ssl
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scraperd.config.example import example as example_text
from scraperd.config.load import ConfigError, load, notify_socket
from scraperd.config.names import SETTINGS, TABLES, meta_of, value_of
from scraperd.config.settings import Config
from scraperd.config.tables import FetchSettings
from scraperd.contract import schema
from tests.rig.settings import configured

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"
DEFAULT = Config()


def faults_of(path: Path | None, environ: dict[str, str]) -> list[str]:
    """What is wrong with a configuration, each fault one line."""
    with pytest.raises(ConfigError) as caught:
        load(path, environ)
    assert str(caught.value).splitlines() == caught.value.faults
    return caught.value.faults


def test_without_a_file_all_is_default() -> None:
    """Nothing but a broker on localhost is needed to start."""
    assert load(None, {}) == DEFAULT


def test_the_example_file_is_the_code_s_own() -> None:
    """The file that users copy says what the code does, setting by setting, and changes nothing."""
    text = EXAMPLE.read_text(encoding="utf-8")
    assert text == example_text()
    assert load(EXAMPLE, {}) == DEFAULT
    tables = tomllib.loads(text)
    assert list(tables) == list(Config.__struct_fields__)
    for table, own in TABLES.items():
        assert list(tables[table]) == list(own.__struct_fields__)


def test_every_setting_says_its_unit_its_reason_and_whether_it_reloads() -> None:
    """Each setting of the example stands under a line with a reason, a unit and "reload"."""
    heads = r"# .+\.\n\[([a-z]+)\]"
    blocks = [block.strip() for block in example_text().split("\n\n")[1:]]
    assert [m[1] for block in blocks if (m := re.fullmatch(heads, block))] == list(TABLES)
    said = [block for block in blocks if not re.fullmatch(heads, block)]
    assert len(said) == len(SETTINGS)
    for name, block in zip(SETTINGS, said, strict=True):
        reason, setting, *example_line = block.split("\n")
        reload = "yes" if meta_of(name)["extra"]["reload"] else "no"
        assert re.fullmatch(rf"# .+\. \[.+\] \(reload: {reload}\)", reason)
        key = name.rpartition(".")[2]
        assert setting.startswith(f"{key} = ") or (
            setting == f"[{key}]" and example_line[0].startswith("# ")
        )


def test_the_example_says_what_a_reload_is() -> None:
    """Before the first setting stands how to reload, and what the others need."""
    head = example_text().partition("\n\n")[0]
    assert "(reload: yes) stands where a reload (systemctl reload, SIGHUP) changes" in head
    assert "The others need a restart" in head


def test_the_schema_has_each_table_with_its_settings() -> None:
    """The JSON Schema of the configuration is made of the same types, and describes each."""
    made = schema(Config)
    shapes = {ref.rpartition(".")[2]: shape for ref, shape in made["$defs"].items()}
    top = shapes["Config"]["properties"]
    assert list(top) == list(Config.__struct_fields__)
    for table, own in TABLES.items():
        assert top[table]["description"]
        assert shapes[own.__name__]["additionalProperties"] is False
        properties = shapes[own.__name__]["properties"]
        assert list(properties) == list(own.__struct_fields__)
        assert all(each["description"] for each in properties.values())


@pytest.mark.parametrize(
    ("listen", "fault"),
    [
        ("127.0.0.1:99999", "99999 is not a port (1 to 65535)"),
        ("127.0.0.999:80", "127.0.0.999 is not an IP address"),
        ("[::1:80", "must be: ADDRESS:PORT, or empty"),
    ],
)
def test_an_address_that_cannot_be_listened_on_is_refused(listen: str, fault: str) -> None:
    """The port and the address are checked when the configuration is read, not at the start."""
    with pytest.raises(ConfigError) as error:
        load(None, {"SCRAPERD_METRICS__LISTEN": listen})
    assert f"metrics.listen: {fault}" in str(error.value)


def certifi() -> str:
    """A file of certificates; the system's own is there on any machine with TLS."""
    return ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt"


def changed(key: str, value: Any) -> Any:
    """Another good value for a setting, as TOML reads it."""
    others = {
        "broker_url": "amqp://x/",
        "log.level": "debug",
        "log.format": "json",
        "log.urls": "host",
        "log.job_level": "debug",
        "metrics.listen": "127.0.0.1:9469",
        "http.listen": "127.0.0.1:8081",
        "tracing.endpoint": "http://127.0.0.1:4318/v1/traces",
        "broker.prefetch": 500,
        "fetch.max_connections": 500,
        "fetch.nameservers": ["127.0.0.53", "[::1]:5353"],
        "fetch.ca_file": certifi(),
        "fetch.tls_minimum": "1.3",
        "politeness.per_host_delay": 0.5,
        "jobs.unknown_field_wait": 600,
        "broker.allow_reply_to": ["team.*", "*.answers"],
        "broker.management_api": "http://rabbit.example:15672",
        "hosts": {"*.example.com": {"per_host_delay": 1.5}},
        "fetch.allow_networks": ["10.0.0.0/8", "::1"],
        "fetch.deny_networks": ["192.0.2.0/24"],
        "politeness.shared_networks": ["192.0.2.0/24"],
        "fetch.allow_hosts": ["example.com", "*.example.org"],
        "fetch.deny_hosts": ["*.example.com"],
        "proxies": {"office": "http://user:password@proxy.example:3128"},
        "callback_endpoints": {"billing": {"url": "https://billing.example/hooks"}},
    }
    if key in others:
        return others[key]
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return value * 0.75
        case str():
            return "x"
    return [500]


def variable(name: str) -> str:
    """The variable of a setting."""
    return f"SCRAPERD_{name.upper().replace('.', '__')}"


def with_value(name: str, value: Any) -> Config:
    """The defaults with one setting changed."""
    return configured(**{name.replace(".", "__"): value})


# Those that hold only beside another setting; tests/config/test_files.py has all but the first.
DEPENDENT = {"fetch.proxy", "broker_url_file"} | {
    f"broker.{name}" for name in ("ca_file", "cert_file", "key_file", "verify")
}


@pytest.mark.parametrize("key", [k for k in SETTINGS if k not in DEPENDENT])
def test_a_setting_can_be_changed_by_each_way(key: str, write: Callable[[str], Path]) -> None:
    """Every setting can be set by the file, under its table's head or with a dot, and by a
    variable, with the same effect; and by the variable over the file's example.
    """
    value = changed(key, value_of(DEFAULT, key))
    table, _, leaf = key.rpartition(".")
    head = f"[{table}]\n" if table else ""
    by_file = load(write(f"{head}{leaf} = {toml(value)}"), {})
    text = value if isinstance(value, str) else toml(value)
    assert load(None, {variable(key): text}) == by_file
    assert load(EXAMPLE, {variable(key): text}) == by_file
    assert load(write(f"{key} = {toml(value)}"), {}) == by_file
    expected = msgspec.convert(value, SETTINGS[key])
    assert by_file == with_value(key, expected)
    assert by_file != DEFAULT


def test_a_variable_changes_one_setting_of_a_table(write: Callable[[str], Path]) -> None:
    """The other settings of its table stay as the file has them; `hosts` is replaced whole."""
    path = write("[fetch]\nconnect_timeout = 5\nmax_redirects = 3\n[hosts.a]\n[hosts.b]\n")
    environ = {"SCRAPERD_FETCH__CONNECT_TIMEOUT": "7", "SCRAPERD_HOSTS": "{c = {}}"}
    config = load(path, environ)
    assert (config.fetch.connect_timeout, config.fetch.max_redirects) == (7, 3)
    assert list(config.hosts) == ["c"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('fetch.proxy = "office"', "fetch.proxy: no proxy 'office' in proxies"),
        ('hosts = {"a.b" = {proxy = "x"}}', """hosts."a.b".proxy: no proxy 'x' in proxies"""),
        ('proxies = {a = "http://u:hunter2@h"}', "proxies.a: must be http://[USER:PASSWORD@]HOST:"),
        ('proxies = {a = "socks5://u:hunter2@h:1/x"}', "proxies.a: must end after the port"),
        ('proxies = {a = "http://u:hunter2[@h:1"}', "proxies.a: not a URL; percent-encode"),
        ('proxies = {a = "http://[]@/"}', "proxies.a: not a URL; percent-encode"),
        ('broker_url = "amqp://[]@/"', "broker_url: not a URL; percent-encode"),
        (
            'proxies = {a = "ftp://u:hunter2@h:1"}',
            'proxies."a": must be: table of http:// or socks5',
        ),
        (
            'hosts = {"x" = {}, "a.b" = {delay = 1}}',
            'hosts."a.b": Object contains unknown field `de',
        ),
        (
            'hosts = {"a.b" = {per_host_delay = -1}}',
            'hosts."a.b".per_host_delay: Expected `float` >=',
        ),
        ('hosts = {"x" = {}, "a.*" = {}}', 'hosts."a.*": must be: table by host, *.domain or *'),
        (
            'fetch.allow_networks = ["10.0.0.1/8"]',
            "fetch.allow_networks: 10.0.0.1/8 has host bits set",
        ),
        (
            'politeness.shared_networks = ["10.0.0.1/8"]',
            "politeness.shared_networks: 10.0.0.1/8 has host bits set",
        ),
        (
            'fetch.deny_networks = ["300.0.0.1"]',
            "fetch.deny_networks: '300.0.0.1' does not appear to be",
        ),
        ('fetch.allow_ports = ["90-80"]', "fetch.allow_ports: 90-80 is no port or range of ports"),
        ("fetch.allow_ports = [0]", "fetch.allow_ports: "),
        (
            'fetch.deny_hosts = ["127.0.0.3:8009"]',
            "fetch.deny_hosts: 127.0.0.3:8009 is no address; a host is",
        ),
        ('hosts = {"1.2.3" = {}}', "hosts: 1.2.3 is no address"),
        ('hosts = {"X.y" = {}, "x.y" = {}}', "hosts: X.y and x.y are the same host"),
        (
            'hosts = {"exámple.com" = {}, "XN--EXMPLE-QTA.com." = {}}',
            "hosts: exámple.com and XN--EXMPLE-QTA.com. are the same host",
        ),
        ('fetch.deny_hosts = ["0x7f.1"]', "fetch.deny_hosts: 0x7f.1 is no address"),
        (
            'fetch.deny_hosts = ["0x7f"]',
            "fetch.deny_hosts: 0x7f is read as the address 0.0.0.127; write that",
        ),
        (r'fetch.deny_hosts = ["*.a\u200cb.de"]', "fetch.deny_hosts: *.a\ufffdb.de is no host"),
        ('fetch.deny_hosts = ["exa%6dple.com"]', "fetch.deny_hosts: must be: hosts, *.domain"),
        (
            'fetch.allow_hosts = ["[::1]", "0::1"]',
            "fetch.allow_hosts: [::1] and 0::1 are the same host",
        ),
        (
            'fetch.user_agent = "Mozilla/5.0 (compatible; bot)"',
            "fetch.user_agent: begins with Mozilla",
        ),
        ('fetch.deny_hosts = ["HTTP://x"]', "fetch.deny_hosts: must be: hosts, *.domain"),
        (
            'fetch.nameservers = ["dns.example"]',
            "fetch.nameservers: must be: addresses, with :PORT",
        ),
        ('fetch.nameservers = ["999.0.0.1"]', "fetch.nameservers: 999.0.0.1 is no address"),
        (f'fetch.nameservers = ["1.1.1.1:{"9" * 5000}"]', "fetch.nameservers: 1.1.1.1:9999"),
        (
            'fetch.nameservers = ["[::1]:99999"]',
            "fetch.nameservers: [::1]:99999 is no address, or its port",
        ),
        ('proxies = {a = "socks5://\u00e9:hunter2@h:1"}', "proxies.a: SOCKS5 takes a user name"),
        (
            'fetch.ca_file = "/nowhere/ca.pem"',
            "fetch.ca_file: /nowhere/ca.pem: No such file or directory",
        ),
        (
            "fetch.ca_file = '/etc/passwd'",
            "fetch.ca_file: /etc/passwd: not a file of PEM certificates",
        ),
        (
            "jobs.max_size = 1_000_000\nfetch.memory_budget = 1_999_999",
            "jobs.max_size (1000000) must not be greater than half of fetch.memory_budget (999999)",
        ),
        (
            "fetch.max_connections = 50",
            "fetch.max_connections (50) must be 0 or at least concurrency (100)",
        ),
    ],
)
def test_what_is_no_host_network_or_proxy(
    text: str, fault: str, write: Callable[[str], Path]
) -> None:
    """Each is one line that says what and where; a proxy's password is in none of them."""
    [said] = faults_of(write(text), {})
    assert fault in said
    assert "hunter2" not in said


def test_a_proxy_is_chosen_by_its_name(write: Callable[[str], Path]) -> None:
    """For everything, for a host, or for none of a domain's hosts."""
    config = load(
        write(
            'proxies = {office = "socks5://u:p@h:1080"}\nfetch.proxy = "office"\n'
            '[hosts."*.example.com"]\nproxy = ""\n'
        ),
        {},
    )
    assert config.fetch.proxy == "office"
    assert config.hosts["*.example.com"].proxy == ""


def toml(value: Any) -> str:
    """JSON is TOML, but for tables."""
    if not isinstance(value, dict):
        return json.dumps(value)
    return f"{{{', '.join(f'{json.dumps(k)} = {toml(v)}' for k, v in value.items())}}}"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("concurrency", "200", 200),
        ("concurrency", "1_000", 1000),
        ("jobs.timeout", "90", 90.0),
        ("jobs.timeout", "90.5", 90.5),
        ("fetch.verify_tls", "false", False),
        ("jobs.retry_http_codes", "[500, 599]", (500, 599)),
        ("jobs.retry_http_codes", "[]", ()),
        ("broker.prefix", "true", "true"),
        ("broker.prefix", "42", "42"),
        ("fetch.user_agent", '"quoted"', '"quoted"'),
        ("fetch.user_agent", "", ""),
        ("broker_url", "amqps://u:p@h:5671/v%2Fh", "amqps://u:p@h:5671/v%2Fh"),
        ("log.level", "debug", "debug"),
    ],
)
def test_a_variable_overrides(
    name: str, text: str, expected: Any, write: Callable[[str], Path]
) -> None:
    """Numbers, booleans, lists and bare text come from the environment, over the file."""
    path = write(example_text())
    assert value_of(load(path, {variable(name): text}), name) == expected


def test_other_variables_are_left_alone() -> None:
    """What does not start with SCRAPERD_, and the one that names the file, are no settings."""
    others = {"PATH": "/", "scraperd_concurrency": "x", "SCRAPERD_CONFIG": "/x"}
    others["XSCRAPERD_CONCURRENCY"] = "x"
    assert load(None, others) == DEFAULT


def test_the_real_environment_is_read_by_default() -> None:
    """A caller that passes none gets the process's own environment, as the daemon does."""
    assert load(None) == load(None, os.environ)


# key, what stands in the file, what the message must say
BAD_VALUES: list[tuple[str, str, str]] = [
    ("concurency", "1", "unknown setting 'concurency'; did you mean 'concurrency'?"),
    ("broker.Prefetch", "1", "did you mean 'broker.prefetch'?"),
    ("retries", "1", "did you mean 'jobs.max_retries'?"),
    ("zzz", "1", "unknown setting 'zzz'; `config.example.toml` lists them all"),
    ("agent", '"x"', "unknown setting 'agent'"),
    ("prefetch_count", "1", "unknown setting 'prefetch_count'; did you mean 'broker.prefetch'?"),
    ("concurrency", '"many"', "concurrency: Expected `int`, got `str` (pages)"),
    ("concurrency", "true", "concurrency: Expected `int`, got `bool` (pages)"),
    ("concurrency", "1.5", "concurrency: Expected `int`, got `float` (pages)"),
    ("concurrency", "0", "concurrency: Expected `int` >= 1 (pages)"),
    ("concurrency", "100001", "concurrency: Expected `int` <= 100000 (pages)"),
    ("sandbox.memory", "9" * 19, "sandbox.memory: Expected `int` <= 9223372036854775807 (bytes)"),
    ("jobs.timeout", "nan", "jobs.timeout: Expected `float` > 0.0 (seconds)"),
    ("jobs.timeout", "inf", "jobs.timeout: Expected `float` <= 86400.0 (seconds)"),
    ("jobs.timeout", "-1", "jobs.timeout: Expected `float` > 0.0 (seconds)"),
    ("jobs.timeout", "1" + "0" * 400, "jobs.timeout: Number out of range (seconds)"),
    ("jobs.timeout", "1979-05-27", "jobs.timeout: Expected `float`, got `date` (seconds)"),
    (
        "jobs.retry_backoff_max",
        "7200",
        "jobs.retry_backoff_max: Expected `float` <= 3600.0 (seconds)",
    ),
    (
        "jobs.retry_http_codes",
        "500",
        "jobs.retry_http_codes: Expected `array`, got `int` (statuses)",
    ),
    ("jobs.retry_http_codes", "[99]", "jobs.retry_http_codes: Expected `int` >= 100 (statuses)"),
    ("jobs.retry_http_codes", "[600]", "jobs.retry_http_codes: Expected `int` <= 599 (statuses)"),
    ("fetch.verify_tls", "1", "fetch.verify_tls: Expected `bool`, got `int` (true or false)"),
    ("fetch.verify_tls", '"no"', "fetch.verify_tls: Expected `bool`, got `str` (true or false)"),
    (
        "broker.allow_reply_to",
        '"a"',
        "broker.allow_reply_to: Expected `array`, got `str` (queue names",
    ),
    (
        "broker.allow_reply_to",
        '["a\\n"]',
        "broker.allow_reply_to: must be: queue names; * stands for any text",
    ),
    ("broker.allow_reply_to", '[""]', "broker.allow_reply_to: must be: queue names"),
    (
        "broker.allow_reply_to",
        f'["{"x" * 256}"]',
        "broker.allow_reply_to: Expected `str` of length <= 255",
    ),
    (
        "jobs.signing_key_file",
        "7",
        "jobs.signing_key_file: Expected `str`, got `int` (path of a file",
    ),
    ("log.level", '"loud"', "(debug, info, warning, error)"),
    ("log.level", '"a\\nb"', "Invalid enum value 'a\\nb' (debug, info, warning, error)"),
    ("log.format", "7", "log.format: Expected `str`, got `int` (auto, json, console)"),
    ("metrics.listen", '"9469"', "metrics.listen: must be: ADDRESS:PORT, or empty"),
    ("metrics.listen", '"h.example:80"', "metrics.listen: must be: ADDRESS:PORT, or empty"),
    ("http.listen", '""', "http.listen: must be: ADDRESS:PORT"),
    (
        "tracing.endpoint",
        '"http://u:p@h.example/v1"',
        "tracing.endpoint: must be: http(s)://HOST[:PORT]/PATH, or empty",
    ),
    (
        "tracing.endpoint",
        '"http://h.example/v1?key=p"',
        "tracing.endpoint: must be: http(s)://HOST[:PORT]/PATH, or empty",
    ),
    (
        "tracing.endpoint",
        '"h.example:4317"',
        "tracing.endpoint: must be: http(s)://HOST[:PORT]/PATH, or empty",
    ),
    ("broker.prefix", '""', "broker.prefix: must be: letters, digits, _ . and -, 1 to 100"),
    ("broker.prefix", '"a b"', "broker.prefix: must be: letters"),
    ("broker.prefix", '"a\\n"', "broker.prefix: must be: letters"),
    ("fetch.user_agent", '"a\\nb"', "fetch.user_agent: must be: printable ASCII"),
    ("fetch.user_agent", '"a\\n"', "fetch.user_agent: must be: printable ASCII"),
    ("fetch.contact_url", '"a\\n"', "fetch.contact_url: must be: URL in ASCII"),
    ("jobs.worker_name", '"é"', "jobs.worker_name: must be: printable ASCII"),
    ("broker_url", "3", "broker_url: Expected `str | array`, got `int` (amqp:// or amqps:// URL"),
    ("jobs.delivery_limit", "51", "jobs.delivery_limit: Expected `int` <= 50"),
    ("broker", "{ url = 'amqp://h' }", "unknown setting 'broker.url'; did you mean 'broker_url'"),
]


@pytest.mark.parametrize(("key", "value", "words"), BAD_VALUES)
def test_a_bad_setting_is_named(
    key: str, value: str, words: str, write: Callable[[str], Path]
) -> None:
    """An unknown key or a wrong value ends in one line: file, key, what is allowed or nearest."""
    path = write(f"{key} = {value}\n")
    [fault] = faults_of(path, {})
    assert fault.startswith(f"{path}: ")
    assert words in fault


@pytest.mark.parametrize("url", ['"http://h/"', '""', "[]", '["amqp://a/", "http://h/"]'])
def test_a_broker_is_an_amqp_url_or_several(url: str, write: Callable[[str], Path]) -> None:
    """Each of them, and at least one."""
    [fault] = faults_of(write(f"broker_url = {url}"), {})
    assert fault == "broker_url: must be: amqp:// or amqps:// URL, or a list of them"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("CONCURENCY", "1", "environment: unknown setting 'concurency'; did you mean"),
        ("", "1", "environment: unknown setting ''"),
        ("CONCURRENCY", "", "environment: concurrency: Expected `int`, got `str` (pages)"),
        ("CONCURRENCY", "many", "environment: concurrency: Expected `int`, got `str` (pages)"),
        ("CONCURRENCY", "0", "environment: concurrency: Expected `int` >= 1 (pages)"),
        ("CONCURRENCY", "9" * 5000, "environment: concurrency: Expected `int`"),
        ("CONCURRENCY", "[" * 5000, "environment: concurrency: Expected `int`"),
        ("FETCH__VERIFY_TLS", "yes", "environment: fetch.verify_tls: Expected `bool`, got `str`"),
        ("FETCH__VERIFY_TLS", "True", "environment: fetch.verify_tls: Expected `bool`, got `str`"),
        (
            "JOBS__RETRY_HTTP_CODES",
            "500, 502",
            "environment: jobs.retry_http_codes: Expected `array`",
        ),
        (
            "JOBS__WORKER_NAME",
            "a b",
            "environment: jobs.worker_name: must be: printable ASCII, no spaces",
        ),
        ("LOG__LEVEL", "\udcff", "environment: log.level: not UTF-8 (debug, info, warning, error)"),
        (
            "JOBS__WORKER_NAME",
            "\udcff",
            "environment: jobs.worker_name: must be: printable ASCII, no spaces",
        ),
    ],
)
def test_a_bad_variable_is_named(name: str, text: str, words: str) -> None:
    """A variable is held to the same rules as the file, and its fault says where it came from."""
    [fault] = faults_of(None, {f"SCRAPERD_{name}": text})
    assert fault.startswith(words)


def test_a_variable_s_text_is_one_value() -> None:
    """A line break in a variable can't set a second setting."""
    config = load(None, {"SCRAPERD_CONCURRENCY": "7\nbroker_url = 'amqp://elsewhere/'"})
    assert (config.concurrency, config.broker_url) == (7, DEFAULT.broker_url)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"\xff", "not TOML: 'utf-8' codec can't decode byte 0xff in position 0"),
        ("concurrency = ", "not TOML: Invalid value (at end of document)"),
        ("concurrency 5", "not TOML: Expected '=' after a key"),
        ("a = 1\na = 2", "not TOML: Cannot overwrite a value"),
        ("a = " + "[" * 5000, "not TOML: nested too deeply"),
        ("a = 1" + "0" * 5000, "not TOML: Exceeds the limit"),
        ("broker_url = amqp://u:hunter2@h", "not TOML: Invalid value (at line 1"),
    ],
)
def test_a_file_that_is_no_toml(
    text: str | bytes, words: str, write: Callable[[str | bytes], Path]
) -> None:
    """A broken file ends in one line that says where, and not what stood there."""
    path = write(text)
    [fault] = faults_of(path, {})
    assert fault.startswith(f"{path}: {words}")
    assert "hunter2" not in fault


def test_a_file_as_windows_writes_it(write: Callable[[str | bytes], Path]) -> None:
    """A byte order mark and CRLF change nothing, in the file and in one that a variable names."""
    path = write(b"\xef\xbb\xbfconcurrency = 7\r\n[jobs]\r\nworker_name = 'w'\r\n")
    config = load(path, {})
    assert (config.concurrency, config.jobs.worker_name) == (7, "w")
    path = write(b"\xef\xbb\xbf8\r\n")
    assert load(None, {"SCRAPERD_CONCURRENCY_FILE": str(path)}).concurrency == 8


def test_a_file_that_can_t_be_read(tmp_path: Path) -> None:
    """A path that is not there, or is a folder, is said so."""
    assert faults_of(tmp_path / "x", {}) == [
        f"{tmp_path}/x: can't be read: No such file or directory"
    ]
    assert faults_of(tmp_path, {}) == [f"{tmp_path}: can't be read: Is a directory"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            "broker.reconnect_min = 40",
            "broker.reconnect_min (40) must not be greater than broker.reconnect_max (30)",
        ),
        (
            "fetch.connect_timeout = 31",
            "fetch.connect_timeout (31) must not be greater than fetch.download_timeout (30)",
        ),
        (
            "jobs.timeout = 29.5",
            "fetch.download_timeout (30) must not be greater than jobs.timeout (29.5)",
        ),
        (
            "jobs.retry_backoff = 601",
            "jobs.retry_backoff (601) must not be greater than jobs.retry_backoff_max (600)",
        ),
        ("broker.prefetch = 99", "broker.prefetch (99) must be 0 or at least concurrency (100)"),
    ],
)
def test_values_that_can_t_hold_together(
    values: str, words: str, write: Callable[[str], Path]
) -> None:
    """A pair of values that contradict each other is named, with both values."""
    [fault] = faults_of(write(values), {})
    assert fault.startswith(words)


def test_every_fault_is_told_at_once(write: Callable[[str], Path]) -> None:
    """Three faults in the file, two in the environment and an impossible pair make six lines."""
    path = write(
        "concurency = 1\n[broker]\nprefetch = 'x'\nheartbeat = 0\n[jobs]\nretry_backoff = 700\n"
    )
    environ = {"SCRAPERD_FETCH__VERIFY_TLS": "yes", "SCRAPERD_NAME": "x"}
    keys = [
        "'concurency'",
        "broker.prefetch:",
        "broker.heartbeat:",
        "fetch.verify_tls:",
        "'name'",
        "jobs.retry_backoff (",
    ]
    faults = faults_of(path, environ)
    assert len(faults) == len(keys)
    for fault, key in zip(faults, keys, strict=True):
        assert key in fault


def test_a_bad_value_causes_no_second_fault(write: Callable[[str], Path]) -> None:
    """A pair is not blamed for the default that stands in for a value that could not be read."""
    [fault] = faults_of(write("fetch.connect_timeout = 60\nfetch.download_timeout = '300'\n"), {})
    assert "fetch.download_timeout: Expected `float`, got `str`" in fault


def test_two_brokers_in_one_text_are_refused() -> None:
    """The natural mistake would make the second URL, with its password, a vhost that is logged."""
    [fault] = faults_of(None, {"SCRAPERD_BROKER_URL": "amqp://h/,amqp://u:hunter2@h/"})
    assert fault.startswith("broker_url: more than one URL in one text; write a list: [")


@pytest.mark.parametrize(
    "url",
    [
        "http://user:hunter2@h/",
        "user:hunter2@h",
        "amqp://user:hunter2@h:99999/",
        "amqp://user:hunter2@h:port/",
        "amqp://user:hunter2@[::1/",
        "AMQP://user:hunter2@h/",
        " amqp://user:hunter2@h/",
        "amqp://user:hunter2@h\udcff/",
    ],
)
def test_no_message_shows_a_password(url: str, write: Callable[[str], Path]) -> None:
    """Whatever is wrong with the broker's URL, its password is in no message; its key is."""
    faults = faults_of(None, {"SCRAPERD_BROKER_URL": url})
    if url.isascii():
        faults += faults_of(write(f"broker_url = '{url}'"), {})
        faults += faults_of(write(f"broker_url = ['{url}']"), {})
    for fault in faults:
        assert "broker_url" in fault
        assert "hunter2" not in fault


@given(
    text=st.text(st.characters(exclude_characters="\0"), max_size=30),
    key=st.sampled_from([*SETTINGS, *TABLES, "x", "fetch.x", "x.y", "hosts.x", "."]),
)
@settings(max_examples=200, deadline=None)
@example(text="1" * 5000, key="broker.prefetch")
@example(text="'''", key="fetch.verify_tls")
def test_no_variable_raises_anything_else(text: str, key: str) -> None:
    """Any text in any variable is a configuration or a ConfigError, and never a traceback."""
    try:
        config = load(None, {variable(key): text})
    except ConfigError as error:
        faults = str(error).splitlines()
    else:
        faults = ["none"]
        assert config == with_value(key, value_of(config, key))
    assert len(faults) == 1


@pytest.mark.parametrize(
    ("settings_", "count"),
    [
        ({}, 200),
        ({"concurrency": 1}, 5),
        ({"concurrency": 30}, 60),
        ({"concurrency": 100_000}, 65535),
        ({"broker__prefetch": 500}, 500),
    ],
)
def test_prefetch_is_concurrency_and_a_little_more(settings_: dict[str, int], count: int) -> None:
    """Unless it is set, as many jobs again as are fetched at once may wait or be on the move."""
    assert configured(**settings_).prefetch_count == count


@pytest.mark.parametrize(
    ("agent", "contact", "sent"),
    [
        ("", "", r"scraperd/\d+\.\d+\S*"),
        ("", "https://e/bot", r"scraperd/\d+\.\d+\S* \(\+https://e/bot\)"),
        ("Mine/1", "https://e/bot", r"Mine/1 \(\+https://e/bot\)"),
        ("Mine/1 (https://e/bot)", "https://e/bot", r"Mine/1 \(https://e/bot\)"),
    ],
)
def test_the_user_agent(agent: str, contact: str, sent: str) -> None:
    """It names the program and where to read about its owner, unless it is given whole."""
    settings_ = FetchSettings(user_agent=agent, contact_url=contact)
    assert re.fullmatch(sent, settings_.agent)


ME = str(os.getpid())


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, ("", 0)),
        ({"NOTIFY_SOCKET": "/run/x"}, ("/run/x", 0)),
        ({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "30000000"}, ("@x", 30_000_000)),
        ({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "5", "WATCHDOG_PID": ME}, ("@x", 5)),
        ({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "5", "WATCHDOG_PID": "1"}, ("@x", 0)),
        ({"WATCHDOG_USEC": ""}, ("", 0)),
        ({"WATCHDOG_USEC": "-5"}, ("", 0)),
        ({"WATCHDOG_USEC": "1e6"}, ("", 0)),
        ({"WATCHDOG_USEC": "²"}, ("", 0)),
        ({"WATCHDOG_USEC": "٣"}, ("", 0)),
        ({"WATCHDOG_USEC": "9" * 5000}, ("", 0)),
    ],
)
def test_where_systemd_listens(environ: dict[str, str], found: tuple[str, int]) -> None:
    """The socket and the watchdog's interval are read if they are ours and sound (sd_notify(3))."""
    assert notify_socket(environ) == found
