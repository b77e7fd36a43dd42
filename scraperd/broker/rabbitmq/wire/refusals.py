"""What a refusal of the broker says: which permission is missing, or which exchange. Pure.

May touch: the broker's own words.
Must never: blame a message, or hold a password.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Final

from scraperd.base.text import printable
from scraperd.broker.rabbitmq.protocols.addresses import TOPIC_EXCHANGE
from scraperd.broker.rabbitmq.wire.errors import AccessRefused

if TYPE_CHECKING:
    from scraperd.broker.rabbitmq.wire.errors import ChannelClosed

CREATE: Final = "Create it as docs/operations/queues.md lists."
UNANSWERED: Final = "`scraperd status` gets no answer from this user's daemons"
_MAX_NAME: Final = 255  # characters
_MAX_WORDS: Final = 500  # characters of the broker's own text
# RabbitMQ 4 begins with the permission ("write access to"), 3.10 does not. Measured
# with 3.10.8 and 4.0.5.
_TOPIC: Final = re.compile(r"ACCESS_REFUSED - (?:[a-z]+ )?access to topic '")
_WHO: Final = re.compile(r"in vhost '(?P<vhost>.*)' refused for user '(?P<user>.*)'")


def is_about_topic(error: ChannelClosed) -> bool:
    """Whether the broker refused one routing key (topic permissions), and not the exchange."""
    return _TOPIC.match(str(error)) is not None


def no_publish(
    error: ChannelClosed, exchange: str, key: str, prefix: str, *, passive: bool
) -> tuple[str, str]:
    """Why the broker refused a publish: the problem in a word, and in words with the remedy.

    `exchange` and `key` are those of the publish that was refused.
    """
    shown = printable(exchange or "amq.default", _MAX_NAME)
    if not isinstance(error, AccessRefused):
        remedy = CREATE if passive else "It is declared again."
        return "no exchange", f"exchange {shown!r} does not exist. {remedy} {_said(error)}"
    vhost, user = _who(error)
    if is_about_topic(error):
        command = shlex.join(
            ["rabbitmqctl", "set_topic_permissions", "-p", vhost, user, shown, ".*", ".*"]
        )
        lack = f"write on the topic {printable(key, _MAX_NAME)!r} of the exchange {shown!r}"
    else:
        topics = exchange == TOPIC_EXCHANGE
        command = grant(vhost, user, prefix, passive=passive, topics=topics)
        lack = f"write on the exchange {shown!r}"
    return "forbidden", _lack(vhost, user, lack, command, error)


def no_access(error: AccessRefused, lack: str, prefix: str, *, passive: bool) -> str:
    """Words for any other refusal: `lack` is the permission, such as `read on the queue 'q'`."""
    vhost, user = _who(error)
    return _lack(vhost, user, lack, grant(vhost, user, prefix, passive=passive), error)


def no_answers(error: AccessRefused, lack: str, prefix: str, *, passive: bool) -> str:
    """Words for a refusal that keeps a daemon from answering `scraperd status`."""
    vhost, user = _who(error)
    command = grant(vhost, user, prefix, passive=passive, answers=True)
    return f"{UNANSWERED}: {_lack(vhost, user, lack, command, error)}"


def grant(
    vhost: str,
    user: str,
    prefix: str,
    *,
    passive: bool,
    answers: bool = False,
    topics: bool = False,
) -> str:
    """The command that gives the daemon's user all it needs; docs/operations/queues.md has it.

    To give answers, a daemon has a queue of its own also where it declares nothing else. With
    `topics` it may send results to MQTT and STOMP clients.
    """
    ours = rf"^{re.escape(prefix)}\."
    created = rf"{ours}ask" if answers else "^$"
    configure, write = created if passive else ours, rf"{ours}|^amq\.default$"
    if topics:
        write += rf"|^{re.escape(TOPIC_EXCHANGE)}$"
    return shlex.join(["rabbitmqctl", "set_permissions", "-p", vhost, user, configure, write, ours])


def _lack(vhost: str, user: str, lack: str, command: str, error: ChannelClosed) -> str:
    return (
        f"the user {user!r} lacks {lack} in the vhost {vhost!r}. To grant it: {command} "
        f"{_said(error)}"
    )


def _said(error: ChannelClosed) -> str:
    return f"(the broker: {printable(str(error), _MAX_WORDS)})"


def _who(error: ChannelClosed) -> tuple[str, str]:
    """Vhost and user, as the broker names them."""
    match = _WHO.search(str(error))
    if match is None:
        return "VHOST", "USER"
    return printable(match["vhost"], _MAX_NAME), printable(match["user"], _MAX_NAME)
