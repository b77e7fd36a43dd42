"""What this machine lacks when something fails for it: memory, file descriptors, processes.

May touch: this process's limits, to read.
Must never: import what takes long, or what needs memory to say that there is none.
"""

from __future__ import annotations

import errno
import mmap
import os
import resource
from typing import Final, TypeAlias

EXIT_LACK: Final = os.EX_OSERR  # 71, of sysexits.h
MAX_CAUSES: Final = 10
MIN_MEMORY_BYTES: Final = 32 * 1024**2  # with less, any failure is one of memory

_Lack: TypeAlias = tuple[str, tuple[tuple[int, str], ...]]  # words; limits, and their settings

_MEMORY: Final[_Lack] = (
    "out of memory",
    (
        (resource.RLIMIT_AS, "ulimit -v, LimitAS"),
        (resource.RLIMIT_DATA, "ulimit -d, LimitDATA"),
    ),
)
_FILES: Final[_Lack] = (
    "out of file descriptors",
    ((resource.RLIMIT_NOFILE, "ulimit -n, LimitNOFILE"),),
)
_PROCESSES: Final[_Lack] = (
    "no further process or thread can be started",
    ((resource.RLIMIT_NPROC, "ulimit -u, LimitNPROC"),),
)
_OF_ERRNO: Final = {
    errno.ENOMEM: _MEMORY,
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
    errno.EAGAIN: _PROCESSES,
}
# What the dynamic loader and the interpreter say, without a number.
_OF_TEXT: Final = {
    "cannot allocate memory": _MEMORY,
    "failed to map segment": _MEMORY,
    "out of memory": _MEMORY,
    "too many open files": _FILES,
    "can't start new thread": _PROCESSES,
}
_BYTES: Final = {resource.RLIMIT_AS, resource.RLIMIT_DATA}


def lack(error: BaseException) -> str | None:
    """Say what was missing, with the limit and how to raise it; None for any other error."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    # The cause says more: OutOfDescriptors stands for several errors. One may be its own cause.
    for _ in range(MAX_CAUSES):
        error = error.__cause__ or error
    what = _kind(error)
    return None if what is None else _told(*what)


def too_few_files() -> str:
    """Say that file descriptors are missing, with their limit."""
    return _told(*_FILES)


def too_little_memory() -> str:
    """Say that memory is missing, with its limits."""
    return _told(*_MEMORY)


def _kind(error: BaseException) -> _Lack | None:
    if isinstance(error, MemoryError):
        return _MEMORY
    if isinstance(error, BlockingIOError) and hasattr(error, "characters_written"):
        return None  # an output in non-blocking mode is full
    if isinstance(error, OSError) and error.errno in _OF_ERRNO:
        return _OF_ERRNO[error.errno]
    said = str(error).lower()
    what = next((what for text, what in _OF_TEXT.items() if text in said), None)
    # Libraries hide why they failed: "malloc failure", "error return without exception set".
    return what if what is not None or memory_is_left(MIN_MEMORY_BYTES) else _MEMORY


def memory_is_left(size: int) -> bool:
    """Whether so many bytes can be mapped. They are not used, so this takes no memory."""
    try:
        mmap.mmap(-1, size).close()
    except (OSError, MemoryError):
        return False
    return True


def _told(words: str, limits: tuple[tuple[int, str], ...]) -> str:
    """The words with each limit that is set."""
    shown = []
    for limit, names in limits:
        soft, _ = resource.getrlimit(limit)
        if soft != resource.RLIM_INFINITY:
            value = f"{soft // 1024} KiB" if limit in _BYTES else str(soft)
            shown.append(f"the limit is {value}: {names}")
    return f"{words} ({'; '.join(shown)})" if shown else words
