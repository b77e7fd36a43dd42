"""The life of the gateway: start, take requests, drain, stop. A composition root.

May touch: everything below it; signals; the process's exit code, as a value.
Must never: hold logic that a request passes through.
"""

from __future__ import annotations

import asyncio
import signal
import time
from functools import partial
from typing import TYPE_CHECKING, Final

import uvloop
from msgspec import Struct

from scraperd import __version__
from scraperd.base.clocks import SYSTEM
from scraperd.base.fd_limits import raise_limit
from scraperd.broker.rabbitmq.wire.dial import WrongUrl
from scraperd.config.changes import in_short
from scraperd.config.http_tokens import NAME as TOKENS
from scraperd.config.http_tokens import tokens_file, tokens_text
from scraperd.config.load import ConfigError
from scraperd.config.masked import masked
from scraperd.dashboard.configuration import Configuration
from scraperd.dashboard.descriptions import Description, dead_callbacks, dead_jobs
from scraperd.dashboard.letters import Letters
from scraperd.dashboard.routes import Dashboard
from scraperd.dashboard.watch import Watch
from scraperd.jobs.signing import Keys as FleetKeys
from scraperd.ops.life import exit_code_of, first_stop, ignore_signals
from scraperd.ops.listener import CannotListen, cannot_listen
from scraperd.ops.log import configure
from scraperd.ops.telemetry import Observer
from scraperd.reload import Reloader, secrets_of
from scraperd.sandbox.confine import keep_secrets
from scraperd.server.access.hosts import is_loopback
from scraperd.server.batches.asking import Batches
from scraperd.server.door import Door, reply_fault
from scraperd.server.gateway import Gateway, Parts
from scraperd.server.held import Held
from scraperd.server.idempotency import Keys
from scraperd.server.listener import Listener
from scraperd.server.metrics import Counts, Metrics
from scraperd.server.openapi import document
from scraperd.server.posting import Poster
from scraperd.server.rules.cancelling import Cancelling
from scraperd.server.submission import Checker
from scraperd.server.tokens import Tokens, TokensError, read_tokens
from scraperd.wiring import callbacks_of, extractor_of, topology_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from scraperd.config.settings import Config
    from scraperd.ops.sink import Sink
    from scraperd.ops.systemd import Notifier
    from scraperd.reload import Apply
    from scraperd.sandbox.extractor import Extractor
    from scraperd.server.gateway import Route

OTHER_DESCRIPTORS: Final = 80  # of the process, besides those of clients
STOP_MARGIN: Final = 5.0  # seconds past jobs.shutdown_timeout: answers to those that still wait
STATUS_INTERVAL: Final = 5.0  # seconds
BACKLOG: Final = 128  # connections that the kernel holds


def run(config: Config, notifier: Notifier, reread: Callable[[], Config]) -> int:
    """Run the gateway until a signal ends it; returns the exit code. Raises ConfigError.

    `reread` reads the configuration again, for a reload; it raises ConfigError.
    """
    checks = checked(config)
    if not config.sandbox.dumpable:
        keep_secrets()
    log = configure(config.log)
    life = _Life(config, checks, notifier, Observer(lines=log, settings=config.log), reread)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_logged(log.sink, life))


async def _logged(sink: Sink, life: _Life) -> int:
    """Run with a log that nothing waits for; return the exit code."""
    with sink.turns(life.observer.lost_lines):
        try:
            return await exit_code_of(life.run(), life.observer, WrongUrl, CannotListen)
        finally:
            ignore_signals()


class Checked(Struct, frozen=True):
    """What files say that settings name: the tokens, and what the dashboard's desks open."""

    tokens: Tokens | None
    dead: list[Description]


def checked(config: Config) -> Checked:
    """Return what the files say, if all fits the gateway. Raises ConfigError."""
    if fault := reply_fault(config.broker):
        raise ConfigError([fault])
    return Checked(tokens_of(config), dead_of(config) if config.http.dashboard else [])


def tokens_of(config: Config) -> Tokens | None:
    """Return the tokens; None if there are none. Raises ConfigError."""
    path = tokens_file(config.http.tokens_file)
    if path is not None:
        try:
            return read_tokens(tokens_text(path), SYSTEM.monotonic)
        except TokensError as error:
            raise ConfigError([f"{TOKENS}: {path}: {error}"]) from error
    host, _ = config.http.address
    if not is_loopback(host):
        fault = (
            f"http.listen: other machines can reach {host}, and no token is set; set {TOKENS} "
            "(docs/http.md), or listen on 127.0.0.1"
        )
        raise ConfigError([fault])
    return None


def _fleet_keys(config: Config) -> FleetKeys:
    """Return the keys that seal rules. Raises ValueError if they can't be read."""
    try:
        return FleetKeys(secrets_of(config), config.broker.prefix, SYSTEM.wall)
    except ConfigError as error:
        raise ValueError(str(error)) from error


def dead_of(config: Config) -> list[Description]:
    """Return the queues of dead letters that the dashboard shows. Raises ConfigError.

    Callbacks that are replayed are sealed as a daemon would, so its signing keys are needed.
    Shared: `fetch.connect_timeout`, as sites are dialled.
    """
    reach = config.broker, config.broker_urls, config.fetch.connect_timeout
    if not config.calls_back:
        return [dead_jobs(*reach)]
    keys = FleetKeys(secrets_of(config), config.broker.prefix, SYSTEM.wall)
    urls = {name: endpoint.url for name, endpoint in config.callback_endpoints.items()}
    return [dead_jobs(*reach), dead_callbacks(*reach, keys, urls, SYSTEM.wall)]


class Rooms:
    """The parts of the gateway, wired together, and the configuration that they have."""

    def __init__(
        self, config: Config, checks: Checked, extractor: Extractor, observer: Observer
    ) -> None:
        self.config = config
        self.tokens = checks.tokens
        self.observer = observer
        self.extractor = extractor
        self.counts = Counts()
        http, clock = config.http, SYSTEM.monotonic
        self.held = Held(http.max_results, http.max_results_size, http.result_hold, clock)
        self.keys = Keys(http.max_idempotency_keys, http.idempotency_window, clock)
        self.door = self._door()
        self.watch = self._watch()
        self.batches = self._batches()
        self.cancelling = self._cancelling()
        self._letters: dict[str, Letters] = {}
        self._set_desks(checks.dead)
        self.gateway = Gateway(
            self._parts(),
            self._routes(),
            event=observer.event,
            trouble=observer.trouble,
            clocks=SYSTEM,
        )
        self.listener = Listener(
            self.gateway,
            most=most_connections(config),
            head_timeout=http.request_timeout,
            on_unreadable=self.gateway.unreadable,
        )
        self.gateway.metrics = Metrics(
            self.counts, self.held, self.door, lambda: len(self.listener.connections)
        )

    def prepared(self, config: Config) -> Apply:
        """Return what hands another configuration to all parts. Raises ConfigError.

        The file of tokens is read again where it was at the start.
        """
        checks = checked(config)
        if (checks.tokens is None) is not (self.tokens is None):
            raise ConfigError([f"{TOKENS}: tokens come or go by a restart only; restart for that"])
        return partial(self.configure, config, checks)

    def configure(self, config: Config, checks: Checked) -> list[str]:
        """Hand the settings to all parts anew, and say whose tokens differ. Nothing here fails."""
        tokens = checks.tokens
        differing = tokens.succeed(self.tokens) if tokens and self.tokens else []
        self.config, self.tokens = config, tokens
        self.observer.configure(config.log)
        http, within = config.http, config.fetch.connect_timeout
        self.held.configure(http.max_results, http.max_results_size, http.result_hold)
        self.keys.configure(http.max_idempotency_keys, http.idempotency_window)
        self.door.configure(within)
        self.cancelling.configure(within)
        if self.batches is not None:
            self.batches.configure(within)
        self._set_desks(checks.dead)
        self.extractor.configure(waiting_room=config.waiting_room)
        self.listener.configure(most=most_connections(config), head_timeout=http.request_timeout)
        self.gateway.configure(self._parts(), self._routes())
        return [f"{TOKENS}: other lines for {in_short(differing)}"] if differing else []

    def _door(self) -> Door:
        """Return the session with the broker. Shared: `fetch.connect_timeout`, as sites are."""
        return Door(
            self.config.broker,
            self.config.broker_urls,
            self.config.fetch.connect_timeout,
            on_result=self.held.take,
            on_lost=self.held.lose,
            event=self.observer.event,
            clocks=SYSTEM,
        )

    def _watch(self) -> Watch:
        """Return what the viewers of the dashboard see. Shared: `fetch.connect_timeout`."""
        config = self.config
        within, most = config.fetch.connect_timeout, config.http.max_viewers
        return Watch(config.broker_urls, topology_of(config), within, most, SYSTEM)

    def _batches(self) -> Batches | None:
        """Return what asks the fleet about batches; None without them."""
        config = self.config
        if not config.batches.enabled:
            return None
        return Batches(
            config.broker_urls,
            config.broker.prefix,
            config.fetch.connect_timeout,
            self.observer.event,
        )

    def _set_desks(self, dead: list[Description]) -> None:
        """Have a desk for each queue of dead letters; one that there was keeps its turns."""
        note, old = partial(self.watch.keep, "actions"), self._letters
        self._letters = {}
        for about in dead:
            desk = old.get(about.queue) or Letters(about, self.observer.event, note)
            desk.about = about
            self._letters[about.queue] = desk

    def _cancelling(self) -> Cancelling:
        """Return what cancels jobs. It reads the fleet's key when it first needs that."""
        config = self.config
        return Cancelling(
            config.broker_urls,
            config.broker.prefix,
            config.fetch.connect_timeout,
            partial(_fleet_keys, config),
            self.observer.event,
        )

    def _routes(self) -> dict[str, Route]:
        """Return the paths of the dashboard, unless it is switched off."""
        config, prefix = self.config, self.config.broker.prefix
        if not config.http.dashboard:
            return {}
        within, own = config.fetch.connect_timeout, masked(config)
        configuration = Configuration(own, config.broker_urls, prefix, within, SYSTEM)
        about = {"version": __version__, "prefix": prefix, "batches": config.batches.enabled}
        desks, tokens = list(self._letters.values()), self.tokens is not None
        return Dashboard(self.watch, desks, configuration, about, tokens=tokens).routes()

    def _parts(self) -> Parts:
        """Return what answers requests. Shared: `jobs.max_size` and the names of `proxies`."""
        config, http = self.config, self.config.http
        checker = Checker(
            config.jobs.max_size,
            config.proxies,
            callbacks_of(config),
            self.extractor,
            batches=config.batches.enabled,
        )
        return Parts(
            http,
            self.tokens,
            self.door,
            self.held,
            Poster(http, checker, self.door, self.held, self.keys),
            document(http.max_wait),
            self.counts,
            self.batches,
            self.cancelling,
        )


def most_connections(config: Config) -> int:
    """Return how many clients there may be: as set, or as the limit of descriptors allows."""
    return max(1, min(config.http.max_connections, raise_limit() - OTHER_DESCRIPTORS))


class _Life(Struct, frozen=True):
    """What `run` was given or made, for what runs on the loop."""

    config: Config
    checks: Checked
    notifier: Notifier
    observer: Observer
    reread: Callable[[], Config]

    async def run(self) -> None:
        """Take requests until a signal comes, then drain. Raises a group of what failed."""
        stop, hangup = first_stop(self.observer), asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hangup.set)
        async with extractor_of(self.config) as extractor, asyncio.TaskGroup() as group:
            rooms = Rooms(self.config, self.checks, extractor, self.observer)
            reloader = Reloader(rooms, self.reread, rooms.prepared, hangup)
            server = await self._listen(rooms.listener)
            self._tell_of(reloader, rooms)
            reloads = group.create_task(reloader.run())
            services = rooms.door.run(), rooms.watch.run(), self._pulse(reloader, rooms)
            tasks = [group.create_task(service) for service in services]
            why = await stop
            reloads.cancel()
            server.close()
            rooms.watch.stop()
            rooms.listener.close_idle()
            await self._drain(rooms, why)
            await rooms.listener.shutdown(1)
            if rooms.batches is not None:
                await rooms.batches.close()
            for task in tasks:
                task.cancel()

    def _tell_of(self, reloader: Reloader, rooms: Rooms) -> None:
        """Have systemd told when a reload begins, and that it has ended."""
        reloader.on_begin = self.notifier.reloading
        reloader.on_end = lambda: self.notifier.send(READY=1, STATUS=_status(reloader, rooms))

    async def _listen(self, listener: Listener) -> asyncio.AbstractServer:
        """Listen, and say so. Raises CannotListen."""
        host, port = self.config.http.address
        try:
            loop = asyncio.get_running_loop()
            server = await loop.create_server(listener, host, port, backlog=BACKLOG)
        except OSError as error:
            raise cannot_listen("http.listen", host, port, error) from error
        tokens = 0 if self.checks.tokens is None else len(self.checks.tokens)
        self.observer.event(
            "gateway_start", version=__version__, host=host, port=port, tokens=tokens
        )
        self.notifier.send(READY=1, STATUS="the broker is not reached yet")
        return server

    async def _pulse(self, reloader: Reloader, rooms: Rooms) -> None:
        """Tell systemd now and then that the loop turns, and how it goes."""
        interval = min(STATUS_INTERVAL, self.notifier.watchdog_interval or STATUS_INTERVAL)
        while True:
            self.notifier.send(WATCHDOG=1, STATUS=_status(reloader, rooms))
            await asyncio.sleep(interval)

    async def _drain(self, rooms: Rooms, why: str) -> None:
        """Answer what has begun. Who still waits for a result at the end is told so."""
        began, most = time.monotonic(), rooms.config.jobs.shutdown_timeout
        gateway, counts = rooms.gateway, rooms.counts
        usec = int((most + 2 * STOP_MARGIN) * 1_000_000)
        self.notifier.send(STOPPING=1, EXTEND_TIMEOUT_USEC=usec)
        self.observer.event("gateway_drain", signal=why, in_flight=counts.in_flight)
        if not await gateway.drain(most):
            rooms.held.lose()
            await gateway.drain(STOP_MARGIN)
        seconds = round(time.monotonic() - began, 3)
        self.observer.event("gateway_stop", left=counts.in_flight, seconds=seconds)


def _status(reloader: Reloader, rooms: Rooms) -> str:
    """Return one line for `systemctl status`."""
    broker = "reached" if rooms.door.ready else "away, jobs get 503"
    reloaded = f"; {reloader.state}" if reloader.state else ""
    return f"broker {broker}; {rooms.counts.in_flight} requests in flight{reloaded}"
