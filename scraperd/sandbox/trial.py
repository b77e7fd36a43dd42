"""Whether this machine lets helper processes be started at all.

May touch: child processes that do nothing, and that end before the answer.
Must never: be asked in a process that has threads.
"""

from __future__ import annotations

import os


def can_start(count: int) -> str | None:
    """Start `count` processes that live at the same time, and end them.

    Return None, or why it failed, in the words of fork(2).
    """
    waits, alive = os.pipe()
    children = list[int]()
    fault = None
    try:
        for _ in range(count):
            if (child := os.fork()) == 0:
                os.close(alive)
                os.read(waits, 1)  # until the parent closes its end, or dies
                os._exit(0)
            children.append(child)
    except OSError as error:
        fault = error.strerror
    finally:
        os.close(alive)
        os.close(waits)
        for child in children:
            os.waitpid(child, 0)
    return fault
