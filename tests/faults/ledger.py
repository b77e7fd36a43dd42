"""What was published, what the broker accepted, and what came out: the bench's own books.

May touch: memory only; several threads write, so every access is locked.
Must never: decide whether a row is good (oracle.py does).
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

JOB_ID = "x-scraperd-job-id"


@dataclass(slots=True, eq=False)
class Letter:
    """A job to publish, and what must become of it.

    `ident` is empty where nobody could be told of a result: then `body` is its name. `status` is
    what its first result must say, empty if any will do; `dead` how many dead letters it must
    have, None if the broker may have made one (and then there need be no result).
    """

    ident: str
    body: bytes
    properties: dict[str, Any] = field(default_factory=dict)
    status: str = "ok"
    dead: int | None = 0
    doubtful: int = 0  # publishes of which nobody knows whether the broker took them

    @property
    def key(self) -> str:
        return self.ident or digest(self.body)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A result or a dead letter. `at` is by the monotonic clock."""

    key: str
    at: float
    queue: str
    status: str = ""
    attempt: int = 0
    kind: str = ""
    by_broker: bool = False  # dead-lettered by RabbitMQ itself


class Ledger:
    """Every letter and every arrival, and a way to wait for them."""

    def __init__(self) -> None:
        self._news = threading.Condition()
        self._letters: dict[str, Letter] = {}
        self._accepted: dict[str, float] = {}
        self._arrivals: list[Arrival] = []
        self._seen: set[str] = set()
        self._came: dict[str, float] = {}
        self._dead: Counter[str] = Counter()
        self._waived: Counter[str] = Counter()
        self._ends: list[tuple[str, dict[str, Any]]] = []
        self._broken: Exception | None = None

    def waive(self, key: str) -> None:
        """Expect nothing of a job that the broker may lose: what comes of it is only counted."""
        with self._news:
            self._waived[key] = 0

    def post(self, letter: Letter) -> None:
        """Note a letter before it is published: its result may be faster than its confirm."""
        with self._news:
            assert letter.key not in self._letters, f"{letter.key} is published twice"
            self._letters[letter.key] = letter

    def accept(self, letter: Letter) -> None:
        """The broker has confirmed it."""
        with self._news:
            self._accepted[letter.key] = time.monotonic()
            self._news.notify_all()

    def arrive(self, queue: str, properties: Any, body: bytes) -> None:
        """Note a message of one of the bench's queues, unless this publish was seen before."""
        with self._news:
            if properties.type == "scraperd.batch":
                self._ends.append((properties.message_id, json.loads(body)))
                self._news.notify_all()
                return
            arrival = self._arrival(queue, properties, body)
            publish = f"{queue} {properties.message_id}"
            if not arrival.by_broker and publish in self._seen:
                return  # its ack was lost when a connection of ours was cut
            self._seen.add(publish)
            if arrival.key in self._waived:
                self._waived[arrival.key] += queue == "results"
                self._news.notify_all()
                return
            self._arrivals.append(arrival)
            self._dead[arrival.key] += queue == "dead"
            letter = self._letters.get(arrival.key)
            told = queue == "results" or arrival.by_broker or (letter and not letter.ident)
            if told:
                self._came.setdefault(arrival.key, arrival.at)
            self._news.notify_all()

    def _arrival(self, queue: str, properties: Any, body: bytes) -> Arrival:
        now, headers = time.monotonic(), properties.headers or {}
        if queue == "results":
            result = json.loads(body)
            kind = (result.get("error") or {}).get("kind", "")
            return Arrival(result["id"], now, queue, result["status"], result["attempt"], kind)
        key = str(headers.get(JOB_ID, ""))
        if key not in self._letters and key not in self._waived:
            key = digest(body)
        if key not in self._letters and key not in self._waived:
            key = json.loads(body).get("id", "?") if body.startswith(b"{") else "?"
        return Arrival(key, now, queue, by_broker=JOB_ID not in headers)

    def give_up(self, error: Exception) -> None:
        """The bench's own dispatcher has failed: nothing more will come."""
        with self._news:
            self._broken = error
            self._news.notify_all()

    def wait(self, wanted: Callable[[Ledger], bool], what: str, timeout: float = 60) -> None:
        """Wait until `wanted` holds; looked at with each arrival and each confirm."""
        with self._news:
            done = self._news.wait_for(lambda: self._broken or wanted(self), timeout)
            if self._broken:
                raise RuntimeError(f"the dispatcher failed: {self._broken!r}") from self._broken
            if not done:
                raise AssertionError(f"{what}: not within {timeout:g} s ({self.summary})")

    @property
    def summary(self) -> str:
        open_, waiting = len(self._letters) - len(self._accepted), len(self.lost)
        return f"{open_} jobs not accepted, {waiting} accepted without an outcome"

    @property
    def quiet(self) -> bool:
        """Every letter was accepted, has its outcome, and the dead letters it must have."""
        if len(self._accepted) < len(self._letters) or len(self._came) < len(self._accepted):
            return False
        wanted = ((key, letter.dead or 0) for key, letter in self._letters.items())
        return not self.lost and all(self._dead[key] >= count for key, count in wanted)

    @property
    def lost(self) -> list[str]:
        """Accepted, and no outcome so far."""
        return [key for key in self._accepted if key not in self._came]

    @property
    def waived(self) -> Counter[str]:
        """How many results came of each job that nothing was expected of."""
        return self._waived

    @property
    def letters(self) -> dict[str, Letter]:
        return self._letters

    @property
    def accepted(self) -> dict[str, float]:
        """When each letter was confirmed."""
        return self._accepted

    @property
    def came(self) -> dict[str, float]:
        """When each letter's first outcome came."""
        return self._came

    @property
    def arrivals(self) -> list[Arrival]:
        return self._arrivals

    @property
    def ends(self) -> list[tuple[str, dict[str, Any]]]:
        """Each message about a batch that has ended, with its message id."""
        return self._ends

    @property
    def results(self) -> list[Arrival]:
        return [arrival for arrival in self._arrivals if arrival.queue == "results"]

    @property
    def dead(self) -> Counter[str]:
        """How many dead letters each letter has."""
        return self._dead

    def of(self, key: str) -> list[Arrival]:
        """Everything that came of one letter."""
        return [arrival for arrival in self._arrivals if arrival.key == key]


def digest(body: bytes) -> str:
    """The name of a letter that has no id."""
    return "body " + hashlib.sha256(body).hexdigest()[:24]
