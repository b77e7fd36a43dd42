"""What the commands share that talk to the broker: how they run.

May touch: the broker's errors, the terminal, the exit code.
Must never: know a command.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final, NoReturn

from scraperd.broker.ports import Lost
from scraperd.broker.rabbitmq.topology import TopologyError
from scraperd.broker.rabbitmq.wire.dial import WrongUrl
from scraperd.cli.shared.running import complete
from scraperd.ops.log import quiet_libraries

if TYPE_CHECKING:
    from collections.abc import Coroutine

WINDOW: Final = 100  # messages at a time that are unconfirmed, or unacked


def complete_client(main: Coroutine[Any, Any, int]) -> int:
    """Run a client command and return its exit code; without a broker it ends in one line."""
    quiet_libraries()
    return complete(main, Lost, TopologyError, configured=(WrongUrl,))


def run_client(main: Coroutine[Any, Any, int]) -> NoReturn:
    """Run a client command as all there is to do."""
    sys.exit(complete_client(main))
