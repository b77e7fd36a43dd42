"""A helper process: reads bodies from its input, writes what was extracted to its output.

May touch: its own limits, timers, signals, standard streams and memory figures. The process that
it is forked from (`main`) only the socket to the daemon.
Must never: write anything else, see the configuration's secrets, or outlive its parent.
"""

from __future__ import annotations

import gc
import io
import os
import resource
import select
import signal
import socket
import struct
import sys
import traceback
from contextlib import suppress
from typing import Final, NoReturn

import msgspec
from msgspec import Struct

from scraperd.contract import Failure
from scraperd.extract.compile import compile_rules
from scraperd.extract.document import Extracted, ExtractRequest, Limits, extract_document, names
from scraperd.extract.readable import warm_up
from scraperd.extract.rules import RuleError
from scraperd.sandbox.confine import confine, die_with_parent, keep_secrets

REQUEST: Final = struct.Struct(">IQd")  # bytes of the question and of the body, seconds of CPU
REPLY: Final = struct.Struct(">Q")
ORDER: Final = struct.Struct(">iB?")  # whom to end; if NOBODY: begin one, of this nice, for text
NEWS: Final = struct.Struct(">ii")  # who has STARTED, or ended with this code; NOBODY, and why not
NOBODY: Final = 0
STARTED: Final = 1 << 30
_NOT_OURS: Final = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP),
    *(signal.SIGUSR1, signal.SIGUSR2),
)
_BEGUN: Final = 2  # descriptors that come with an order to begin one
_SLOW: Final = 10  # nice; helpers of this or more have pages that take long


class Start(Struct, frozen=True):
    """What a helper is told when it begins: `memory` in bytes."""

    memory: int
    limits: Limits


class Reply(Struct, frozen=True, array_like=True):
    """What became of a request; `memory` is what the helper still holds after it, in bytes.

    `extracted` is None if the memory did not suffice, or if `error` holds a traceback of ours.
    """

    extracted: Extracted | None
    memory: int
    error: str = ""


def main() -> None:
    """Fork helpers for the daemon at the other end of standard input, until that ends.

    This process reads no page. What it has loaded, all its helpers share.
    """
    start = msgspec.json.decode(sys.argv[1], type=Start)
    # A signal for the whole group (Ctrl-C, a service manager's stop) is the parent's to obey:
    # it may still want answers. The end of the input ends us.
    for number in _NOT_OURS:
        signal.signal(number, signal.SIG_IGN)
    keep_secrets()
    die_with_parent()
    gc.freeze()  # or a helper's first collection would copy all that is shared
    _Parent(socket.socket(fileno=os.dup(0)), start).run()
    os._exit(0)  # the daemon waits for it


class _Parent:
    """Forks helpers, ends them when told to, and tells of their ends."""

    def __init__(self, channel: socket.socket, start: Start) -> None:
        self._channel = channel
        self._start = start
        self._running: set[int] = set()
        self._woken, self._wakes = os.pipe()  # by SIGCHLD (signal.set_wakeup_fd)
        for end in (self._woken, self._wakes):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._wakes, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def run(self) -> None:
        """Until the daemon's end is closed."""
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == self._woken:
                    os.read(fd, 4096)
                    self._reap()
                elif not self._obey():
                    return

    def _obey(self) -> bool:
        """Carry out the next order; False if the daemon has closed the socket."""
        order, fds, _, _ = socket.recv_fds(self._channel, ORDER.size, _BEGUN)
        if not order:
            return False
        pid, nice, readable = ORDER.unpack(order)
        if pid == NOBODY:
            self._begin(*fds, nice=nice, readable=readable)
        elif pid in self._running:
            os.kill(pid, signal.SIGKILL)
        return True

    def _begin(self, source: int, sink: int, *, nice: int, readable: bool) -> None:
        if readable:
            with suppress(Exception):  # then the helper will say so, of its page
                warm_up()  # once, 0.3 s that no page should be charged with
        try:
            pid = os.fork()
        except OSError as error:
            self._tell(NOBODY, error.errno or 0)
        else:
            if pid == 0:
                ours = self._channel.detach(), self._woken, self._wakes
                _be_born(source, sink, ours, nice, self._start)
            self._running.add(pid)
            self._tell(pid, STARTED)
        os.close(source)
        os.close(sink)

    def _reap(self) -> None:
        while self._running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            self._running.remove(pid)
            self._tell(pid, os.waitstatus_to_exitcode(status))

    def _tell(self, pid: int, code: int) -> None:
        with suppress(BrokenPipeError):  # the daemon has ended; so do we, at the next look
            self._channel.send(NEWS.pack(pid, code))


def _be_born(source: int, sink: int, others: tuple[int, ...], nice: int, start: Start) -> NoReturn:
    """Become a helper, just forked: with no descriptor but its own, and under its limits."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(source, 0)
        os.dup2(sink, 1)
        for fd in (source, sink, *others):
            os.close(fd)
        live(nice, start)
        code = 0
    except BaseException:  # noqa: BLE001 - what could not start says so
        _say_fault()
    finally:
        os._exit(code)  # nothing of the parent's is to be done again here


def _say_fault() -> None:
    """Write the traceback to standard error, unless its reader stalls: nobody waits for that."""
    poll = select.poll()
    poll.register(2, select.POLLOUT)
    if poll.poll(0):
        with suppress(OSError):
            os.write(2, traceback.format_exc().encode()[-select.PIPE_BUF :])


def live(nice: int, start: Start) -> None:
    """Answer requests until standard input ends."""
    os.nice(nice)
    if nice >= _SLOW:
        leave_processors()
    _limit_memory(start.memory)
    source, sink, statm = io.FileIO(0), io.FileIO(1, "w"), io.FileIO("/proc/self/statm")
    sys.stdout = sys.stderr  # what a library prints is not a reply
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)  # nor a line of the log; an error at the start was printed before
    os.close(nothing)
    confine()
    serve(io.BufferedReader(source, 256 * 1024), sink, statm, start)


def leave_processors() -> None:
    """Keep this process to half of the processors that it may use, those with the highest numbers.

    With Linux a process that wakes waits for the end of a time slice, also if what runs is nicer.
    So the event loop, the broker and others find the rest of the processors free of long pages.
    """
    mine = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, mine[len(mine) // 2 :])


def _limit_memory(memory: int) -> None:
    """Bound the address space by `memory` bytes, or by the lower limit that the machine set."""
    limits = [it for it in resource.getrlimit(resource.RLIMIT_AS) if it != resource.RLIM_INFINITY]
    most = min([memory, *limits])
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def serve(source: io.BufferedReader, sink: io.FileIO, statm: io.FileIO, start: Start) -> None:
    """Answer one request after the other."""
    questions = msgspec.msgpack.Decoder(ExtractRequest)
    while len(frame := source.read(REQUEST.size)) == REQUEST.size:
        length, size, seconds = REQUEST.unpack(frame)
        request = questions.decode(source.read(length))
        extracted, error = _answer(request, source.read(size), seconds, start.limits)
        answer = msgspec.msgpack.encode(Reply(extracted, _resident(statm), error))
        _write(sink, REPLY.pack(len(answer)))
        _write(sink, answer)


def _answer(
    request: ExtractRequest, body: bytes, seconds: float, limits: Limits
) -> tuple[Extracted | None, str]:
    """What was extracted, or the traceback of an error of ours."""
    extracted, error = None, ""
    if request.text:
        warm_up()  # if its parent has not; no page should be charged with it
    signal.setitimer(signal.ITIMER_PROF, seconds)  # SIGPROF, not caught, ends the process
    try:
        rules = None
        if request.rules is not None:
            rules = compile_rules(request.rules, limits.bounds)
        if request.job:
            extracted = names(body)
        else:
            extracted = (
                Extracted({}) if request.check else extract_document(request, body, rules, limits)
            )
    except RuleError as fault:
        extracted = Extracted({}, failure=Failure("invalid_job", fault.reason, field=fault.path))
    except MemoryError:
        pass
    except Exception:  # noqa: BLE001 - an error of ours is the parent's to report
        error = traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return extracted, error


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
