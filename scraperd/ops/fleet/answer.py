"""Questions and answers of `scraperd status`, as values and as JSON. Pure.

May touch: bytes.
Must never: raise because of bytes that another program wrote; what is not understood is None.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec
from msgspec import Struct, field

from scraperd.batches.progress import Progress  # noqa: TC001 - msgspec reads the annotations
from scraperd.politeness.view import HostView  # noqa: TC001 - msgspec reads the annotations

# A later version may add fields; one that changes the meaning of a field takes another number.
FORM: Final = 1


class Question(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What is asked. `host` is there for the kind `host` only.

    Who is asked for `rules` looks for rules in the broker, if it knew of none.
    `batch` is for the kind `batches` only; without it the newest batches are asked for.
    """

    ask: Literal["status", "capacity", "host", "batches", "settings", "rules"]
    host: str = ""
    batch: str = ""
    form: int = FORM


class Latency(Struct):
    """Seconds that half of the jobs, and 99 of 100, took at most; None if there was none."""

    p50: float | None = None
    p99: float | None = None


class Flow(Struct):
    """Messages of one direction: how many a second, of which size, and the most in a second."""

    rate: float = 0.0
    peak: float = 0.0
    mean_bytes: int = 0


class Fault(Struct):
    """A failure of a host: how many seconds ago, which kind, and what was said."""

    ago: float
    kind: str
    message: str
    http_status: int | None = None


class HostAnswer(Struct):
    """What a process knows of a host. `queue` is None if it remembers nothing of it."""

    host: str
    queue: HostView | None = None
    robots: str = ""
    faults: list[Fault] = field(default_factory=list)


class Capacity(Struct):
    """What a process asks of the broker, and how much more it could do."""

    consumed: Flow
    published: Flow
    prefetch: int
    consumers: int
    connections: int
    largest_message: int
    cpu_share: float
    pages_rate: float
    pages_possible: float | None


class RulesAnswer(Struct):
    """What a process knows of rules: which version of the set, and how many are in force.

    `refused` sets had no valid seal. `touched` says how many times each rule held a job here.
    """

    version: int = 0
    in_force: int = 0
    refused: int = 0
    touched: dict[str, int] = field(default_factory=dict)


class Status(Struct):
    """What a process says of itself. Times in seconds; rates of the last minute, in each second."""

    name: str
    host: str
    pid: int
    version: str
    up: float
    state: str
    why: str = ""
    consuming: bool = True
    generation: int = 0
    reload: str = ""
    reload_failed: bool = False
    in_flight: int = 0
    unacked: int = 0
    unconfirmed: int = 0
    fetches: int = 0
    fetches_limit: int = 0
    waiting: int = 0
    memory: int = 0
    memory_limit: int = 0
    totals: dict[str, int] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    latency: dict[str, Latency] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)
    hosts: list[HostView] = field(default_factory=list)
    hosts_waiting: int = 0
    capacity: Capacity | None = None
    about: HostAnswer | None = None
    batches: list[Progress] | None = None
    """What is known of batches; None from a process that does not tally them."""
    settings: dict[str, str] | None = None
    """The settings that have another value than the default; None if nobody asked for them."""
    rules: RulesAnswer | None = None
    form: int = FORM


_question: Final = msgspec.json.Decoder(Question)
_status: Final = msgspec.json.Decoder(Status)


def read_question(body: bytes) -> Question | None:
    """Return the question; None if it is not one that this version understands."""
    try:
        found = _question.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    known = found.form == FORM and bool(found.host) == (found.ask == "host")
    known = known and (not found.batch or found.ask == "batches")
    return found if known and len(found.host) <= 253 else None  # noqa: PLR2004 - RFC 1035


def read_status(body: bytes) -> Status | None:
    """Return the answer; None if it is not one that this version understands."""
    try:
        found = _status.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return found if found.form == FORM else None


def write(what: Question | Status) -> bytes:
    """Return the JSON of a question or an answer."""
    return msgspec.json.encode(what)
