"""Names to addresses: DNS through c-ares, without threads of ours, and a cache of the answers.

May touch: the nameservers and /etc/hosts, through aiodns; a clock.
Must never: return an address that the guard does not admit, or name it in a message.
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
import weakref
from functools import partial
from typing import TYPE_CHECKING, Final

import aiodns
import pycares
from aiohttp.abc import AbstractResolver, ResolveResult
from msgspec import Struct

from scraperd.base.cache import Cache
from scraperd.base.fd_limits import OutOfDescriptors, none_left
from scraperd.fetch.guard import Blocked
from scraperd.fetch.message import STEPS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from scraperd.config.tables import FetchSettings
    from scraperd.fetch.guard import Guard

PATIENCE: Final = 2.0  # seconds for a nameserver's first chance; a busy one needs more than one
TRIES: Final = 2  # each nameserver's chances; the second is up to twice as long
MAX_CACHED_NAMES: Final = 10_000  # names in the cache
MIN_TTL: Final = 5.0  # seconds an answer is kept at least: a TTL of 0 would be asked for each page
ABSENT_TTL: Final = 30.0  # seconds for "no such name" and "no address"
TROUBLE_TTL: Final = 3.0  # seconds for what may soon be better
MAX_ADDRESSES: Final = 16  # looked at, of each family; an answer can hold thousands
MAX_CHANNEL_AGE: Final = 30.0  # seconds a channel is used at most, see `_channel`
MAX_CHANNEL_LOAD: Final = 2_000  # lookups and addresses that end it before
MIN_CHANNEL_AGE: Final = 1.0  # seconds it is used at least: each has a thread and a few files

_NAME = re.compile(r"(?=.{1,253}\Z)(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}")
_FLAGS: Final = (
    pycares.ARES_FLAG_EDNS
    | pycares.ARES_FLAG_NOSEARCH  # an untrusted `intranet` is not `intranet.corp.example`
    | pycares.ARES_FLAG_NOALIASES  # nor what the variable HOSTALIASES says
)
_NOSORT: Final = 1 << 7  # ARES_AI_NOSORT: sorting opens a socket for each address of an answer
_NUMERIC: Final = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
_BLOCKED: Final = "none of its addresses is allowed (fetch.allow_networks, fetch.deny_networks)"
_OWN: Final = "its address is one of this machine's own, and not among fetch.allow_networks"
_NOT_ALL: Final = (
    "not all of its addresses are known to be allowed (fetch.allow_networks,"
    " fetch.deny_networks), and an HTTP"
    " proxy chooses among them itself"
)
_REASONS: Final = {  # in words, and whether it may be better later
    pycares.errno.ARES_ENOTFOUND: ("there is no such name (NXDOMAIN)", False),
    pycares.errno.ARES_ENODATA: ("the name has no address", False),
    pycares.errno.ARES_EBADNAME: ("this can't be a name in the DNS", False),
    pycares.errno.ARES_ESERVFAIL: ("the nameserver can't find out (SERVFAIL)", True),
    pycares.errno.ARES_EREFUSED: ("the nameserver refuses to answer (REFUSED)", True),
    pycares.errno.ARES_ETIMEOUT: ("no nameserver answered in time", True),
    pycares.errno.ARES_ECONNREFUSED: ("no nameserver can be reached", True),
    pycares.errno.ARES_EBADRESP: ("the nameserver's answer is malformed", True),
    pycares.errno.ARES_ENOTINITIALIZED: (
        "c-ares can't start (fetch.nameservers wrong, or out of file descriptors)",
        True,
    ),
    pycares.errno.ARES_ECANCELLED: ("the lookup was given up", True),
}


class LookupFailed(OSError):  # noqa: N818 - an outcome, not an error of ours
    """A name has no address, or it can't be found out now: `retryable` says which.

    str() is the reason in words; it never holds an address.
    """

    def __init__(self, reason: str, *, retryable: bool) -> None:
        super().__init__(reason)
        self.retryable = retryable


class _Outcome(Struct, frozen=True):
    """What a lookup came to, kept for `ttl` seconds; `error` makes what is to be raised.

    `whole` says that all its addresses were looked at, and admitted.
    """

    ttl: float
    addresses: tuple[tuple[socket.AddressFamily, str], ...] = ()
    error: Callable[[], Exception] | None = None
    whole: bool = False


class Resolver(AbstractResolver):
    """Resolves for aiohttp's connector, whose own cache must be off (`use_dns_cache=False`).

    `patience` is the first timeout in seconds; a lookup takes up to three times that.
    """

    def __init__(
        self,
        settings: FetchSettings,
        guard: Guard,
        *,
        clock: Callable[[], float] = time.monotonic,
        patience: float = PATIENCE,
    ) -> None:
        self._settings = settings
        self._guard = guard
        self._clock = clock
        self._patience = patience
        self._cache: Cache[str, _Outcome] = Cache(MAX_CACHED_NAMES)
        self._lookups: dict[str, asyncio.Task[_Outcome]] = {}
        self._current: aiodns.DNSResolver | None = None
        self._open: weakref.WeakSet[aiodns.DNSResolver] = weakref.WeakSet()
        self._born = 0.0
        self._load = 0

    def configure(self, settings: FetchSettings) -> None:
        """Take other settings. What is remembered was judged by those before, so it goes."""
        self._settings = settings
        self._cache.clear()

    @property
    def cached(self) -> int:
        """How many names' outcomes are in the cache."""
        return len(self._cache)

    @property
    def under_way(self) -> int:
        """How many names are being looked up."""
        return len(self._lookups)

    @property
    def channels(self) -> int:
        """How many channels are open; each holds a thread, a few files and its own answers."""
        return len(self._open)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of `host` that may be connected to, IPv6 first (RFC 6724 section 2.1).

        `host` is absolute, in ASCII; a final dot changes nothing. Raises Blocked if
        it has addresses and none is admitted, LookupFailed if it has none, OutOfDescriptors.
        """
        outcome = await self._outcome(host)
        wanted = [
            ResolveResult(
                hostname=host, host=address, port=port, family=kind, proto=0, flags=_NUMERIC
            )
            for kind, address in outcome.addresses
            if family in (socket.AF_UNSPEC, kind)
        ]
        if not wanted:
            raise _failure(pycares.errno.ARES_ENODATA)
        return wanted

    async def check(self, host: str) -> None:
        """Whether a proxy may be given the name, which it will look up itself.

        Raises as `resolve` does, and Blocked too if any address is not admitted, or
        if there are more of a family than are looked at (MAX_ADDRESSES).
        """
        if not (await self._outcome(host)).whole:
            raise Blocked(_NOT_ALL)

    async def close(self) -> None:
        """End the lookups that are under way, as failed, and free what c-ares holds."""
        for channel in list(self._open):
            await channel.close()
        await asyncio.gather(*self._lookups.values())
        self._current = None
        self._cache.clear()

    async def _outcome(self, host: str) -> _Outcome:
        """What is known of `host`, or its error."""
        name = host.lower().removesuffix(".")
        if not _NAME.fullmatch(name):
            raise _failure(pycares.errno.ARES_EBADNAME)
        outcome = self._cache.get(name, self._clock())
        if outcome is None:
            outcome = await self._waited_for(name)
        if outcome.error is not None:
            raise outcome.error()
        return outcome

    async def _waited_for(self, name: str) -> _Outcome:
        """What the lookup of a name comes to, and how long the fetch waited for it."""
        began = self._clock()
        try:
            # A caller that leaves must not take the answer away from the others.
            return await asyncio.shield(self._lookup(name))
        finally:
            if (steps := STEPS.get()) is not None:
                steps.dns += self._clock() - began

    def _lookup(self, name: str) -> asyncio.Task[_Outcome]:
        """The one lookup of a name that is under way."""
        task = self._lookups.get(name)
        if task is None:
            task = self._lookups[name] = asyncio.create_task(self._look_up(name))
            task.add_done_callback(lambda _: self._lookups.pop(name))
        return task

    async def _look_up(self, name: str) -> _Outcome:
        outcome = await self._ask(name)
        ttl = min(outcome.ttl, self._settings.dns_cache_ttl)
        self._cache.put(name, outcome, until=self._clock() + ttl)
        return outcome

    async def _ask(self, name: str) -> _Outcome:
        """Ask c-ares. What goes wrong is an outcome too; a lack of descriptors is not kept."""
        outcome = await self._asked(name)
        if outcome.ttl == TROUBLE_TTL and none_left():
            return _Outcome(0.0, error=OutOfDescriptors)
        return outcome

    async def _asked(self, name: str) -> _Outcome:
        try:
            # c-ares gives each of several nameservers its chances, one after the other
            async with asyncio.timeout(3 * self._patience):
                answer = await self._answer(self._channel(), name)
        except aiodns.error.DNSError as error:
            return _failed(error.args[0])
        except TimeoutError:
            return _failed(pycares.errno.ARES_ETIMEOUT)
        except pycares.AresError:
            return _failed(pycares.errno.ARES_ENOTINITIALIZED)
        self._load += len(answer.nodes)
        return self._admitted(answer)

    async def _answer(self, channel: aiodns.DNSResolver, name: str) -> pycares.AddrInfoResult:
        """All addresses of a name. Raises DNSError.

        c-ares asks for IPv4 and IPv6 at once, and says "no data" if the last answer says so, also
        when the other question had none. So each is then asked by itself.
        """
        try:
            return await self._addresses(channel, name, socket.AF_UNSPEC)
        except aiodns.error.DNSError as error:
            if error.args[0] != pycares.errno.ARES_ENODATA:
                raise
        try:
            return await self._addresses(channel, name, socket.AF_INET)
        except aiodns.error.DNSError as error:
            if error.args[0] != pycares.errno.ARES_ENODATA:
                raise
        return await self._addresses(channel, name, socket.AF_INET6)

    async def _addresses(
        self, channel: aiodns.DNSResolver, name: str, family: socket.AddressFamily
    ) -> pycares.AddrInfoResult:
        self._load += 1
        return await channel.getaddrinfo(name, family, type=socket.SOCK_STREAM, flags=_NOSORT)

    def _admitted(self, answer: pycares.AddrInfoResult) -> _Outcome:
        found = [
            (family, node.addr[0].decode())
            for family in (socket.AF_INET6, socket.AF_INET)
            for node in [node for node in answer.nodes if node.family == family][:MAX_ADDRESSES]
        ]
        ttl = _ttl(answer)
        good = tuple((kind, address) for kind, address in found if self._guard.admits(address))
        if good:
            return _Outcome(ttl, good, whole=len(good) == len(answer.nodes))
        if found:
            own = any(self._guard.owns(address) for _, address in found)
            return _Outcome(ttl, error=partial(Blocked, _OWN if own else _BLOCKED))
        return _failed(pycares.errno.ARES_ENODATA)

    def _channel(self) -> aiodns.DNSResolver:
        """The channel to ask by: c-ares's state, its sockets and the thread that reads them.

        A channel keeps answers by itself, as many as come, for up to an hour, and
        that can't be turned off from Python. So none is used for long: it ends
        with the last lookup that was started on it.
        """
        age = self._clock() - self._born
        limit = MIN_CHANNEL_AGE if self._load >= MAX_CHANNEL_LOAD else self._settings.dns_cache_ttl
        if self._current is None or age >= max(MIN_CHANNEL_AGE, min(MAX_CHANNEL_AGE, limit)):
            self._current = aiodns.DNSResolver(
                self._settings.nameservers,
                asyncio.get_running_loop(),
                timeout=self._patience,
                tries=TRIES,
                flags=_FLAGS,
            )
            self._open.add(self._current)
            self._born = self._clock()
            self._load = 0
        return self._current


def _ttl(answer: pycares.AddrInfoResult) -> float:
    """Seconds the whole answer holds: the shortest TTL of its chain (RFC 2181 section 5.2)."""
    parts: Iterable[pycares.AddrInfoNode | pycares.AddrInfoCname]
    parts = [*answer.nodes, *answer.cnames]
    return max(MIN_TTL, min((part.ttl for part in parts), default=0))


def _failure(code: int) -> LookupFailed:
    known = pycares.errno.errorcode.get(code, str(code))
    reason, retryable = _REASONS.get(code, (f"the lookup failed ({known})", True))
    return LookupFailed(reason, retryable=retryable)


def _failed(code: int) -> _Outcome:
    ttl = TROUBLE_TTL if _failure(code).retryable else ABSENT_TTL
    return _Outcome(ttl, error=partial(_failure, code))
