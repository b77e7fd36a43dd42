"""The dispatcher under faults: a publisher and a collector that outlive any broker.

May touch: the private brokers, by pika; the ledger.
Must never: count a job as accepted that was not confirmed, or lose an arrival it acked.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
from typing import TYPE_CHECKING, Any

import pika
from pika.adapters.utils.connection_workflow import AMQPConnectorException
from pika.exceptions import AMQPError, ChannelClosedByBroker, NackError, UnroutableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection

    from tests.faults.ledger import Ledger, Letter

REST = 0.1  # seconds between two tries to reach a broker, or to publish what it refused
TURN = 0.05  # seconds after which an idle client looks after its connection
QUIET = 5.0  # seconds without a message after which a consumer is made anew: a deleted queue's
# consumer is not always told
GONE = (AMQPError, AMQPConnectorException, OSError)  # what pika raises when a broker has gone
OPEN_WITHIN = 3.0  # seconds; a frozen broker takes connections and says nothing


def connect(url: str, heartbeat: int = 4) -> BlockingConnection:
    """A connection that finds out soon if its broker has gone. Raises one of GONE."""
    parameters = pika.URLParameters(url)
    parameters.heartbeat = heartbeat
    parameters.socket_timeout = parameters.stack_timeout = OPEN_WITHIN
    parameters.blocked_connection_timeout = None
    return pika.BlockingConnection(parameters)


class Client(threading.Thread):
    """A thread with a connection, to one URL after the other until one answers."""

    def __init__(self, urls: Sequence[str], prefix: str, ledger: Ledger) -> None:
        super().__init__(daemon=True)
        self._ledger = ledger
        self._urls = itertools.cycle(urls)
        self._prefix = prefix
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.is_set():
            try:
                with self._connected() as connection:
                    self._work(connection)
            except GONE:
                self._over.wait(REST)
            except Exception as error:  # noqa: BLE001 - a mistake of the bench ends the row
                self._ledger.give_up(error)
                self._over.set()

    @contextlib.contextmanager
    def _connected(self) -> Iterator[BlockingConnection]:
        connection = connect(next(self._urls))
        try:
            yield connection
        finally:
            with contextlib.suppress(*GONE):
                connection.close()

    def _work(self, connection: BlockingConnection) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """End the thread."""
        self._over.set()
        self.join(20)


class Publisher(Client):
    """Publishes letters in their order, each again under its id until it is confirmed."""

    def __init__(self, urls: Sequence[str], prefix: str, ledger: Ledger) -> None:
        super().__init__(urls, prefix, ledger)
        self._letters: queue.SimpleQueue[Letter] = queue.SimpleQueue()
        self._current: Letter | None = None

    def post(self, letter: Letter) -> None:
        """Take a letter over; the ledger says when it was accepted."""
        self._ledger.post(letter)
        self._letters.put(letter)

    def _work(self, connection: BlockingConnection) -> None:
        channel = connection.channel()
        channel.confirm_delivery()
        while not self._over.is_set():
            if self._current is None:
                with contextlib.suppress(queue.Empty):
                    self._current = self._letters.get(timeout=TURN)
            if self._current is None:
                connection.process_data_events(0)
            elif self._publish(channel, self._current):
                self._current = None
            else:  # RabbitMQ 3.10 may reject all of a channel's, after an election of a leader
                connection.sleep(REST)
                channel.close()
                channel = connection.channel()
                channel.confirm_delivery()

    def _publish(self, channel: BlockingChannel, letter: Letter) -> bool:
        """Whether the broker took it. If the connection ends meanwhile, nobody knows."""
        properties = pika.BasicProperties(**{"delivery_mode": 2, **letter.properties})
        letter.doubtful += 1
        try:
            channel.basic_publish(
                "", f"{self._prefix}.jobs", letter.body, properties, mandatory=True
            )
        except (UnroutableError, NackError):  # no queue yet, or it is full: surely not taken
            letter.doubtful -= 1
            return False
        except ChannelClosedByBroker as error:
            raise ValueError(f"the broker does not take {letter.key}: {error}") from error
        letter.doubtful -= 1
        self._ledger.accept(letter)
        return True


class Collector(Client):
    """Reads results and dead letters, acked once they are in the ledger. It can be told to rest."""

    def __init__(self, urls: Sequence[str], prefix: str, ledger: Ledger) -> None:
        super().__init__(urls, prefix, ledger)
        self._reading = threading.Event()
        self._reading.set()
        self._resting = threading.Event()
        self._queues = {"results", "dead"}
        self._news = 0.0

    def leave(self, queue: str) -> None:
        """Let someone else read this queue from now on."""
        self.pause()
        self._queues.discard(queue)
        self.resume()

    def pause(self) -> None:
        """Read no further; returns once nothing is being read."""
        self._reading.clear()
        assert self._resting.wait(20), "the collector did not come to rest"

    def resume(self) -> None:
        self._resting.clear()
        self._reading.set()

    def _work(self, connection: BlockingConnection) -> None:
        if not self._reading.is_set():
            self._resting.set()
            self._over.wait(REST)
            return
        channel, lost = connection.channel(), threading.Event()
        channel.basic_qos(prefetch_count=200)
        channel.add_on_cancel_callback(lambda _: lost.set())
        for name in self._queues:
            channel.basic_consume(f"{self._prefix}.{name}", self._taker(name))
        self._news = time.monotonic()
        while self._reading.is_set() and not (self._over.is_set() or lost.is_set()):
            connection.process_data_events(TURN)
            if time.monotonic() - self._news > QUIET:
                return

    def _taker(self, name: str) -> Any:
        def take(channel: BlockingChannel, method: Any, properties: Any, body: bytes) -> None:
            self._news = time.monotonic()
            self._ledger.arrive(name, properties, body)
            channel.basic_ack(method.delivery_tag)

        return take
