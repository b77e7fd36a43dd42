"""How it went with the dead letters, in words: counts, other readers, ids that no letter has.

May touch: the dead queue, to read; the terminal; the exit code, as a value.
Must never: remove a letter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scraperd.cli.console import EXIT_FAILED, say
from scraperd.cli.dead.queue import dead_queue
from scraperd.deadletters import desk

if TYPE_CHECKING:
    from scraperd.config.settings import Config


def counted(tally: desk.Tally, what: str = "letter") -> str:
    """How many letters there are, and at which broker; `what` is what one of them is called."""
    return f"{tally.total} dead {what}s at {tally.broker}"


def unseen(tally: desk.Tally) -> str:
    """What another reader has, or what lies beyond the limit."""
    return f"; {tally.unseen} {tally.rest}" if tally.unseen else ""


def tell_readers(tally: desk.Tally) -> None:
    """Say that others read the dead queue too, if they do."""
    if tally.readers:
        say(
            f"scraperd: {tally.readers} more reading the dead queue; what they hold is not counted",
            err=True,
        )


def missing_of(tally: desk.Tally, what: str = "letter") -> int:
    """Name the ids that no letter has; the exit code. `what` as for `counted`."""
    for ident in sorted(tally.missing):
        say(f"scraperd: no dead {what} of a job with the id {ident!r}", err=True)
    return EXIT_FAILED if tally.missing else 0


async def would(config: Config, wanted: desk.Wanted, what: str) -> int:
    """Count the letters that `what` would be done to, and say how many; the exit code."""
    tally = await desk.look(dead_queue(config), wanted, lambda _: None)
    say(f"would {what} {tally.matched} of {counted(tally)}{unseen(tally)}")
    tell_readers(tally)
    return missing_of(tally)


def report(done: str, tally: desk.Tally) -> None:
    """How far it got; nothing if it did not come to count the letters."""
    if tally.total is not None:
        say(f"{done} {tally.done} of {counted(tally)}; {tally.left()}")
        tell_readers(tally)
