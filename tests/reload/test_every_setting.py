"""Each setting that can be reloaded reaches all who hold it, as a start would make them.

May touch: the services of a daemon and the parts of a gateway, wired and not run, and whatever they
hold.
Must never: name a room: a setting that a room keeps for itself is found by its value.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import Struct
from msgspec.structs import asdict

from scraperd.base.clocks import SYSTEM
from scraperd.config.changes import is_reloadable
from scraperd.config.names import SETTINGS, value_of
from scraperd.config.settings import Config
from scraperd.config.tables import HostSettings
from scraperd.jobs.signing import Keys
from scraperd.ops.telemetry import Observer
from scraperd.serve import Checked, Rooms
from scraperd.wiring import (
    Services,
    configure,
    extractor_of,
    fetcher_of,
    pages_of,
    services_of,
)
from tests.rig.settings import configured

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scraperd.sandbox.extractor import Extractor

OTHER: dict[str, Any] = {  # another value, where no rule for its type makes a valid one
    "broker.allow_reply_to": ("{prefix}.reply.*", "team.*"),
    "fetch.user_agent": "other/1.0",
    "fetch.contact_url": "https://example.com/bot",
    "fetch.allow_ports": (80, "8000-8100"),
    "fetch.allow_networks": ("10.1.0.0/16",),
    "fetch.deny_networks": ("192.0.2.0/24",),
    "fetch.allow_hosts": ("*.example.com",),
    "fetch.deny_hosts": ("bad.example",),
    "fetch.proxy": "office",
    "politeness.robots_agent": "other",
    "politeness.shared_networks": ("198.51.100.0/24",),
    "jobs.retry_http_codes": (500,),
    "log.level": "warning",
    "log.urls": "host",
    "log.job_level": "debug",
    "hosts": {"slow.example": HostSettings(per_host_delay=3.0)},
    "proxies": {"office": "http://proxy.example:3128", "socks": "socks5://proxy.example:1080"},
}
ELSEWHERE = {  # not held by any room: read when it is needed, from the configuration itself
    "jobs.shutdown_timeout",
    "jobs.signing_key_file",  # what the file says is, see test_signing_keys
    "log.level",  # structlog has it
}
RELOADABLE = [name for name in SETTINGS if is_reloadable(name)]
OF_THE_GATEWAY = [name for name in RELOADABLE if name.startswith("http.")]
OF_THE_DAEMON = [name for name in RELOADABLE if name not in {*ELSEWHERE, *OF_THE_GATEWAY}]
SHARED = ["jobs.max_size", "fetch.connect_timeout", "proxies", "concurrency"]


def other(name: str) -> Any:
    """A valid value that is not the default."""
    value = value_of(Config(), name)
    if name in OTHER:
        return OTHER[name]
    match value:
        case bool():
            return not value
        case int():
            return value + 17
        case float():
            return value * 0.75 + 1.0
    raise AssertionError(f"{name}: OTHER has no value for it")


@pytest.mark.parametrize("name", OF_THE_DAEMON)
def test_a_reload_makes_what_a_start_makes(name: str) -> None:
    """Where a start with the new value differs from one with the old, a reload gives the new."""
    asyncio.run(_compare(configured(**{name.replace(".", "__"): other(name)})))


def test_all_at_once() -> None:
    """The same with all settings changed at once, and changed back."""
    changed = {name.replace(".", "__"): other(name) for name in OF_THE_DAEMON}
    asyncio.run(_compare(configured(**changed)))


@pytest.mark.parametrize("name", [*OF_THE_GATEWAY, *SHARED])
def test_a_reload_of_the_gateway_makes_what_a_start_makes(name: str) -> None:
    """The same for `scraperd serve`: its own settings, and those of a daemon that it shares."""
    old = configured(concurrency=1)  # so that the other value has another waiting room
    new = configured(old, **{name.replace(".", "__"): other(name)})
    asyncio.run(_compare_gateways(old, new))


async def _compare_gateways(old: Config, new: Config) -> None:
    async with extractor_of(old) as one, extractor_of(new) as two, extractor_of(old) as three:
        before, wanted = dump_gateway(_rooms(old, one)), dump_gateway(_rooms(new, two))
        differing = {path for path in before | wanted if before.get(path) != wanted.get(path)}
        assert differing, "no part holds the setting: it is read nowhere"
        running = _rooms(old, three)
        for config, found in ((new, wanted), (old, before)):
            running.prepared(config)()
            now = dump_gateway(running)
            assert {it: now.get(it) for it in differing} == {it: found.get(it) for it in differing}


def _rooms(config: Config, extractor: Extractor) -> Rooms:
    return Rooms(config, Checked(None, []), extractor, Observer(settings=config.log))


def dump_gateway(rooms: Rooms) -> dict[str, Any]:
    """All plain values that the parts hold; the dashboard's look keeps those of the start."""
    names = ("held", "keys", "door", "batches", "cancelling", "extractor", "gateway", "listener")
    return dict(_leaves([(name, getattr(rooms, name)) for name in names], "", set()))


async def _compare(new: Config) -> None:
    old = Config()
    async with fetcher_of(old) as one, fetcher_of(new) as two, fetcher_of(old) as three:
        before = dump(_services(old, one))
        wanted = dump(_services(new, two))
        differing = {path for path in before | wanted if before.get(path) != wanted.get(path)}
        assert differing, "no room holds the setting: it is read nowhere"
        running = _services(old, three)
        configure(running, new, (b"k",))
        assert dump(running, differing) == {path: wanted.get(path) for path in differing}
        configure(running, old, (b"k",))
        assert dump(running, differing) == {path: before.get(path) for path in differing}


def _services(config: Config, fetcher: Any) -> Services:
    keys = Keys((b"k",), "p", SYSTEM.wall)
    pages = pages_of(config, fetcher, SYSTEM)
    return services_of(config, config, 1_000_000, keys, pages, Observer(settings=config.log), "w")


def dump(services: Services, paths: set[str] | None = None) -> dict[str, Any]:
    """All plain values that the services hold, by the names of the attributes that lead there.

    Only those at `paths`, if any are given.
    """
    others = {"config", "limit", "surveyor"}  # the last asks once, at the start
    rooms = [name for name in Services.__slots__ if name not in others]
    found = dict(_leaves([(name, getattr(services, name)) for name in rooms], "", set()))
    return found if paths is None else {path: found.get(path) for path in paths}


def _leaves(it: Any, path: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    if isinstance(it, bool | int | float | str | bytes | None) or type(it) is type:
        yield path, it
    elif id(it) in seen:
        return
    else:
        seen.add(id(it))
        for name, value in _parts(it):
            yield from _leaves(value, f"{path}.{name}", seen)


def _parts(it: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(it, Struct):
        yield from asdict(it).items()
    elif isinstance(it, dict):
        yield from ((str(key), value) for key, value in it.items())
    elif isinstance(it, list | tuple | deque):
        yield from ((str(n), value) for n, value in enumerate(it))
    elif isinstance(it, range):
        yield from (("start", it.start), ("stop", it.stop))
    elif hasattr(it, "network_address"):
        yield "network", str(it)
    elif type(it).__module__.startswith("scraperd"):
        names = [name for kind in type(it).__mro__ for name in getattr(kind, "__slots__", ())]
        names += list(getattr(it, "__dict__", {}))
        yield from ((name, getattr(it, name)) for name in names if hasattr(it, name))
