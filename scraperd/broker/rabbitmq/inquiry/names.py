"""Names of the exchange of questions, of the queues that take them, and of reply queues. Pure.

May touch: texts.
Must never: let an answer go to a queue that holds jobs or results.
"""

from __future__ import annotations

import re
from typing import Final

from yarl import URL

from scraperd.broker.rabbitmq.wire.codec.tables import MAX_SHORT_BYTES
from scraperd.broker.rabbitmq.wire.refusals import CREATE, UNANSWERED

MAX_QUESTION_BYTES: Final = 1024  # bytes of a question; the longest host has 253 characters
ANSWERS: Final = "status-"  # begins the last part of a reply queue for answers
_END: Final = re.compile(rf"{ANSWERS}[0-9a-f]{{16}}")
_IDENT: Final = re.compile(r"[0-9a-f]{16}")


def exchange_of(prefix: str) -> str:
    """Return the name of the exchange by which questions reach all daemons of a prefix."""
    return f"{prefix}.ask"


def no_exchange(prefix: str) -> str:
    """Say that an operator has to make the exchange of questions."""
    return (
        f"{UNANSWERED}: exchange {exchange_of(prefix)!r} does not exist, and "
        f"broker.passive_declare is set. {CREATE}"
    )


def question_queue(prefix: str, end: str) -> str:
    """Return the name of a daemon's own queue of questions."""
    return f"{exchange_of(prefix)}.{end}"


def reply_queue(url: str, prefix: str, end: str) -> str:
    """Return the name of a command's own queue: `PREFIX.reply.USER.END`.

    So one permission on `PREFIX.reply.` or `PREFIX.reply.USER.` is enough for all commands.
    The user is left out who logs in by a certificate, or whose name is too long.
    """
    parsed = URL(url)
    plain = parsed.query.get("auth", "plain").lower() == "plain"
    name = f"{prefix}.reply.{parsed.user or 'guest'}.{end}"
    return name if plain and len(name.encode()) <= MAX_SHORT_BYTES else f"{prefix}.reply.{end}"


def takes_answers(queue: str | None, prefix: str) -> bool:
    """Whether a queue, by its name, is a command's own queue for answers, and nothing else."""
    if queue is None or not queue.startswith(f"{prefix}.reply."):
        return False
    return _END.fullmatch(queue.rpartition(".")[2]) is not None


def is_ident(text: str | None) -> bool:
    """Whether a correlation id is one of a question: 16 hexadecimal digits."""
    return text is not None and _IDENT.fullmatch(text) is not None
