"""What a process of ours gives up, so that an exploited parser finds nothing to use.

May touch: this process's own privileges and limits, by Linux's system calls.
Must never: end the process because a kernel lacks a feature, or give anything back.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import struct
import sys
from contextlib import suppress
from typing import Final

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_FILES: Final = 32  # descriptors; modules that are loaded late take one or two at a time

_LANDLOCK: Final = (444, 445, 446)  # create_ruleset, add_rule, restrict_self: on every machine
_READ_FILE, _READ_DIR = 4, 8
# Rights of the file system, of TCP, and of signals and sockets, that each version of Landlock knows
# (linux/landlock.h); a version knows all of those before it.
_RIGHTS: Final = ((13, 0, 0), (14, 0, 0), (15, 0, 0), (15, 2, 0), (16, 2, 0), (16, 2, 2))
_READABLE: Final = (
    *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache"),
    *("/usr/share/zoneinfo", "/etc/localtime"),
)

_X86_64: Final = (
    "0 1 3 4 5 6 8 9 10 11 12 13 14 15 17 19 20 21 24 25 28 32 38 39 60 63 72 79 89 96 98 99 100 "
    "102 104 107 108 110 131 186 202 204 217 219 228 229 231 262 267 269 273 318 324 332 334 439"
)
_AARCH64: Final = (
    "17 23 25 48 57 61 62 63 64 65 66 67 78 79 80 93 94 98 99 103 113 114 123 124 128 132 134 135 "
    "139 153 160 165 169 172 173 174 175 176 177 178 179 214 215 216 222 226 233 278 283 291 293 "
    "439"
)
# The system calls that are left: to read and write what is open, to open for reading, memory,
# clocks, signals of its own. Any other fails as on a kernel that is too old for it, so that what
# libraries try first fail. In order: audit architecture, calls, opens with the position
# of their flags, tgkill.
_CALLS: Final = {
    "x86_64": (
        0xC000003E,
        _X86_64,
        ((257, 2), (2, 1)),
        234,
    ),
    "aarch64": (
        0xC00000B7,
        _AARCH64,
        ((56, 2),),
        131,
    ),
}
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06  # linux/bpf_common.h
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000  # linux/seccomp.h
_WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def _prctl(option: int, *values: int | ctypes.c_void_p) -> None:
    """prctl(2). Raises OSError."""
    given = [ctypes.c_ulong(it) if isinstance(it, int) else it for it in values]
    _checked(_libc.prctl(option, *given, *[ctypes.c_ulong(0)] * (4 - len(given))))


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def keep_secrets() -> None:
    """Let no core dump and no debugger but root's read this process; no program gives it more.

    Memory holds passwords and cookies. See PR_SET_DUMPABLE and PR_SET_NO_NEW_PRIVS in prctl(2).
    """
    with suppress(OSError):
        _prctl(_PR_SET_DUMPABLE, 0)
    with suppress(OSError):
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def lacking() -> list[str]:
    """What a helper can't be confined by on this kernel or machine."""
    missing = [] if _landlock() else ["landlock"]
    with suppress(OSError):
        _prctl(_PR_SET_SECCOMP, 2, 0)  # without a program: EFAULT where there are filters
    if ctypes.get_errno() != errno.EFAULT or os.uname().machine not in _CALLS:
        missing.append("seccomp")
    return missing


def confine() -> None:
    """Keep what it takes to read code and libraries and to use what is open; die with the parent.

    For good. Call it with one thread. What the kernel lacks is left out (`lacking`).
    """
    keep_secrets()
    for limit, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, _FILES),
    ):
        with suppress(OSError, ValueError):  # it is lower already
            resource.setrlimit(limit, (most, most))
    for step in (die_with_parent, _restrict_files, _restrict_calls):
        with suppress(OSError):
            step()


def die_with_parent() -> None:
    """Be killed when the parent ends. Raises OSError. See PR_SET_PDEATHSIG in prctl(2)."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _landlock() -> int:
    """The version of Landlock (landlock(7)); 0 if it is missing."""
    version: int = _libc.syscall(_LANDLOCK[0], None, ctypes.c_size_t(0), 1)
    return max(0, version)


def _restrict_files() -> None:
    """Read beneath the folders of code and libraries; no other file, socket or signal."""
    version = _landlock()
    if not version:
        return
    create, add, restrict = _LANDLOCK
    rights = [(1 << bits) - 1 for bits in _RIGHTS[min(version, len(_RIGHTS)) - 1]]
    known = 1 if version < 4 else 2 if version < 6 else 3  # noqa: PLR2004 - fields of the struct
    asked = struct.pack(f"={known}Q", *rights[:known])
    rules = _checked(_libc.syscall(create, asked, ctypes.c_size_t(len(asked)), 0))
    for path in (*sys.path, f"{sys.base_prefix}/lib", *_READABLE):
        with suppress(OSError):  # not on this machine
            beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
            right = _READ_FILE | (_READ_DIR if os.path.isdir(path) else 0)  # noqa: PTH112
            rule = struct.pack("=Qi", right, beneath)
            _checked(_libc.syscall(add, rules, 1, rule, 0))
            os.close(beneath)
    _checked(_libc.syscall(restrict, rules, 0))
    os.close(rules)


def _restrict_calls() -> None:
    """A seccomp filter of the calls that are left (seccomp(2), linux/filter.h)."""
    if os.uname().machine not in _CALLS:
        return
    arch, calls, opens, tgkill = _CALLS[os.uname().machine]
    lines = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, arch), _fails(errno.ENOSYS), (_LOAD, 0, 0, 0)]
    for number, flags in opens:
        unless = (_ANY_BIT, 0, 1, _WRITING)
        lines += _on_argument(number, flags, unless, _fails(errno.EACCES))
    own = (_EQUAL, 1, 0, os.getpid())
    lines += _on_argument(tgkill, 0, own, _fails(errno.EPERM))
    for number in map(int, calls.split()):
        lines += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    lines.append(_fails(errno.ENOSYS))
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *it) for it in lines))
    head = struct.pack("@HP", len(lines), ctypes.addressof(program))
    _prctl(_PR_SET_SECCOMP, 2, ctypes.cast(ctypes.create_string_buffer(head), ctypes.c_void_p))


def _fails(number: int) -> tuple[int, int, int, int]:
    return _RETURN, 0, 0, _ERRNO | number


def _on_argument(
    call: int, position: int, test: tuple[int, int, int, int], refused: tuple[int, int, int, int]
) -> list[tuple[int, int, int, int]]:
    """`call` is refused by `test` of one of its arguments (its low half; both machines are so)."""
    load = (_LOAD, 0, 0, 16 + 8 * position)
    return [(_EQUAL, 0, 4, call), load, test, refused, (_RETURN, 0, 0, _ALLOW)]
