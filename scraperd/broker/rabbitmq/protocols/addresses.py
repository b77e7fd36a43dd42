"""Where a reply is wanted, as AMQP 1.0, STOMP and MQTT clients say it: a queue, or a topic. Pure.

May touch: names.
Must never: decide whether a reply may go there.

An address here is the name of a queue, or TOPIC and a routing key of the exchange `amq.topic`.
The forms of clients were measured with the plugins of RabbitMQ 3.10.8 and with 4.0.5
(docs/decisions/0057-other-protocols.md).
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import unquote_to_bytes

TOPIC: Final = "/topic/"
TOPIC_EXCHANGE: Final = "amq.topic"  # where RabbitMQ puts what MQTT and STOMP clients subscribe to
RESPONSE_TOPIC: Final = "x-reply-to-topic"  # the header in which RabbitMQ 4 has that of MQTT 5
MAX_KEY_BYTES: Final = 255 - len(TOPIC)  # bytes: an address is a short string
# How a form begins, whether it names a topic, and whether it is percent-encoded (version 2 of
# RabbitMQ's addresses of AMQP 1.0 is).
_FORMS: Final = (
    ("/queue/", False, False),
    ("/amq/queue/", False, False),
    ("/reply-queue/", False, False),
    ("/queues/", False, True),
    (f"/exchange/{TOPIC_EXCHANGE}/", True, False),
    (f"/exchanges/{TOPIC_EXCHANGE}/", True, True),
)


def address_of(reply_to: str) -> str:
    """Return the address that `reply_to` means. What is of no known form is returned as it is."""
    if not reply_to.startswith("/"):
        return reply_to
    for prefix, is_topic, is_encoded in _FORMS:
        if reply_to.startswith(prefix):
            name = reply_to.removeprefix(prefix)
            found = _decoded(name) if is_encoded else name
            return _known(found, is_topic=is_topic) or reply_to
    return reply_to


def topic_address(key: Any) -> str | None:
    """Return the address of a routing key of the topic exchange; None if it cannot be one."""
    if not isinstance(key, str) or not 0 < len(key.encode(errors="replace")) <= MAX_KEY_BYTES:
        return None
    return TOPIC + key


def route_of(address: str) -> tuple[str, str]:
    """Return the exchange and the routing key that lead to an address."""
    if address.startswith(TOPIC):
        return TOPIC_EXCHANGE, address.removeprefix(TOPIC)
    return "", address


def _known(name: str | None, *, is_topic: bool) -> str | None:
    """Return the address of a name; None if a second reading would give another."""
    if not name or (name.startswith("/") and not is_topic):
        return None
    return TOPIC + name if is_topic else name


def _decoded(name: str) -> str | None:
    """Return a name without percent-encoding; None if it is not UTF-8."""
    try:
        return unquote_to_bytes(name).decode()
    except UnicodeDecodeError:
        return None
