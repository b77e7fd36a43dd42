"""Asks daemons how they are, by pika and by hand, as a stranger could.

May touch: the private broker.
Must never: use the command's own code, or wait for luck.
"""

from __future__ import annotations

import json
import secrets
import time
from typing import TYPE_CHECKING, Any

import pika
from pika.exceptions import ChannelClosedByBroker

from tests.rig.daemon import until

if TYPE_CHECKING:
    from pika.adapters.blocking_connection import BlockingChannel


class Stranger:
    """Publishes questions to `prefix.ask`, and reads what comes to a reply queue of its own."""

    def __init__(self, channel: BlockingChannel, prefix: str) -> None:
        self.channel = channel
        self.prefix = prefix
        self.reply = f"{prefix}.reply.guest.status-{secrets.token_hex(8)}"
        channel.queue_declare(self.reply, exclusive=True, auto_delete=True)

    def exists(self) -> bool:
        """Whether there is an exchange of questions."""
        trial = self.channel.connection.channel()
        try:
            trial.exchange_declare(f"{self.prefix}.ask", passive=True)
        except ChannelClosedByBroker:
            return False
        trial.close()
        return True

    def publish(self, body: bytes, reply_to: str | None = None, ident: str | None = None) -> str:
        """Publish a question; returns its id. Raises pika's errors if nobody takes it."""
        ident = secrets.token_hex(8) if ident is None else ident
        to = self.reply if reply_to is None else reply_to
        properties = pika.BasicProperties(reply_to=to, correlation_id=ident)
        self.channel.basic_publish(f"{self.prefix}.ask", "", body, properties)
        return ident

    def taken(self) -> list[tuple[str, bytes]]:
        """Ids and bodies of all answers that are there now."""
        found = []
        while (got := self.channel.basic_get(self.reply, auto_ack=True))[0] is not None:
            assert got[1] is not None
            assert got[2] is not None
            found.append((str(got[1].correlation_id), got[2]))
        return found

    def ask(
        self, kind: str = "status", count: int = 1, timeout: float = 60, **more: Any
    ) -> list[dict[str, Any]]:
        """Ask until `count` processes answer one question; what they say."""
        deadline = time.monotonic() + timeout
        until(self.exists, "no daemon takes questions")
        while True:
            found: list[bytes] = []
            with_patience = time.monotonic() + 2
            ident = self.publish(json.dumps({"ask": kind, **more}).encode())
            while time.monotonic() < with_patience and len(found) < count:
                found += [body for its, body in self.taken() if its == ident]
                self.channel.connection.process_data_events(0.02)
            if len(found) == count:
                return [json.loads(body) for body in found]
            assert time.monotonic() < deadline, f"{len(found)} of {count} processes answer"
