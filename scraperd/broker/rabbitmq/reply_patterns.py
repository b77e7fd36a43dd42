"""Which queues and topics a publisher may have a result sent to. Pure.

May touch: names and patterns.
Must never: let a pattern open a queue of ours, of this prefix or of another.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from scraperd.broker.rabbitmq.protocols.addresses import TOPIC, route_of
from scraperd.broker.rabbitmq.topology import Topology

if TYPE_CHECKING:
    from collections.abc import Iterable

PREFIX: Final = "{prefix}"  # in a pattern: the prefix of our queues
_OWN: Final = frozenset(
    queue.name.partition(".")[2] for queue in Topology("x", calls_back=True, tallies=True).queues
)
_DIRECT = re.compile(r"amq\.rabbitmq\.reply-to\.(?P<process>[^.]{1,200})\.(?P<key>[^.]{1,40})")
# NEW_PID_EXT or PID_EXT with the atom of a node, `reply@` and a hash of its name; then the numbers
# of the process. RabbitMQ since 3.8.17 writes it so; before, the atom was the name of the node.
_PROCESS = re.compile(
    rb"\x83(?:X(?:[dv]\0[\x07-\x10]|w[\x07-\x10])reply@[0-9]{1,10}.{12}"
    rb"|g(?:[dv]\0[\x07-\x10]|w[\x07-\x10])reply@[0-9]{1,10}.{9})",
    re.DOTALL,
)
_KEY_BYTES: Final = 16
_TIER = re.compile(r"delay\.[0-9]{1,9}")  # also those that earlier versions had


class Addresses(Struct, frozen=True):
    """Where a `reply_to` may lead: to the queues and topics of the patterns, but to none of ours.

    Otherwise a publisher of jobs could write to any queue of the vhost, with our rights.
    A pattern that begins with TOPIC is for topics, and each other one for queues.
    """

    topology: Topology
    patterns: tuple[str, ...]

    @classmethod
    def of(cls, topology: Topology, patterns: Iterable[str]) -> Addresses:
        """The patterns as they are configured: `{prefix}` stands for our own."""
        filled = tuple(pattern.replace(PREFIX, topology.prefix) for pattern in patterns)
        return cls(topology, filled)

    def refuses(self, address: str) -> bool:
        """Whether no result may be sent to this queue or topic."""
        if address == self.topology.results:
            return False
        is_topic = address.startswith(TOPIC)
        patterns = [text for text in self.patterns if text.startswith(TOPIC) == is_topic]
        return self.never(address) or not any(fits(pattern, address) for pattern in patterns)

    def never(self, address: str) -> bool:
        """Whether no pattern can allow it: a queue of ours, or RabbitMQ's own that no client has.

        Queues of another prefix are told by their names. A topic with the name of such a queue may
        be bound to it.
        """
        _, queue = route_of(address)
        prefix = f"{self.topology.prefix}."
        if queue.startswith(prefix) and not queue.startswith(f"{prefix}reply."):
            return True
        if queue.startswith("amq.rabbitmq."):
            return not is_direct(queue)
        return _is_ours(queue)

    @property
    def has_topics(self) -> bool:
        """Whether any pattern is for topics."""
        return any(text.startswith(TOPIC) for text in self.patterns)

    @property
    def vain(self) -> list[str]:
        """Patterns that allow nothing, because the one queue they name is never allowed."""
        return [text for text in self.patterns if "*" not in text and self.never(text)]


def is_direct(address: str) -> bool:
    """Whether it names a client's direct reply-to, as RabbitMQ writes it into a job's reply_to.

    That is `g1` or `g2` and a process of the broker in Erlang's external form, by base64, then a
    key of 16 random bytes. RabbitMQ 3.10 ends the connection over other names.
    """
    match = _DIRECT.fullmatch(address)
    if match is None:
        return False
    try:
        process = b64decode(match["process"], validate=True)
        key = b64decode(match["key"], validate=True)
    except binascii.Error:
        return False
    return _PROCESS.fullmatch(process) is not None and len(key) == _KEY_BYTES


def _is_ours(queue: str) -> bool:
    """Whether it is named like a queue of a scraperd with any prefix."""
    words = queue.split(".")
    last, tier = words[-1], ".".join(words[-2:])
    return len(words) > 1 and (last in _OWN or tier in _OWN or _TIER.fullmatch(tier) is not None)


def fits(pattern: str, name: str) -> bool:
    """Whether `name` is as `pattern` says, in which `*` stands for any text, also none.

    By finds from left to right, each where the last one ended: no backtracking.
    """
    first, *parts = pattern.split("*")
    if not parts:
        return name == pattern
    *middle, last = parts
    end = len(name) - len(last)
    if not name.startswith(first) or not name.endswith(last) or end < len(first):
        return False
    at = len(first)
    for part in middle:
        if (found := name.find(part, at, end)) < 0:
            return False
        at = found + len(part)
    return True
