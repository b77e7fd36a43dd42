"""How the gateway starts and does not start.

May touch: the command as a user types it.
Must never: need a broker.
"""

from __future__ import annotations

import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scraperd.config.http_tokens import tokens_file
from scraperd.config.load import ConfigError
from scraperd.ops.systemd import Notifier
from scraperd.serve import dead_of, run, tokens_of
from tests.rig.daemon import variables
from tests.rig.ports import HOST, free_port
from tests.rig.settings import configured
from tests.server.running import Gateway

if TYPE_CHECKING:
    from tests.conftest import Command

NOWHERE = f"amqp://{HOST}:1/"
TOKEN = "0123456789abcdef"


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "192.0.2.1"])
def test_without_tokens_it_does_not_listen_to_other_machines(host: str) -> None:
    """The error names the setting to change; a loopback address is allowed."""
    with pytest.raises(ConfigError) as error:
        tokens_of(configured(http__listen=f"{host}:8080"))
    assert f"other machines can reach {host.strip('[]')}, and no token is set" in str(error.value)
    for own in ("127.0.0.2", "[::1]", "localhost"):
        assert tokens_of(configured(http__listen=f"{own}:8080")) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"shop submit {TOKEN}\nshop read {TOKEN}x\n", "a name is given to more than one token"),
        (f"{TOKEN}\n", "line 1: write NAME ROLE TOKEN"),
        (None, "No such file or directory; write NAME ROLE TOKEN a line"),
        ("", "is empty; write NAME ROLE TOKEN a line"),
    ],
)
def test_a_wrong_file_of_tokens_is_named(tmp_path: Path, text: str | None, words: str) -> None:
    """The setting, the file and the fault are said, and no token is."""
    file = tmp_path / "tokens"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError) as error:
        tokens_of(configured(http__tokens_file=str(file)))
    assert str(error.value).startswith(f"http.tokens_file: {file}")
    assert words in str(error.value)
    assert TOKEN not in str(error.value)


def test_results_must_be_allowed_to_come_back() -> None:
    """A start that could not answer `?wait` ends, and names the setting to change."""
    with pytest.raises(ConfigError) as error:
        run(configured(broker__allow_reply_to=("amq.gen-*",)), Notifier(), configured)
    assert "broker.allow_reply_to: must have {prefix}.reply.*" in str(error.value)


@pytest.mark.parametrize("name", ["http-tokens", "scraperd-http-tokens", "scraperd_http-tokens"])
def test_the_tokens_may_be_a_credential_of_systemd(tmp_path: Path, name: str) -> None:
    """By each name that systemd gives it; the setting counts before it."""
    (tmp_path / name).write_text(f"shop submit {TOKEN}\n")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert tokens_file("", environ) == tmp_path / name
    assert tokens_file("/other", environ) == Path("/other")
    assert tokens_file("", {}) is None


def test_without_its_signing_key_it_does_not_start_to_replay_callbacks(tmp_path: Path) -> None:
    """The setting is named; where no callbacks are configured the key is not needed."""
    missing = {"jobs__signing_key_file": str(tmp_path / "none")}
    with pytest.raises(ConfigError, match=r"jobs\.signing_key_file: .*none"):
        dead_of(configured(**missing, callbacks__allow_urls=True))
    assert [it.queue for it in dead_of(configured(**missing))] == ["dead"]
    found = dead_of(configured(callbacks__allow_urls=True))
    assert [it.queue for it in found] == ["dead", "callbacks.dead"]


def test_a_port_that_is_taken_ends_the_start(scraperd: Command) -> None:
    """78, and who listens there is for the operator to find."""
    with socket.create_server((HOST, 0)) as other:
        port = other.getsockname()[1]
        env = variables({"broker_url": NOWHERE, "http__listen": f"{HOST}:{port}"})
        done = scraperd("serve", **env)
    assert done.returncode == 78
    assert f"http.listen: {HOST}:{port} can't be listened on: Address already in use" in done.stdout


def test_tokens_open_it_to_other_machines(tmp_path: Path) -> None:
    """By systemd's credential; systemd is told when it is ready, reloads, and stops."""
    (tmp_path / "http-tokens").write_text(f"shop submit {TOKEN}\n")
    port = free_port()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(60)
        env = {
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
            "CREDENTIALS_DIRECTORY": str(tmp_path),
        }
        with Gateway(NOWHERE, "t", env, http__listen=f"0.0.0.0:{port}") as gateway:
            assert systemd.recv(1000).startswith(b"READY=1\n")
            gateway.port = port
            assert gateway.ask("POST", "/v1/jobs", {}).status == 401
            assert gateway.ask("GET", "/health/live", headers={"Host": "any.example"}).status == 200
            gateway.send_signal(signal.SIGHUP)
            gateway.ready("reloaded")
            assert gateway.drain() == 0
            told = b""
            while b"STOPPING=1" not in told:
                told += systemd.recv(1000)
    words = (b"RELOADING=1\nMONOTONIC_USEC=", b"READY=1\nSTATUS=broker away", b"reloaded at")
    places = [told.index(it) for it in words]
    assert places == sorted(places)
    assert gateway.logged("gateway_start")[0]["tokens"] == 1
