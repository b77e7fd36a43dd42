"""The life of the gateway: start, take requests, drain, stop. A composition root.

May touch: everything below it; signals; the process's exit code, as a value.
Must never: hold logic that a request passes through.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Final

import uvloop
from msgspec import Struct

from scraperd import __version__
from scraperd.base.clocks import SYSTEM
from scraperd.base.fd_limits import raise_limit
from scraperd.broker.rabbitmq.wire.dial import WrongUrl
from scraperd.config.http_tokens import NAME as TOKENS
from scraperd.config.http_tokens import tokens_file, tokens_text
from scraperd.config.load import ConfigError
from scraperd.config.masked import masked
from scraperd.dashboard.letters import Letters
from scraperd.dashboard.routes import Dashboard
from scraperd.dashboard.watch import Watch
from scraperd.deadletters.queue import dead_queue
from scraperd.jobs.signing import Keys as FleetKeys
from scraperd.ops.life import exit_code_of, first_stop
from scraperd.ops.listener import CannotListen, cannot_listen
from scraperd.ops.log import configure
from scraperd.ops.telemetry import Observer
from scraperd.reload import secrets_of
from scraperd.sandbox.confine import keep_secrets
from scraperd.server.batches.asking import Batches
from scraperd.server.door import Door, reply_fault
from scraperd.server.gateway import Gateway, Parts
from scraperd.server.held import Held
from scraperd.server.hosts import is_loopback
from scraperd.server.idempotency import Keys
from scraperd.server.listener import Listener
from scraperd.server.metrics import Counts, Metrics
from scraperd.server.openapi import document
from scraperd.server.posting import Poster
from scraperd.server.rules.cancelling import Cancelling
from scraperd.server.submission import Checker
from scraperd.server.tokens import Tokens, TokensError, read_tokens
from scraperd.wiring import callbacks_of, extractor_of

if TYPE_CHECKING:
    from scraperd.config.settings import Config
    from scraperd.ops.sink import Sink
    from scraperd.ops.systemd import Notifier
    from scraperd.sandbox.extractor import Extractor
    from scraperd.server.gateway import Route

OTHER_DESCRIPTORS: Final = 64  # of the process, besides those of clients
STOP_MARGIN: Final = 5.0  # seconds past jobs.shutdown_timeout: answers to those that still wait
STATUS_INTERVAL: Final = 5.0  # seconds
BACKLOG: Final = 128  # connections that the kernel holds


def run(config: Config, notifier: Notifier) -> int:
    """Run the gateway until a signal ends it; returns the exit code. Raises ConfigError."""
    tokens = tokens_of(config)
    if fault := reply_fault(config.broker):
        raise ConfigError([fault])
    if not config.sandbox.dumpable:
        keep_secrets()
    log = configure(config.log)
    life = _Life(config, tokens, notifier, Observer(lines=log, settings=config.log))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_logged(log.sink, life))


async def _logged(sink: Sink, life: _Life) -> int:
    """Run with a log that nothing waits for; return the exit code."""
    with sink.turns(life.observer.lost_lines):
        return await exit_code_of(life.run(), life.observer, WrongUrl, CannotListen)


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


class _Life(Struct, frozen=True):
    """What `run` was given or made, for what runs on the loop."""

    config: Config
    tokens: Tokens | None
    notifier: Notifier
    observer: Observer

    async def run(self) -> None:
        """Take requests until a signal comes, then drain. Raises a group of what failed."""
        stop = first_stop(self.observer)
        http = self.config.http
        held = Held(http.max_results, http.max_results_size, http.result_hold, SYSTEM.monotonic)
        async with extractor_of(self.config) as extractor, asyncio.TaskGroup() as group:
            door = self._door(held)
            counts = Counts()
            watch, batches = self._watch(), self._batches()
            gateway = self._gateway(door, held, extractor, counts, watch, batches)
            listener = Listener(
                gateway,
                most=max(1, min(http.max_connections, raise_limit() - OTHER_DESCRIPTORS)),
                head_timeout=http.request_timeout,
                on_unreadable=gateway.unreadable,
            )
            gateway.metrics = Metrics(counts, held, door, lambda: len(listener.connections))
            server = await self._listen(listener)
            services = door.run(), watch.run(), self._pulse(door, counts)
            tasks = [group.create_task(service) for service in services]
            why = await stop
            server.close()
            watch.stop()
            listener.close_idle()
            await self._drain(gateway, held, counts, why)
            await listener.shutdown(1)
            if batches is not None:
                await batches.close()
            for task in tasks:
                task.cancel()

    def _door(self, held: Held) -> Door:
        """Return the session with the broker. Shared: `fetch.connect_timeout`, as sites are."""
        return Door(
            self.config.broker,
            self.config.broker_urls,
            self.config.fetch.connect_timeout,
            on_result=held.take,
            on_lost=held.lose,
            event=self.observer.event,
            clocks=SYSTEM,
        )

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

    def _watch(self) -> Watch:
        """Return what the viewers of the dashboard see. Shared: `fetch.connect_timeout`."""
        config = self.config
        within, most = config.fetch.connect_timeout, config.http.max_viewers
        return Watch(config.broker_urls, config.broker.prefix, within, most, SYSTEM)

    def _routes(self, watch: Watch) -> dict[str, Route]:
        """Return the paths of the dashboard, unless it is switched off."""
        config = self.config
        if not config.http.dashboard:
            return {}
        letters = Letters(
            lambda: dead_queue(config.broker, config.broker_urls, config.fetch.connect_timeout),
            self.observer.event,
            partial(watch.keep, "actions"),
        )
        about = {"version": __version__, "prefix": config.broker.prefix}
        tokens = self.tokens is not None
        return Dashboard(watch, letters, masked(config), about, tokens=tokens).routes()

    def _gateway(  # noqa: PLR0917 - as `run` names its parts
        self,
        door: Door,
        held: Held,
        extractor: Extractor,
        counts: Counts,
        watch: Watch,
        batches: Batches | None,
    ) -> Gateway:
        """Return what answers requests. Shared: `jobs.max_size` and the names of `proxies`."""
        config, http = self.config, self.config.http
        checker = Checker(
            config.jobs.max_size,
            config.proxies,
            callbacks_of(config),
            extractor,
            batches=config.batches.enabled,
        )
        keys = Keys(http.max_idempotency_keys, http.idempotency_window, SYSTEM.monotonic)
        poster = Poster(http, checker, door, held, keys)
        return Gateway(
            Parts(
                http,
                self.tokens,
                door,
                held,
                poster,
                document(http.max_wait),
                counts,
                batches,
                self._cancelling(),
            ),
            self._routes(watch),
            event=self.observer.event,
            trouble=self.observer.trouble,
            clocks=SYSTEM,
        )

    async def _listen(self, listener: Listener) -> asyncio.AbstractServer:
        """Listen, and say so. Raises CannotListen."""
        host, port = self.config.http.address
        try:
            loop = asyncio.get_running_loop()
            server = await loop.create_server(listener, host, port, backlog=BACKLOG)
        except OSError as error:
            raise cannot_listen("http.listen", host, port, error) from error
        tokens = 0 if self.tokens is None else len(self.tokens)
        self.observer.event(
            "gateway_start", version=__version__, host=host, port=port, tokens=tokens
        )
        self.notifier.send(READY=1, STATUS="the broker is not reached yet")
        return server

    async def _pulse(self, door: Door, counts: Counts) -> None:
        """Tell systemd now and then that the loop turns, and how it goes."""
        interval = min(STATUS_INTERVAL, self.notifier.watchdog_interval or STATUS_INTERVAL)
        while True:
            broker = "reached" if door.ready else "away, jobs get 503"
            status = f"broker {broker}; {counts.in_flight} requests in flight"
            self.notifier.send(WATCHDOG=1, STATUS=status)
            await asyncio.sleep(interval)

    async def _drain(self, gateway: Gateway, held: Held, counts: Counts, why: str) -> None:
        """Answer what has begun. Who still waits for a result at the end is told so."""
        began, most = time.monotonic(), self.config.jobs.shutdown_timeout
        usec = int((most + 2 * STOP_MARGIN) * 1_000_000)
        self.notifier.send(STOPPING=1, EXTEND_TIMEOUT_USEC=usec)
        self.observer.event("gateway_drain", signal=why, in_flight=counts.in_flight)
        if not await gateway.drain(most):
            held.lose()
            await gateway.drain(STOP_MARGIN)
        seconds = round(time.monotonic() - began, 3)
        self.observer.event("gateway_stop", left=counts.in_flight, seconds=seconds)
