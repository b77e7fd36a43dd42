"""Tasks of the running loop: whose end a CancelledError is.

May touch: the current task, to ask it.
Must never: cancel anything.
"""

from __future__ import annotations

import asyncio


def reraise_own_cancel(error: BaseException) -> None:
    """A CancelledError is ours only if someone cancelled this task; else the library lost a broker.

    Under a frozen broker aiormq ends pending calls with a CancelledError of its own.
    """
    task = asyncio.current_task()
    if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
        raise error
