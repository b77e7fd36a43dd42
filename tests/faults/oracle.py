"""Whether a row was good, the same way for each row: nothing lost, and nothing untrue said.

May touch: what the scene has gathered.
Must never: forgive a loss, or a duplicate that no kill or cut explains.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tests.faults.scene import SPARE
from tests.rig.checks.events import faults

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.ledger import Ledger
    from tests.faults.process import Daemon
    from tests.faults.register import Row
    from tests.faults.scene import Scene

NEVER = ("internal_error", "died")
TROUBLE = (
    *("broker_unreachable", "broker_refused", "broker_lost", "broker_blocked"),
    *("broker_limit", "consumer_starved", "queue_differs"),
    *("descriptors_few", "descriptors_exhausted", "helpers_busy"),
    *("publish_refused", "drain_timeout", "second_signal", "reload_failed", "config"),
    *("callback_failed", "callback_dead", "callbacks_paused", "callbacks_interrupted"),
    "signal_ignored",
)
SLACK = 5.0  # seconds past three heartbeats in which a lost broker must have been noticed
HEARTBEAT = 10  # the daemon's default
PREFETCH = 200  # the daemon's default: as many jobs come back when it is cut off


def complaints(row: Row, scene: Scene) -> list[str]:
    """Everything that is wrong, in words."""
    found = [*_lost(scene.ledger), *_duplicates(scene), *_outcomes(scene), *_left(scene)]
    found += [*_idle(scene), *_ends(scene), *_events(row, scene), *_statuses(scene), *_lines(scene)]
    for daemon in scene.daemons:
        found += faults(line.text for line in daemon.lines if line.stream == "stdout")
    return [*found, *_held(scene)]


def duplicated(ledger: Ledger) -> int:
    """Results beyond the first of each id."""
    return len(ledger.results) - len({result.key for result in ledger.results})


def stall(ledger: Ledger) -> float:
    """Seconds: the longest time without an outcome while there were jobs that had none."""
    events = sorted(
        [(at, 1) for at in ledger.accepted.values()]
        + [(max(at, ledger.accepted.get(key, at)), -1) for key, at in ledger.came.items()]
    )
    longest, open_, since = 0.0, 0, 0.0
    for at, step in events:
        if open_ <= 0 or step < 0:
            longest = max(longest, at - since) if open_ > 0 else longest
            since = at
        open_ += step
    return longest


def recovery(scene: Scene) -> float:
    """Seconds from the end of a fault to the next outcome; the longest of them."""
    came = sorted(scene.ledger.came.values())
    waits = (next((at - healed for at in came if at > healed), 0.0) for healed in scene.healed)
    return max(waits, default=0.0)


def _idle(scene: Scene) -> Iterator[str]:
    """A fault that nobody felt proves nothing."""
    latest = max(scene.ledger.came.values(), default=0.0)
    if any(healed > latest for healed in scene.healed):
        yield "a fault came when all work was done: the row proves nothing"


def _lost(ledger: Ledger) -> Iterator[str]:
    if lost := ledger.lost:
        yield f"LOST: {len(lost)} accepted jobs have no outcome, {_some(lost)}"
    missing = [key for key in ledger.letters if key not in ledger.accepted]
    if missing:
        yield f"{len(missing)} jobs were never accepted by the broker, {_some(missing)}"


def _duplicates(scene: Scene) -> Iterator[str]:
    ledger = scene.ledger
    twice = sum(letter.doubtful for letter in ledger.letters.values())
    found = duplicated(ledger) - scene.again
    prefetch = int(scene.settings.get("concurrency", PREFETCH // 2)) * 2
    if scene.duplicates is not None:
        if found != scene.duplicates + twice:
            yield f"{found} duplicates where there must be {scene.duplicates}"
    elif found > scene.cuts * prefetch + twice:
        yield f"{found} duplicates, more than {scene.cuts} cuts of {prefetch} jobs explain"


def _outcomes(scene: Scene) -> Iterator[str]:
    """Each job's first result is what it must be, and it has the dead letters it must have."""
    ledger, first = scene.ledger, dict[str, str]()
    for arrival in ledger.arrivals:
        if arrival.key not in ledger.letters:
            yield f"an arrival that nobody asked for: {arrival}"
        elif arrival.queue == "results":
            first.setdefault(arrival.key, f"{arrival.status} {arrival.kind}".strip())
    wrong = Counter[str]()
    for key, letter in ledger.letters.items():
        got, dead = first.get(key), ledger.dead[key]
        if got and letter.status and not got.startswith(letter.status):
            wrong[f"{got!r} instead of {letter.status!r}"] += 1
        spare = scene.cuts + letter.doubtful if letter.dead else 0
        if letter.dead is not None and not letter.dead <= dead <= letter.dead + spare:
            wrong[f"{dead} dead letters instead of {letter.dead}"] += 1
    yield from (f"{count} jobs have {what}" for what, count in wrong.items())


def _left(scene: Scene) -> Iterator[str]:
    for queue, count in scene.left.items():
        yield f"{count} messages are left in {queue}"


def _ends(scene: Scene) -> Iterator[str]:
    for number, daemon in enumerate(scene.daemons, 1):
        if daemon.returncode != (daemon.expected or 0):
            yield f"daemon {number} ended with {daemon.returncode}, not {daemon.expected or 0}"


def _events(row: Row, scene: Scene) -> Iterator[str]:
    """The log says what happened, and nothing that did not."""
    if any(daemon.mute for daemon in scene.daemons):
        return
    said = {line["event"] for daemon in scene.daemons for line in daemon.logged()}
    yield from (f"the log never says {event}" for event in row.says if event not in said)
    for event in (*NEVER, *TROUBLE):
        if event in said and event not in (*row.says, *row.may):
            yield f"the log says {event}"
    for daemon in scene.daemons:
        if daemon.stderr or "Traceback" in daemon.stdout:
            yield f"there is a traceback, or something on stderr: {daemon.stderr[-2000:]}"


def _statuses(scene: Scene) -> Iterator[str]:
    """What systemd was told is true: `consuming` if it does, and only then."""
    patience = 3 * (int(scene.settings.get("broker__heartbeat", HEARTBEAT)) + 1) + SLACK
    for began, ended in scene.away:
        for daemon in scene.daemons:
            late = [
                told.at - began
                for told in daemon.statuses
                if began + patience < told.at < ended and told.status.startswith("consuming")
            ]
            if late:
                yield f"the status says `consuming` {late[-1]:.1f} s after the broker had gone"


def _lines(scene: Scene) -> Iterator[str]:
    """A settled line for each job; never more of them than outcomes were published."""
    if any(daemon.mute or _killed(daemon) for daemon in scene.daemons):
        return
    lines = [line for d in scene.daemons for line in d.logged() if line["event"] == "job"]
    ends = [line for line in lines if line["verdict"] in ("done", "dead")]
    acked = [line["id"] for line in ends if line.get("settled", True)]
    unacked = {line["id"] for line in ends} - {*acked}  # their queue was deleted before the ack
    settled = len(acked)
    ledger = scene.ledger
    by_broker = {arrival.key for arrival in ledger.arrivals if arrival.by_broker}
    at_least = len(ledger.came.keys() - by_broker)
    at_most = at_least + duplicated(ledger) + scene.cuts
    if settled + len(unacked) < at_least or settled > at_most:
        yield f"{settled} job lines are settled, but {at_least} to {at_most} jobs have an outcome"


def _killed(daemon: Daemon) -> bool:
    return daemon.returncode != 0


def _held(scene: Scene) -> Iterator[str]:
    before, after = scene.before, scene.after
    if before is None or after is None:
        return
    # Three channels are opened later: to count the queues, for replies, and to answer questions.
    for what, spare in (("fds", SPARE), ("tasks", SPARE), ("channels", 3)):
        was, now = getattr(before, what), getattr(after, what)
        if now > was + spare:
            yield f"the daemon holds {now} {what} at the end, {was} before the load"


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:5]) + (", ..." if len(keys) > 5 else "")
