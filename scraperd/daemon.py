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
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import uvloop
from msgspec import Struct

from scraperd import __version__
from scraperd.answers import Answers
from scraperd.base.clocks import SYSTEM
from scraperd.base.fd_limits import are_left, raise_limit
from scraperd.bottleneck import Bottleneck
from scraperd.broker.rabbitmq.topology import TopologyError
from scraperd.broker.rabbitmq.wire.dial import BrokerRefused
from scraperd.callbacks.signing import SecretsError, read_secrets
from scraperd.config.keys import signing_key_file
from scraperd.config.load import ConfigError
from scraperd.config.webhook_secrets import FORM, secret_texts
from scraperd.ending import Ending, Until
from scraperd.fetch import own as own_addresses
from scraperd.jobs.signing import Keys
from scraperd.ops.capacity import MIN_DESCRIPTORS, fitted
from scraperd.ops.life import EXIT_OK, exit_code_of, first_stop, ignore_signals
from scraperd.ops.listener import CannotListen
from scraperd.ops.log import configure
from scraperd.ops.telemetry import Observer
from scraperd.pulse import Pulse
from scraperd.reload import Reloader, prepared, secrets_of
from scraperd.sandbox.confine import keep_secrets, lacking
from scraperd.sandbox.trial import can_start
from scraperd.wiring import (
    batch_queue_of,
    fetcher_of,
    following_of,
    opened,
    pages_of,
    posting,
    services_of,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from scraperd.broker.rabbitmq.callbacks.consuming import Callbacks
    from scraperd.broker.rabbitmq.rules.following import Following
    from scraperd.callbacks.signing import Signer
    from scraperd.config.settings import Config
    from scraperd.jobs.record import Tracer
    from scraperd.ops.sink import Sink
    from scraperd.ops.systemd import Notifier
    from scraperd.wiring import Services

STOP_MARGIN: Final = 30.0  # seconds past shutdown_timeout: settling, and a broker that is silent


class Lacking(Exception):  # noqa: N818 - a state of this machine
    """This machine has too few descriptors or processes for any work; the message says so."""


def run(
    config: Config,
    notifier: Notifier,
    reread: Callable[[], Config],
    until: Until | None = None,
) -> int:
    """Run the daemon until a signal ends it, or what `until` says; returns the exit code.

    `reread` reads the configuration again, for a reload; it raises ConfigError.
    Raises ConfigError if the keys that sign headers or callbacks can't be read, Lacking if the
    machine's limits leave no room for any work.
    """
    check_limits(config)
    check_tracing(config)
    if not config.sandbox.dumpable:
        keep_secrets()
    keys, signers = keys_of(config), signers_of(config)
    log = configure(config.log)
    observer = Observer(lines=log, settings=config.log)
    if missing := lacking():
        observer.event("helpers_unconfined", missing=missing)
    if reason := own_addresses.lacking():
        observer.event("own_addresses_unknown", error=reason)
    gc.freeze()  # what was imported stays: no collection need look at it again
    # 700 runs one every few pages, and a page makes no cycles: 20 objects for each that may run,
    # or a burst of jobs would be looked through again and again while it grows.
    gc.set_threshold(max(5000, 20 * config.concurrency))
    given = _Given(config, keys, signers, notifier, observer, reread, until or Until())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_logged(log.sink, _main(given), observer))


def check_limits(config: Config) -> None:
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


class _Given(Struct, frozen=True):
    """What `run` was given or made, for what runs on the loop."""

    config: Config
    keys: Keys
    signers: dict[str, Signer]
    notifier: Notifier
    observer: Observer
    reread: Callable[[], Config]
    until: Until


async def _main(given: _Given) -> int:
    """Run, and turn what ended it into an exit code."""
    observer = given.observer
    try:
        code = await exit_code_of(
            _live(given), observer, BrokerRefused, TopologyError, CannotListen
        )
    finally:
        ignore_signals()
    if code == EXIT_OK:
        observer.event("stop", done=observer.tally.done, dead=observer.tally.dead)
    return code


async def _live(given: _Given) -> None:
    """Start, wait for a signal, drain, stop."""
    config, observer = given.config, given.observer
    stop, hangup = _on_signals(observer)
    name = config.jobs.worker_name or f"{socket.gethostname()}:{os.getpid()}"
    limit = raise_limit()
    own = fitted(config, limit, observer.event)
    observer.event(
        "start",
        version=__version__,
        worker=name,
        concurrency=own.concurrency,
        signing_key=str(signing_key_file(config.jobs.signing_key_file) or "broker_url"),
    )
    async with (
        fetcher_of(own) as fetcher,
        opened(pages_of(own, fetcher, SYSTEM)) as pages,
        _traced(config, name, observer) as tracer,
        asyncio.TaskGroup() as group,
    ):
        services = services_of(config, own, limit, given.keys, pages, observer, name, tracer)
        reloader = Reloader(services, given.reread, partial(prepared, services), hangup)
        bottleneck = Bottleneck(services)
        pulse = Pulse(services, given.notifier, lambda: (bottleneck.state, reloader.state))
        reloader.on_begin, reloader.on_end = pulse.reloading, pulse.reloaded
        async with (
            _observed(services, reloader, bottleneck),
            posting(services, own, given.signers) as callbacks,
        ):
            answers, following = None, following_of(services)
            if config.broker.answer_status:
                answers = Answers(services, reloader, bottleneck, following.look)
            ending = Ending(stop, given.until)
            crew = _Crew(pulse, reloader, bottleneck, answers, callbacks, ending, following)
            await _serve(group, services, crew)


class _Crew(Struct, frozen=True):
    """What runs beside the services, and looks at them."""

    pulse: Pulse
    reloader: Reloader
    bottleneck: Bottleneck
    answers: Answers | None
    callbacks: Callbacks | None
    ending: Ending
    following: Following


async def _serve(group: asyncio.TaskGroup, services: Services, crew: _Crew) -> None:
    """Run the services until it is to end, then drain and end them."""
    worker = group.create_task(services.worker.run(), name="worker")
    first = [
        group.create_task(crew.reloader.run(), name="reload"),
        group.create_task(services.surveyor.run(), name="survey"),
    ]
    others = [
        group.create_task(services.link.run(), name="link"),
        group.create_task(crew.pulse.run(), name="pulse"),
        group.create_task(crew.bottleneck.run(), name="bottleneck"),
        group.create_task(crew.following.run(), name="rules"),
    ]
    if crew.answers is not None:
        others.append(group.create_task(crew.answers.run(), name="answers"))
    posted = None
    if crew.callbacks is not None:
        posted = group.create_task(crew.callbacks.run(), name="callbacks")
    if (queue := batch_queue_of(services)) is not None:
        others.append(group.create_task(queue.run(), name="batches"))
    why = await crew.ending.wait(services, group)
    for task in first:
        task.cancel()
    services.worker.close()
    if crew.callbacks is not None:
        crew.callbacks.stop(services.config.jobs.shutdown_timeout)
    crew.pulse.stopping(services.config.jobs.shutdown_timeout + STOP_MARGIN)
    await _drain(services, why)
    await worker
    if posted is not None:
        await posted
    for task in others:
        task.cancel()


@asynccontextmanager
async def _observed(
    services: Services, reloader: Reloader, bottleneck: Bottleneck
) -> AsyncIterator[None]:
    """Serve metrics and health, if the configuration says where."""
    if (address := services.config.metrics.address) is None:
        yield
        return
    from scraperd.metrics import serving  # noqa: PLC0415 - a start without them need not wait

    async with serving(services, reloader, bottleneck, address) as port:
        services.observer.event("listening", host=address[0], port=port)
        yield


def check_tracing(config: Config) -> None:
    """Raise ConfigError if spans are to be sent and the packages for that are not installed."""
    if not config.tracing.endpoint:
        return
    try:
        import scraperd.ops.tracing.sending  # noqa: F401, PLC0415 - a start without it need not wait
    except ImportError as error:
        fault = (
            f"tracing.endpoint is set, but tracing cannot start: {error}; "
            "install the extra (pip install 'scraperd[otel]'), or empty tracing.endpoint"
        )
        raise ConfigError([fault]) from error


@asynccontextmanager
async def _traced(config: Config, name: str, observer: Observer) -> AsyncIterator[Tracer | None]:
    """Give what traces jobs, if the configuration says where spans are sent."""
    if not config.tracing.endpoint:
        yield None
        return
    from scraperd.ops.tracing.sending import traced  # noqa: PLC0415 - the same

    async with traced(config.tracing, name, SYSTEM.roll, observer) as tracer:
        yield tracer


def keys_of(config: Config) -> Keys:
    """The keys that sign headers. Raises ConfigError."""
    return Keys(secrets_of(config), config.broker.prefix, SYSTEM.wall)


def signers_of(config: Config) -> dict[str, Signer]:
    """Return what signs callbacks, by the names of endpoints; nothing if this process sends none.

    Raises ConfigError.
    """
    if not (config.calls_back and config.callbacks.concurrency):
        return {}
    signers, faults = {}, []
    for name, (setting, text) in secret_texts(config).items():
        try:
            signers[name] = read_secrets(text)
        except SecretsError as error:
            faults.append(f"{setting}: {error}; {FORM}")
        except ImportError as error:
            faults.append(
                f"{setting}: a whsk_ secret needs the extra `callbacks` ({error}): "
                "pip install 'scraperd[callbacks]', or use a whsec_ secret"
            )
    if faults:
        raise ConfigError(faults)
    return signers


def _on_signals(observer: Observer) -> tuple[asyncio.Future[str], asyncio.Event]:
    """A future for the first SIGTERM or SIGINT, and an event for SIGHUP, which asks to reload."""
    loop, first = asyncio.get_running_loop(), first_stop(observer)
    hangup = asyncio.Event()
    loop.add_signal_handler(signal.SIGHUP, hangup.set)
    # Their default would end the process undrained.
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        said = partial(observer.event, "signal_ignored", signal=number.name)
        loop.add_signal_handler(number, said)
    return first, hangup


async def _drain(services: Services, why: str) -> None:
    """Stop consuming, finish what is in flight until the deadline, give the rest back."""
    started, observer = time.monotonic(), services.observer
    observer.event("drain", why=why, in_flight=services.worker.in_flight)
    await services.link.cancel()
    left = await services.worker.drain(services.config.jobs.shutdown_timeout)
    seconds = round(time.monotonic() - started, 3)
    if left:
        observer.event("drain_timeout", left=left, seconds=seconds)
    else:
        observer.event("drained", seconds=seconds)
