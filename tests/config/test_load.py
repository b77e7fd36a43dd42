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
from typing import TYPE_CHECKING, Any, get_type_hints

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scraperd.config.load import ConfigError, load, marks_file, marks_keys, notify_socket
from scraperd.config.load import example as example_text
from scraperd.config.settings import Config

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"
DEFAULT = Config()


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str | bytes], Path]:
    """Make a configuration file of a text."""

    def make(text: str | bytes) -> Path:
        path = tmp_path / "scraperd.toml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return make


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
    assert list(tomllib.loads(text)) == list(Config.__struct_fields__)


def test_every_setting_says_its_unit_and_its_reason() -> None:
    """Each setting of the example stands under a line with a reason and a unit."""
    blocks = example_text().split("\n\n")[1:]
    assert len(blocks) == len(Config.__struct_fields__)
    for block in blocks:
        reason, setting, *example_line = block.strip().split("\n")
        assert reason.startswith("# ")
        assert reason.endswith("]")
        assert ". [" in reason
        assert " = " in setting or (setting[0] == "[" and example_line[0].startswith("# "))


def certifi() -> str:
    """A file of certificates; the system's own is there on any machine with TLS."""
    return ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt"


def changed(key: str, value: Any) -> Any:
    """Another good value for a setting, as TOML reads it."""
    others = {
        "broker_url": "amqp://x/",
        "log_level": "debug",
        "log_format": "json",
        "prefetch": 500,
        "max_connections": 500,
        "nameservers": ["127.0.0.53", "[::1]:5353"],
        "ca_file": certifi(),
        "tls_minimum": "1.3",
        "per_host_delay": 0.5,
        "allow_reply_to": ["team.*", "*.answers"],
        "hosts": {"*.example.com": {"per_host_delay": 1.5}},
        "allow_networks": ["10.0.0.0/8", "::1"],
        "deny_networks": ["192.0.2.0/24"],
        "shared_networks": ["192.0.2.0/24"],
        "allow_hosts": ["example.com", "*.example.org"],
        "deny_hosts": ["*.example.com"],
        "proxies": {"office": "http://user:password@proxy.example:3128"},
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


@pytest.mark.parametrize("key", [k for k in Config.__struct_fields__ if k != "proxy"])
def test_a_setting_can_be_changed_by_each_way(key: str, write: Callable[[str], Path]) -> None:
    """Every setting can be set by the file and by a variable, with the same effect."""
    value = changed(key, getattr(DEFAULT, key))
    by_file = load(write(f"{key} = {toml(value)}"), {})
    text = value if isinstance(value, str) else toml(value)
    assert load(None, {f"SCRAPERD_{key.upper()}": text}) == by_file
    expected = msgspec.convert(value, get_type_hints(Config, include_extras=True)[key])
    assert by_file == msgspec.structs.replace(DEFAULT, **{key: expected})
    assert by_file != DEFAULT


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('proxy = "office"', "proxy: no proxy 'office' in proxies"),
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
        ('allow_networks = ["10.0.0.1/8"]', "allow_networks: 10.0.0.1/8 has host bits set"),
        ('shared_networks = ["10.0.0.1/8"]', "shared_networks: 10.0.0.1/8 has host bits set"),
        ('deny_networks = ["300.0.0.1"]', "deny_networks: '300.0.0.1' does not appear to be"),
        ('allow_ports = ["90-80"]', "allow_ports: 90-80 is no port or range of ports"),
        ("allow_ports = [0]", "allow_ports: "),
        ('deny_hosts = ["127.0.0.3:8009"]', "deny_hosts: 127.0.0.3:8009 is no address; a host is"),
        ('hosts = {"1.2.3" = {}}', "hosts: 1.2.3 is no address"),
        ('hosts = {"X.y" = {}, "x.y" = {}}', "hosts: X.y and x.y are the same host"),
        ('allow_hosts = ["[::1]", "0::1"]', "allow_hosts: [::1] and 0::1 are the same host"),
        ('user_agent = "Mozilla/5.0 (compatible; bot)"', "user_agent: begins with Mozilla"),
        ('deny_hosts = ["HTTP://x"]', "deny_hosts: must be: hosts, *.domain"),
        ('nameservers = ["dns.example"]', "nameservers: must be: addresses, with :PORT"),
        ('nameservers = ["999.0.0.1"]', "nameservers: 999.0.0.1 is no address"),
        (f'nameservers = ["1.1.1.1:{"9" * 5000}"]', "nameservers: 1.1.1.1:9999"),
        ('nameservers = ["[::1]:99999"]', "nameservers: [::1]:99999 is no address, or its port"),
        ('proxies = {a = "socks5://\u00e9:hunter2@h:1"}', "proxies.a: SOCKS5 takes a user name"),
        ('ca_file = "/nowhere/ca.pem"', "ca_file: /nowhere/ca.pem: No such file or directory"),
        ("ca_file = '/etc/passwd'", "ca_file: /etc/passwd: not a file of PEM certificates"),
        (
            "max_job_size = 1_000_000\nmemory_budget = 1_999_999",
            "max_job_size (1000000) must not be greater than half of memory_budget (999999)",
        ),
        ("max_connections = 50", "max_connections (50) must be 0 or at least concurrency (100)"),
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
            'proxies = {office = "socks5://u:p@h:1080"}\nproxy = "office"\n'
            '[hosts."*.example.com"]\nproxy = ""\n'
        ),
        {},
    )
    assert config.proxy == "office"
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
        ("job_timeout", "90", 90.0),
        ("job_timeout", "90.5", 90.5),
        ("verify_tls", "false", False),
        ("retry_http_codes", "[500, 599]", (500, 599)),
        ("retry_http_codes", "[]", ()),
        ("prefix", "true", "true"),
        ("prefix", "42", "42"),
        ("user_agent", '"quoted"', '"quoted"'),
        ("user_agent", "", ""),
        ("broker_url", "amqps://u:p@h:5671/v%2Fh", "amqps://u:p@h:5671/v%2Fh"),
        ("log_level", "debug", "debug"),
    ],
)
def test_a_variable_overrides(
    name: str, text: str, expected: Any, write: Callable[[str], Path]
) -> None:
    """Numbers, booleans, lists and bare text come from the environment, over the file."""
    path = write(example_text())
    assert getattr(load(path, {f"SCRAPERD_{name.upper()}": text}), name) == expected


def test_other_variables_are_left_alone() -> None:
    """What does not start with SCRAPERD_, and the one that names the file, are no settings."""
    others = {"PATH": "/", "scraperd_prefix": "x", "XSCRAPERD_PREFIX": "x", "SCRAPERD_CONFIG": "/x"}
    assert load(None, others) == DEFAULT


def test_the_real_environment_is_read_by_default() -> None:
    """A caller that passes none gets the process's own environment, as the daemon does."""
    assert load(None) == load(None, os.environ)


# key, what stands in the file, what the message must say
BAD_VALUES: list[tuple[str, str, str]] = [
    ("concurency", "1", "unknown setting 'concurency'; did you mean 'concurrency'?"),
    ("Prefetch", "1", "did you mean 'prefetch'?"),
    ("retries", "1", "did you mean 'max_retries'?"),
    ("zzz", "1", "unknown setting 'zzz'; `config.example.toml` lists them all"),
    ("agent", '"x"', "unknown setting 'agent'"),
    ("prefetch_count", "1", "unknown setting 'prefetch_count'; did you mean 'prefetch'?"),
    ("concurrency", '"many"', "concurrency: Expected `int`, got `str` (pages)"),
    ("concurrency", "true", "concurrency: Expected `int`, got `bool` (pages)"),
    ("concurrency", "1.5", "concurrency: Expected `int`, got `float` (pages)"),
    ("concurrency", "0", "concurrency: Expected `int` >= 1 (pages)"),
    ("concurrency", "100001", "concurrency: Expected `int` <= 100000 (pages)"),
    ("job_timeout", "nan", "job_timeout: Expected `float` > 0.0 (seconds)"),
    ("job_timeout", "inf", "job_timeout: Expected `float` <= 86400.0 (seconds)"),
    ("job_timeout", "-1", "job_timeout: Expected `float` > 0.0 (seconds)"),
    ("job_timeout", "1" + "0" * 400, "job_timeout: Number out of range (seconds)"),
    ("job_timeout", "1979-05-27", "job_timeout: Expected `float`, got `date` (seconds)"),
    ("retry_backoff_max", "7200", "retry_backoff_max: Expected `float` <= 3600.0 (seconds)"),
    ("retry_http_codes", "500", "retry_http_codes: Expected `array`, got `int` (statuses)"),
    ("retry_http_codes", "[99]", "retry_http_codes: Expected `int` >= 100 (statuses)"),
    ("retry_http_codes", "[600]", "retry_http_codes: Expected `int` <= 599 (statuses)"),
    ("verify_tls", "1", "verify_tls: Expected `bool`, got `int` (true or false)"),
    ("verify_tls", '"no"', "verify_tls: Expected `bool`, got `str` (true or false)"),
    ("allow_reply_to", '"a"', "allow_reply_to: Expected `array`, got `str` (queue names"),
    ("allow_reply_to", '["a\\n"]', "allow_reply_to: must be: queue names; * stands for any text"),
    ("allow_reply_to", '[""]', "allow_reply_to: must be: queue names"),
    ("allow_reply_to", f'["{"x" * 256}"]', "allow_reply_to: Expected `str` of length <= 255"),
    ("marks_key_file", "7", "marks_key_file: Expected `str`, got `int` (path of a file"),
    ("log_level", '"loud"', "(debug, info, warning, error)"),
    ("log_level", '"a\\nb"', "Invalid enum value 'a\\nb' (debug, info, warning, error)"),
    ("log_format", "7", "log_format: Expected `str`, got `int` (auto, json, console)"),
    ("prefix", '""', "prefix: must be: letters, digits, _ . and -, 1 to 100"),
    ("prefix", '"a b"', "prefix: must be: letters"),
    ("prefix", '"a\\n"', "prefix: must be: letters"),
    ("user_agent", '"a\\nb"', "user_agent: must be: printable ASCII"),
    ("user_agent", '"a\\n"', "user_agent: must be: printable ASCII"),
    ("contact_url", '"a\\n"', "contact_url: must be: URL in ASCII"),
    ("worker_name", '"é"', "worker_name: must be: printable ASCII"),
    ("broker_url", "3", "broker_url: Expected `str | array`, got `int` (amqp:// or amqps:// URL"),
    ("delivery_limit", "51", "delivery_limit: Expected `int` <= 50"),
    ("broker", "{ url = 'amqp://h' }", "unknown setting 'broker'; did you mean 'broker_url'?"),
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
        ("VERIFY_TLS", "yes", "environment: verify_tls: Expected `bool`, got `str`"),
        ("VERIFY_TLS", "True", "environment: verify_tls: Expected `bool`, got `str`"),
        ("RETRY_HTTP_CODES", "500, 502", "environment: retry_http_codes: Expected `array`"),
        ("WORKER_NAME", "a b", "environment: worker_name: must be: printable ASCII, no spaces"),
        ("LOG_LEVEL", "\udcff", "environment: log_level: not UTF-8 (debug, info, warning, error)"),
        ("WORKER_NAME", "\udcff", "environment: worker_name: must be: printable ASCII, no spaces"),
    ],
)
def test_a_bad_variable_is_named(name: str, text: str, words: str) -> None:
    """A variable is held to the same rules as the file, and its fault says where it came from."""
    [fault] = faults_of(None, {f"SCRAPERD_{name}": text})
    assert fault.startswith(words)


def test_a_variable_s_text_is_one_value() -> None:
    """A line break in a variable can't set a second setting."""
    config = load(None, {"SCRAPERD_CONCURRENCY": "7\nprefetch = 99"})
    assert (config.concurrency, config.prefetch) == (7, DEFAULT.prefetch)


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


def test_a_file_that_can_t_be_read(tmp_path: Path) -> None:
    """A path that is not there, or is a folder, is said so."""
    assert faults_of(tmp_path / "x", {}) == [
        f"{tmp_path}/x: can't be read: No such file or directory"
    ]
    assert faults_of(tmp_path, {}) == [f"{tmp_path}: can't be read: Is a directory"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ("reconnect_min = 40", "reconnect_min (40) must not be greater than reconnect_max (30)"),
        (
            "connect_timeout = 31",
            "connect_timeout (31) must not be greater than download_timeout (30)",
        ),
        ("job_timeout = 29.5", "download_timeout (30) must not be greater than job_timeout (29.5)"),
        (
            "retry_backoff = 601",
            "retry_backoff (601) must not be greater than retry_backoff_max (600)",
        ),
        ("prefetch = 99", "prefetch (99) must be 0 or at least concurrency (100)"),
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
    path = write("concurency = 1\nprefetch = 'x'\nheartbeat = 0\nretry_backoff = 700\n")
    environ = {"SCRAPERD_VERIFY_TLS": "yes", "SCRAPERD_NAME": "x"}
    keys = ["'concurency'", "prefetch:", "heartbeat:", "'name'", "verify_tls:", "retry_backoff ("]
    faults = faults_of(path, environ)
    assert len(faults) == len(keys)
    for fault, key in zip(faults, keys, strict=True):
        assert key in fault


def test_a_bad_value_causes_no_second_fault(write: Callable[[str], Path]) -> None:
    """A pair is not blamed for the default that stands in for a value that could not be read."""
    [fault] = faults_of(write("connect_timeout = 60\ndownload_timeout = '300'\n"), {})
    assert "download_timeout: Expected `float`, got `str`" in fault


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
    key=st.sampled_from([*Config.__struct_fields__, "x", ""]),
)
@settings(max_examples=200, deadline=None)
@example(text="1" * 5000, key="prefetch")
@example(text="'''", key="verify_tls")
def test_no_variable_raises_anything_else(text: str, key: str) -> None:
    """Any text in any variable is a configuration or a ConfigError, and never a traceback."""
    try:
        config = load(None, {f"SCRAPERD_{key.upper()}": text})
    except ConfigError as error:
        faults = str(error).splitlines()
    else:
        faults = ["none"]
        assert config == msgspec.structs.replace(DEFAULT, **{key: getattr(config, key)})
    assert len(faults) == 1


@pytest.mark.parametrize(
    ("settings_", "count"),
    [
        ({}, 200),
        ({"concurrency": 1}, 5),
        ({"concurrency": 30}, 60),
        ({"concurrency": 100_000}, 65535),
        ({"prefetch": 500}, 500),
    ],
)
def test_prefetch_is_concurrency_and_a_little_more(settings_: dict[str, int], count: int) -> None:
    """Unless it is set, as many jobs again as are fetched at once may wait or be on the move."""
    assert msgspec.structs.replace(DEFAULT, **settings_).prefetch_count == count


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
    config = msgspec.structs.replace(DEFAULT, user_agent=agent, contact_url=contact)
    assert re.fullmatch(sent, config.agent)


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


GOOD_KEY = "k" * 32


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        (GOOD_KEY, 1),
        (f"\n  {GOOD_KEY}\t\r\n\n{'l' * 64}\n", 2),
        (b"\xff\x00" * 16, 1),
    ],
)
def test_the_keys_of_marks_are_the_lines_of_their_file(
    text: str | bytes, keys: int, write: Callable[[str | bytes], Path]
) -> None:
    """In their order, without the spaces around; any bytes will do."""
    path = write(text)
    found = marks_keys(Config(marks_key_file=str(path)), {})
    assert len(found) == keys
    assert all(len(key) in (32, 64) for key in found)


def test_the_keys_of_marks_may_be_a_credential(tmp_path: Path) -> None:
    """Of systemd's LoadCredential; the setting is stronger, and without either there is none."""
    own = tmp_path / "own"
    own.write_text("o" * 32)
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert marks_keys(Config(), environ) == marks_keys(Config(), {}) == ()
    assert marks_file(Config(), environ) is None
    (tmp_path / "scraperd-marks-key").write_text(GOOD_KEY)
    assert marks_keys(Config(), environ) == (GOOD_KEY.encode(),)
    assert marks_keys(Config(marks_key_file=str(own)), environ) == (b"o" * 32,)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no key; write one key a line"),
        ("\n \n", "has no key"),
        (f"{GOOD_KEY}\nsecret-of-ours", "line 2 of PATH has 14 bytes, fewer than 32; `openssl"),
        ("secret-of-ours" * 2000, "has more than 16384 bytes"),
        (None, "PATH.gone: No such file or directory"),
    ],
)
def test_a_bad_key_file_is_told_without_its_keys(
    text: str | None, words: str, write: Callable[[str | bytes], Path]
) -> None:
    """Which file and line, what is wrong, and what makes a good key."""
    path = write(text or "")
    name = str(path) if text is not None else f"{path}.gone"
    with pytest.raises(ConfigError) as caught:
        marks_keys(Config(marks_key_file=name), {})
    [fault] = caught.value.faults
    assert fault.startswith("marks_key_file: ")
    assert words.replace("PATH", str(path)) in fault
    assert "secret-of-ours" not in fault
    assert GOOD_KEY not in fault
