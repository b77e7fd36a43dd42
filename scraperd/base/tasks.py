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


def forget_frames(error: BaseException) -> None:
    """Let an error that was handled hold no frame any more, nor those that led to it.

    A library that keeps an error in a variable makes a cycle of the error, its traceback and the
    frame. All that the frames know, a request's body too, would wait for the garbage collector.
    """
    seen: set[int] = set()
    errors = [error]
    while errors:
        one = errors.pop()
        if id(one) not in seen:
            seen.add(id(one))
            one.__traceback__ = None
            errors += [it for it in (one.__cause__, one.__context__) if it is not None]
            if isinstance(one, BaseExceptionGroup):
                errors += one.exceptions
