"""The life of the process: start, consume, drain, stop. The composition root.

May touch: everything below it; signals; the process's exit code, as a value.
Must never: hold logic that a job passes through.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import uvloop

from scraperd import __version__
from scraperd.base.clocks import SYSTEM
from scraperd.base.fd_limits import OutOfDescriptors, are_left, raise_limit
from scraperd.broker.rabbitmq.consumers import Prefetch
from scraperd.broker.rabbitmq.generation import Settings
from scraperd.broker.rabbitmq.link import Link
from scraperd.broker.rabbitmq.publisher import RabbitPublisher
from scraperd.broker.rabbitmq.reply_patterns import Addresses
from scraperd.broker.rabbitmq.topology import Topology, TopologyError
from scraperd.broker.rabbitmq.wire.dial import BrokerRefused
from scraperd.broker.rabbitmq.wire.gate import Gate
from scraperd.config.keys import signing_key_file, signing_keys
from scraperd.fetch import own
from scraperd.jobs.settle import Settler
from scraperd.jobs.signing import Keys, secret_of
from scraperd.ops.capacity import MIN_DESCRIPTORS, fit, needed
from scraperd.ops.log import configure
from scraperd.ops.stopping import IGNORED, STOPPING, Stop
from scraperd.ops.telemetry import Observer
from scraperd.sandbox.confine import keep_secrets, lacking
from scraperd.sandbox.extractor import Crowded
from scraperd.sandbox.trial import can_start
from scraperd.wiring import broker_limits, fetcher_of, scraper_of, worker_of

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from scraperd.config.settings import Config
    from scraperd.jobs.worker import Worker
    from scraperd.ops.sink import Sink
    from scraperd.ops.systemd import Notifier
    from scraperd.scrape.pipeline import Scraper

EXIT_OK: Final = 0
EXIT_INTERNAL: Final = 70  # sysexits.h EX_SOFTWARE
EXIT_CONFIG: Final = 78  # sysexits.h EX_CONFIG: systemd must not restart us into it
STATUS_EVERY: Final = 5.0  # seconds
STOP_MARGIN: Final = 30.0  # seconds past shutdown_timeout: settling, and a broker that is silent
START_EXTENSION: Final = 30  # seconds systemd grants at a time while the broker is away


class Lacking(Exception):  # noqa: N818 - a state of this machine
    """This machine has too few descriptors or processes for any work; the message says so."""


def run(config: Config, notifier: Notifier) -> int:
    """Run the daemon until a signal ends it; returns the exit code.

    Raises ConfigError if the keys that sign headers can't be read, Lacking if the machine's
    limits leave no room for any work.
    """
    _check_limits(config)
    if not config.sandbox.dumpable:
        keep_secrets()
    keys = keys_of(config)
    log = configure(config.log)
    observer = Observer(lines=log)
    if missing := lacking():
        observer.event("helpers_unconfined", missing=missing)
    if reason := own.lacking():
        observer.event("own_addresses_unknown", error=reason)
    config = _fitted(config, observer)
    gc.freeze()  # what was imported stays: no collection need look at it again
    gc.set_threshold(5000)  # 700 runs one every few pages; a page makes no cycles
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_logged(log.sink, _main(config, keys, notifier, observer), observer))


def _check_limits(config: Config) -> None:
    """Raise Lacking if not even one page could be fetched and searched under these limits."""
    most = raise_limit()
    if not are_left(MIN_DESCRIPTORS):
        raise Lacking(
            f"the limit of file descriptors is {most}, which leaves fewer than {MIN_DESCRIPTORS} "
            "for the daemon: raise LimitNOFILE (ulimit -n)"
        )
    if (count := config.sandbox.processes) and (fault := can_start(1 + count)):
        raise Lacking(
            f"{1 + count} helper processes can't be started: {fault}: raise LimitNPROC "
            "(ulimit -u) or TasksMax, or lower sandbox.processes"
        )


async def _logged(sink: Sink, main: Coroutine[Any, Any, int], observer: Observer) -> int:
    """Run `main` with a log that nothing waits for."""
    with sink.turns(observer.lost_lines):
        return await main


def _fitted(config: Config, observer: Observer) -> Config:
    """The configuration, with no more connections than there are descriptors for."""
    limit = raise_limit()
    fitted = fit(config, limit)
    if fitted != config:
        observer.event(
            "descriptors_few",
            limit=limit,
            needed=needed(config),
            concurrency=fitted.concurrency,
            max_connections=fitted.fetch.max_connections,
        )
    return fitted


@dataclass(slots=True)
class _Services:
    """What runs, wired together."""

    link: Link
    worker: Worker
    scraper: Scraper


async def _main(config: Config, keys: Keys, notifier: Notifier, observer: Observer) -> int:
    """Run, and turn what ended it into an exit code."""
    try:
        await _live(config, keys, notifier, observer)
    except BaseExceptionGroup as group:
        refused, others = group.split((BrokerRefused, TopologyError))
        if refused is None or others is not None:
            observer.trouble("died", group)  # a service died: say so, exit, let systemd restart us
            return EXIT_INTERNAL
        observer.event("config", error=_first(refused))
        return EXIT_CONFIG
    finally:
        _ignore_signals()
    observer.event("stop", done=observer.tally.done, dead=observer.tally.dead)
    return EXIT_OK


async def _live(config: Config, keys: Keys, notifier: Notifier, observer: Observer) -> None:
    """Start, wait for a signal, drain, stop."""
    stop = _on_signals(observer)
    name = config.jobs.worker_name or f"{socket.gethostname()}:{os.getpid()}"
    observer.event(
        "start",
        version=__version__,
        worker=name,
        concurrency=config.concurrency,
        signing_key=str(signing_key_file(config.jobs.signing_key_file) or "broker_url"),
    )
    async with (
        fetcher_of(config) as fetcher,
        scraper_of(config, fetcher, SYSTEM) as scraper,
        asyncio.TaskGroup() as group,
    ):
        services = _wire(config, keys, scraper, observer, name)
        worker = group.create_task(services.worker.run(), name="worker")
        link = group.create_task(services.link.run(), name="link")
        pulse = group.create_task(_pulse(services, notifier, observer), name="pulse")
        why = await stop
        services.worker.close()
        # However long the drain is set to be, systemd must not cut it short.
        usec = round((config.jobs.shutdown_timeout + STOP_MARGIN) * 1_000_000)
        notifier.send(STOPPING=1, EXTEND_TIMEOUT_USEC=usec, STATUS=_status(services, observer))
        await _drain(config, services, observer, why)
        await worker
        link.cancel()
        pulse.cancel()


def _wire(config: Config, keys: Keys, scraper: Scraper, observer: Observer, name: str) -> _Services:
    """Build the house: each part gets what it needs and no more."""
    topology = Topology(config.broker.prefix)
    limits = broker_limits(config)
    publisher = RabbitPublisher(
        Addresses.of(topology, config.broker.allow_reply_to),
        observer.event,
        passive=config.broker.passive_declare,
        confirm_timeout=config.broker.confirm_timeout,
        clocks=SYSTEM,
    )
    settler = Settler(publisher, limits, keys, SYSTEM)
    worker = worker_of(config, scraper, settler, observer, name, SYSTEM)
    link = Link(
        Settings.of(
            config.broker,
            config.broker_urls,
            f"scraperd {name}",
            config.fetch.connect_timeout,  # shared: sites and brokers are dialled alike
        ),
        topology,
        limits,
        lambda: Gate(config.jobs_budget, scraper.hold),
        prefetch=Prefetch(config.prefetch_count, config.quarantine_prefetch),
        on_delivery=worker.accept,
        on_lost=worker.abandon,
        events=observer.event,
        clocks=SYSTEM,
    )
    return _Services(link, worker, scraper)


def keys_of(config: Config) -> Keys:
    """The keys that sign headers: those of the file, or else one made from broker_url.

    Raises ConfigError.
    """
    secrets = signing_keys(config.jobs.signing_key_file) or (secret_of(config.broker_urls[0]),)
    return Keys(secrets, config.broker.prefix, SYSTEM.wall)


def _on_signals(observer: Observer) -> asyncio.Future[str]:
    """A future for the first SIGTERM or SIGINT; the second ends the process where it stands.

    Nothing is lost by that: what is not acked, the broker delivers again.
    """
    loop = asyncio.get_running_loop()
    first: asyncio.Future[str] = loop.create_future()
    stop = Stop()

    def on_signal(number: signal.Signals) -> None:
        match stop.take(number, loop.time()):
            case "first" if not first.done():
                first.set_result(number.name)
            case "second":
                observer.event("second_signal", signal=number.name)
                os._exit(128 + number)

    for number in STOPPING:
        loop.add_signal_handler(number, on_signal, number)
    # Their default would end the process undrained, and systemd takes SIGHUP for a clean exit.
    loop.add_signal_handler(signal.SIGHUP, observer.event, "hangup_ignored")
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        said = partial(observer.event, "signal_ignored", signal=number.name)
        loop.add_signal_handler(number, said)
    return first


def _ignore_signals() -> None:
    """Let no signal change how a process ends that has stopped already."""
    loop, numbers = asyncio.get_running_loop(), {*STOPPING, *IGNORED}
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    for number in numbers:
        loop.remove_signal_handler(number)  # which leaves the default
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


async def _drain(config: Config, services: _Services, observer: Observer, why: str) -> None:
    """Stop consuming, finish what is in flight until the deadline, give the rest back."""
    started = time.monotonic()
    observer.event("drain", signal=why, in_flight=services.worker.in_flight)
    await services.link.cancel()
    left = await services.worker.drain(config.jobs.shutdown_timeout)
    seconds = round(time.monotonic() - started, 3)
    if left:
        observer.event("drain_timeout", left=left, seconds=seconds)
    else:
        observer.event("drained", seconds=seconds)


async def _pulse(services: _Services, notifier: Notifier, observer: Observer) -> None:
    """Tell systemd: ready once consuming, alive while the loop turns, and how it goes."""
    interval = min(STATUS_EVERY, notifier.watchdog_interval or STATUS_EVERY)
    ready, told = False, Counter[type]()
    while True:
        told = _tell(services.scraper.snoozed_for, told, observer)
        consuming = services.link.consuming.is_set()
        status = _status(services, observer)
        if ready:
            notifier.send(WATCHDOG=1, STATUS=status)
        elif consuming:
            ready = True
            notifier.send(READY=1, WATCHDOG=1, STATUS=status)
        else:
            # The broker is waited for, for ever; systemd must not take that for a failed start.
            usec = START_EXTENSION * 1_000_000
            notifier.send(EXTEND_TIMEOUT_USEC=usec, WATCHDOG=1, STATUS=status)
        if ready or consuming:
            await asyncio.sleep(interval)
        else:
            await _first_of(services.link.consuming, interval)


def _tell(snoozed: Counter[type], told: Counter[type], observer: Observer) -> Counter[type]:
    """Say how many jobs were snoozed since then, and why; returns what is said by now."""
    news = snoozed - told
    if count := news[Crowded]:
        observer.event("helpers_busy", jobs=count)
    if count := news[OutOfDescriptors]:
        observer.event("descriptors_exhausted", jobs=count)
    return told + news


async def _first_of(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


def _status(services: _Services, observer: Observer) -> str:
    """One line for `systemctl status`."""
    tally = observer.tally
    state = "draining" if services.worker.draining else services.link.state
    rare = {
        "requeued": tally.requeued,
        "times starved": tally.starved,
        "settled too late": tally.lost,
        "log lines lost": observer.unlogged,
    }
    seen = "".join(f"; {count} {what}" for what, count in rare.items() if count)
    return (
        f"{state}; {services.worker.in_flight} in flight; {tally.done} done "
        f"({tally.failed} failed), {tally.retried} retried, {tally.dead} dead; "
        f"{tally.snoozed} moves to wait for a turn{seen}"
    )


def _first(group: BaseExceptionGroup[BaseException]) -> str:
    """The first leaf of an exception group, in its own words."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error)
