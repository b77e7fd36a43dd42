"""A reload from outside: SIGHUP, with a configuration that was changed, broken, or changed back.

May touch: a private broker, a site in a thread, the daemon as a subprocess and its file.
Must never: sleep for luck; each wait is for something that is seen.
"""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults.probes import Ear
from tests.rig.daemon import Daemon, Dispatcher, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.rig.sites.hostel import Hostel

OPEN = 'allow_networks = ["127.0.0.0/8", "::1/128"]\nallow_ports = []\n'


class Reloaded:
    """A daemon whose settings stand in a file that the test rewrites."""

    def __init__(self, file: Path, broker_url: str, prefix: str, **settings: Any) -> None:
        self.file = file
        self.daemon = Daemon(broker_url, prefix, {"SCRAPERD_CONFIG": str(file)}, **settings)

    def reload(self, text: str, event: str = "reloaded") -> dict[str, Any]:
        """Write the file, send SIGHUP, and return what is logged of the reload."""
        self.file.write_text(text)
        before = len(self.daemon.logged(event))
        self.daemon.send_signal(signal.SIGHUP)
        until(lambda: len(self.daemon.logged(event)) > before, f"no {event}")
        return self.daemon.logged(event)[-1]


@pytest.fixture
def start(
    tmp_path: Path, broker_url: str, prefix: str, dispatcher: Dispatcher
) -> Iterator[Callable[..., Reloaded]]:
    """Start a daemon by a file with this text; it ends with the test, and must end well."""
    started: list[Reloaded] = []

    def begin(text: str, **settings: Any) -> Reloaded:
        file = tmp_path / "config.toml"
        file.write_text(text)
        one = Reloaded(file, broker_url, prefix, **settings)
        started.append(one)
        one.daemon.ready()
        return one

    yield begin
    for one in started:
        assert one.daemon.drain() == 0
        one.daemon.close()


def test_more_at_once_and_fewer(
    start: Callable[..., Reloaded], dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """A higher concurrency starts pages that wait, while none of those before has ended; a lower
    one lets those that run go on, and starts no other until few enough do.
    """
    running = start("concurrency = 2\n")
    idents = dispatcher.publish_many([hostel.url(f"/hold/{n}") for n in range(40)])
    hostel.wait_for(lambda hits: len(hits) == 2)
    told = running.reload("concurrency = 20\n")
    assert told["changed"] == ["concurrency: 2 -> 20"]
    assert told["needs_restart"] == []
    hostel.wait_for(lambda hits: len(hits) == 20)
    running.reload("concurrency = 1\n")
    hostel.release()
    results = dispatcher.results(40)
    assert sorted(result["id"] for result in results) == sorted(idents)
    assert {result["status"] for result in results} == {"ok"}
    assert hostel.most == 20


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("concurrency = 'many'", "concurrency: Expected `int`, got `str` (pages)"),
        ("concurency = 5", "unknown setting 'concurency'; did you mean 'concurrency'?"),
        ("concurrency = [", "not TOML"),
        ("[jobs]\nsigning_key_file = '/nowhere/key'", "/nowhere/key"),
        ("[jobs]\ntimeout = 80000", "jobs.timeout"),
    ],
)
def test_a_bad_file_changes_nothing(
    start: Callable[..., Reloaded], dispatcher: Dispatcher, hostel: Hostel, text: str, said: str
) -> None:
    """It is said what is wrong, jobs go on by the settings before, and a good file mends it."""
    running = start("concurrency = 3\n")
    failed = running.reload(text, "reload_failed")
    assert failed["level"] == "error"
    assert said in failed["error"]
    dispatcher.publish({"url": hostel.url("/page/1"), "id": "a"})
    assert dispatcher.results(1)[0]["status"] == "ok"
    assert running.reload("concurrency = 4\n")["changed"] == ["concurrency: 3 -> 4"]


def test_what_needs_a_restart_is_said_until_it_is_made(start: Callable[..., Reloaded]) -> None:
    """A setting that a running process can't change keeps its value, by name in each reload."""
    running = start("[broker]\nheartbeat = 10\n")
    text = "concurrency = 7\n[broker]\nheartbeat = 20\n"
    told = running.reload(text)
    assert told["changed"] == ["concurrency: 100 -> 7"]
    assert told["needs_restart"] == ["broker.heartbeat"]
    again = running.reload(text)
    assert (again["changed"], again["needs_restart"]) == ([], ["broker.heartbeat"])
    assert running.reload("concurrency = 7\n")["needs_restart"] == []


def test_no_secret_is_said(start: Callable[..., Reloaded]) -> None:
    """The log names a proxy that was changed, never its password; nor does a fault in one."""
    secret = "hunter2secret"
    running = start("")
    told = running.reload(f"[proxies]\noffice = 'http://me:{secret}@proxy.example:3128'\n")
    assert told["changed"] == ["proxies: other entries for office"]
    running.reload(f"[proxies]\noffice = 'ftp://me:{secret}@proxy.example'\n", "reload_failed")
    running.reload(f"broker_url = 'amqp://me:{secret}@[::1'\n")  # the variable wins
    assert secret not in "".join(line.text for line in running.daemon.lines)


def test_the_guard_judges_anew(
    start: Callable[..., Reloaded], dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """After a reload no page comes over a connection that the settings before had allowed."""
    port = hostel.url("").rpartition(":")[2]
    own = {"fetch__allow_networks": None, "fetch__allow_ports": None}
    running = start(f"[fetch]\n{OPEN}", **own)
    url = f"http://localhost:{port}/page/"
    dispatcher.publish({"url": f"{url}1", "id": "a"})
    assert dispatcher.results(1)[0]["status"] == "ok"
    running.reload(f"[fetch]\n{OPEN}deny_networks = ['127.0.0.0/8', '::1/128']\n")
    dispatcher.publish({"url": f"{url}2", "id": "b"})
    assert dispatcher.results(1)[0]["error"]["kind"] == "blocked_address"
    running.reload(f"[fetch]\n{OPEN}")
    dispatcher.publish({"url": f"{url}3", "id": "c"})
    assert dispatcher.results(1)[0]["status"] == "ok"
    assert set(hostel.hits) == {"/page/1", "/page/3"}


def test_a_host_gets_another_pace_at_once(
    start: Callable[..., Reloaded], dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """A page that had to wait 20 seconds at least, for its host's delay, is fetched at once."""
    slow = '[hosts]\n"127.0.0.1" = { per_host_delay = 40 }\n'
    running = start(slow, politeness__snooze_after=60)
    dispatcher.publish_many([hostel.url(f"/page/{n}") for n in range(2)])
    hostel.wait_for(lambda hits: len(hits) == 1)
    told = running.reload("")
    assert told["changed"] == ["hosts: other entries for 127.0.0.1"]
    dispatcher.results(2)
    first, second = hostel.times()
    assert second - first < 20


def test_the_log_gets_another_level(
    start: Callable[..., Reloaded], dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """At `warning` a job writes no line, at `info` it does. The reloads themselves are said."""
    running = start("")
    assert running.reload("[log]\nlevel = 'warning'\n")["changed"] == ["log.level: info -> warning"]
    dispatcher.publish({"url": hostel.url("/page/1"), "id": "a"})
    dispatcher.results(1)
    assert running.reload("[log]\nlevel = 'info'\n")["changed"] == ["log.level: warning -> info"]
    dispatcher.publish({"url": hostel.url("/page/2"), "id": "b"})
    dispatcher.results(1)
    running.daemon.wait_for_line('"event":"job"')
    assert [line["id"] for line in running.daemon.logged("job")] == ["b"]


def test_a_hundred_reloads_under_load(
    start: Callable[..., Reloaded], dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """2,000 jobs, and 100 reloads beside them: one result each, all ok, none twice."""
    running = start("concurrency = 50\n")
    idents = dispatcher.publish_many([hostel.url(f"/page/{n}") for n in range(2000)])
    for n in range(100):
        text = f"concurrency = {20 + n % 7 * 10}\n[politeness]\nsnooze_after = {1 + n % 3}\n"
        running.reload(text if n % 10 else text + "[broker]\nprefetch = 300\n")
    results = dispatcher.results(2000)
    assert sorted(result["id"] for result in results) == sorted(idents)
    assert {result["status"] for result in results} == {"ok"}
    assert dispatcher.depth("results") == 0
    assert len(running.daemon.logged("reloaded")) == 100
    assert not running.daemon.logged("broker_lost")


def test_systemd_is_told(
    tmp_path: Path, broker_url: str, prefix: str, dispatcher: Dispatcher
) -> None:
    """RELOADING=1 with the time that systemd wants, then READY=1 and a status that says the end."""
    file = tmp_path / "config.toml"
    file.write_text("")
    with contextlib.closing(Ear()) as ear:
        env = {"SCRAPERD_CONFIG": str(file), "NOTIFY_SOCKET": ear.address}
        with Daemon(broker_url, prefix, env).ready() as daemon:
            assert ear.wait(lambda told: told.fields.get("READY") == "1", 20)
            for text, said in (
                ("concurrency = 0\n", "nothing changed: "),
                ("concurrency = 9\n", "1 settings changed"),
            ):
                heard = len(ear.told)
                file.write_text(text)
                daemon.send_signal(signal.SIGHUP)
                begun = ear.wait(lambda told: "RELOADING" in told.fields, 20, start=heard)
                assert begun is not None
                assert begun.fields["MONOTONIC_USEC"].isdigit()
                ended = ear.wait(lambda told: "READY" in told.fields, 20, start=heard)
                assert ended is not None
                assert said in ended.status
            assert daemon.drain() == 0
