"""What the commands share that talk to the broker: how they run, and how a message is printed.

May touch: the broker's errors, the terminal, the exit code.
Must never: know a command.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final, NoReturn

from scraperd.base.jsonline import foreign, line
from scraperd.broker.rabbitmq.generation import BrokerLost
from scraperd.broker.rabbitmq.topology import TopologyError
from scraperd.cli.console import say, show
from scraperd.cli.shared.running import complete
from scraperd.ops.log import quiet_libraries

if TYPE_CHECKING:
    from collections.abc import Coroutine

WINDOW: Final = 100  # messages at a time that are unconfirmed, or unacked


def complete_client(main: Coroutine[Any, Any, int]) -> int:
    """Run a client command and return its exit code; without a broker it ends in one line."""
    quiet_libraries()
    return complete(main, BrokerLost, TopologyError)


def run_client(main: Coroutine[Any, Any, int]) -> NoReturn:
    """Run a client command as all there is to do."""
    sys.exit(complete_client(main))


def show_message(raw: bytes, source: str) -> None:
    """Print a message of a queue as one line of JSON, also if it is not JSON."""
    text = line(raw)
    if text is None:
        say(f"scraperd: a message in {source} is not JSON; it is printed as `body`", err=True)
    show(foreign(raw) if text is None else text)
