"""Prints messages that hold JSON, and those that should.

May touch: the terminal.
Must never: print a text as it came.
"""

from __future__ import annotations

from scraperd.base.jsonline import foreign, line
from scraperd.cli.console import say, show


def show_message(raw: bytes, source: str) -> None:
    """Print a message of a queue as one line of JSON, also if it is not JSON."""
    text = line(raw)
    if text is None:
        say(f"scraperd: a message in {source} is not JSON; it is printed as `body`", err=True)
    show(foreign(raw) if text is None else text)
