"""A helper process: reads bodies from standard input, writes what was taken to standard output.

May touch: its own limits, timers, signals, standard streams and memory figures.
Must never: write anything else, see the configuration's secrets, or outlive its parent.
"""

from __future__ import annotations

import io
import os
import resource
import signal
import struct
import sys
import traceback
from typing import Final

import msgspec
from msgspec import Struct

from scraperd.page.confine import confine
from scraperd.page.document import Asked, Limits, Taken, names, take
from scraperd.page.readable import warm_up
from scraperd.page.rules import compile_rules

REQUEST: Final = struct.Struct(">IQd")  # bytes of the question and of the body, seconds of CPU
NICE: Final = 5  # the event loop goes first
REPLY: Final = struct.Struct(">Q")


class Start(Struct, frozen=True):
    """What a helper is told when it begins: `memory` in bytes."""

    memory: int
    limits: Limits


class Reply(Struct, frozen=True, array_like=True):
    """What became of a request; `memory` is what the helper still holds after it, in bytes.

    `taken` is None if the memory did not suffice, or if `error` holds a traceback of ours.
    """

    taken: Taken | None
    memory: int
    error: str = ""


def main() -> None:
    """Answer requests until standard input ends."""
    start = msgspec.json.decode(sys.argv[1], type=Start)
    # A signal for the whole group (Ctrl-C, a service manager's stop) is the parent's to obey:
    # it may still want answers. The end of the input ends us.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_AS, (start.memory, start.memory))
    source, sink, statm = io.FileIO(0), io.FileIO(1, "w"), io.FileIO("/proc/self/statm")
    sys.stdout = sys.stderr  # what a library prints is no reply
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)  # nor a line of the log; what could not start has said so by now
    os.close(nothing)
    confine()
    serve(io.BufferedReader(source, 256 * 1024), sink, statm, start)


def serve(source: io.BufferedReader, sink: io.FileIO, statm: io.FileIO, start: Start) -> None:
    """Answer one request after the other."""
    questions = msgspec.msgpack.Decoder(Asked)
    while len(frame := source.read(REQUEST.size)) == REQUEST.size:
        length, size, seconds = REQUEST.unpack(frame)
        asked = questions.decode(source.read(length))
        taken, error = _answer(asked, source.read(size), seconds, start.limits)
        answer = msgspec.msgpack.encode(Reply(taken, _resident(statm), error))
        _write(sink, REPLY.pack(len(answer)))
        _write(sink, answer)


def _answer(asked: Asked, body: bytes, seconds: float, limits: Limits) -> tuple[Taken | None, str]:
    """What was taken, or the traceback of an error of ours."""
    taken, error = None, ""
    if asked.text:
        warm_up()  # once, 0.3 s that no page should be charged with
    signal.setitimer(signal.ITIMER_PROF, seconds)  # SIGPROF, not caught, ends the process
    try:
        rules = None
        if asked.rules is not None:
            rules = compile_rules(asked.rules, limits.bounds)
        taken = names(body) if asked.job else take(asked, body, rules, limits)
    except MemoryError:
        pass
    except Exception:  # noqa: BLE001 - an error of ours is the parent's to report
        error = traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return taken, error


def _resident(statm: io.FileIO) -> int:
    """Bytes. Not the peak of getrusage(2), which begins with that of the parent."""
    statm.seek(0)
    return int(statm.read().split()[1]) * resource.getpagesize()


def _write(sink: io.FileIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[sink.write(view) or 0 :]


if __name__ == "__main__":
    main()
