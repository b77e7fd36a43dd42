"""robots.txt (RFC 9309): whether a page may be fetched, and how much time a site wants between two.

May touch: the getter it is given, protego, a worker thread to parse in, its clock.
Must never: let a stranger's file hold the loop or fill the memory, or raise for what a site does.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias
from urllib.parse import quote, unquote

from msgspec.structs import replace
from protego import Protego

from scraperd.base.cache import Cache
from scraperd.base.urls import origin_of, resolve
from scraperd.contract import Failure
from scraperd.fetch.message import Response, location_of, retry_after

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from yarl import URL

    from scraperd.config.tables import PolitenessSettings
    from scraperd.politeness.host_rules import HostTable

MAX_BYTES: Final = 512 * 1024  # read of a robots.txt; section 2.5 asks for 500 KiB at least
MAX_REDIRECTS: Final = 5  # section 2.3.1.2: at least five
BUSY_WAIT: Final = 60.0  # seconds until a host that was busy, broken or silent is asked again
FAULT_WAIT: Final = 5.0  # the same, of a host that could not be reached
QUEUE_WAIT: Final = 30.0  # the same, where too many large files wait to be parsed
MAX_QUEUE: Final = 10  # files that may wait for that; they are in no budget of memory
MAX_CACHED_ORIGINS: Final = 10_000  # whose answers are remembered
MAX_CACHED_BYTES: Final = 32 * 1024 * 1024  # about; a full garbage collection walks it all
LARGE_BYTES: Final = 64 * 1024  # of memory; rules that take more are kept apart, in as much again
MAX_COST: Final = 2_500_000  # ns that trying the rules on one URL may take, by the figures below
_IN_THREAD: Final = 8 * 1024  # bytes; a longer file takes milliseconds to parse

# What protego took for a rule and one URL at worst, in nanoseconds, measured.
_PER_PLAIN: Final = 100
_PER_WILD: Final = 250
_PER_NEEDLE: Final = 100  # a text between asterisks
_PER_STEP: Final = 2.5  # each letter of the URL, for each rule; and by the longest needle:
_PER_NEEDLE_LETTER: Final = 0.08
_PER_ESCAPE: Final = 400  # each `%` of the URL

# What the rules' objects take in memory, measured; two of them where a `$` stands in the pattern.
_ORIGIN: Final = 1024
_ENTRY: Final = 3 * 1024
_PLAIN: Final = 320
_WILD: Final = 760
_PER_CHARACTER: Final = 10

_FIELDS: Final = {  # with the misspellings that Google's parser takes as well
    "user-agent": "user-agent",
    "useragent": "user-agent",
    "user agent": "user-agent",
    "allow": "allow",
    "disallow": "disallow",
    "dissallow": "disallow",
    "dissalow": "disallow",
    "disalow": "disallow",
    "diasllow": "disallow",
    "disallaw": "disallow",
    "crawl-delay": "crawl-delay",
    "crawl delay": "crawl-delay",
    "request-rate": "request-rate",
    "request rate": "request-rate",
}
_RECORD = re.compile(
    rf"^[ \t]*({'|'.join(_FIELDS)})[ \t]*[: \t]([^\n#]*)", re.IGNORECASE | re.MULTILINE
)
_TOKEN = re.compile(r"[A-Za-z_-]*")
_ANYONE = re.compile(r"\*(?:\s|$)")
_BLANKS: Final = " \t\v\f"
_SAFE_IN_URL: Final = "/%="  # what protego does not percent-encode, besides letters and digits
_SAFE_IN_RULE: Final = f"{_SAFE_IN_URL}*$"


class Cost(NamedTuple):
    """Nanoseconds that a URL takes at worst: whatever it is, and for each of its letters."""

    fixed: float = 0.0
    letter: float = 0.0

    def of(self, text: str) -> float:
        """Return the nanoseconds that trying the rules on the URL `text` takes at worst."""
        cost = self.fixed + _PER_ESCAPE * text.count("%")
        return cost + self.letter * len(quote(text, _SAFE_IN_URL)) if self.letter else cost


_FREE: Final = Cost()


class Rules:
    """What one origin's robots.txt says to us."""

    __slots__ = ("_parser", "cost", "crawl_delay", "size")

    def __init__(
        self,
        parser: Protego | None = None,
        *,
        crawl_delay: float | None = None,
        cost: Cost = _FREE,
        size: int = _ENTRY,
    ) -> None:
        self._parser = parser
        self.cost = cost  # of trying the rules on a URL
        self.crawl_delay = crawl_delay  # seconds, cut to `max_crawl_delay`; None if none is asked
        self.size = size  # bytes of memory, about

    def allows(self, url: URL) -> bool:
        """Whether `url`, of this origin, may be fetched (section 2.2.2).

        The longest match counts, and Allow where two are as long. Where the rules
        might take more than MAX_COST to try on a URL as long as this, it is denied.
        """
        if self._parser is None:
            return True
        text = str(url)
        return self.cost.of(text) <= MAX_COST and self._parser.can_fetch(text, "*")


EVERYTHING: Final = Rules(size=_ORIGIN)


class _Kept(NamedTuple):
    """An answer and the time it holds until, by the clock of Robots."""

    answer: Rules | Failure
    until: float

    @property
    def size(self) -> int:
        return self.answer.size if isinstance(self.answer, Rules) else _ORIGIN

    def at(self, now: float) -> Rules | Failure:
        """The answer; a failure that may pass says when it is worth asking again."""
        if isinstance(self.answer, Rules) or not self.answer.retryable:
            return self.answer
        wait = round(max(0.0, self.until - now, self.answer.retry_after or 0.0), 3)
        return replace(self.answer, retry_after=wait)


class Total(NamedTuple):
    """Of how many origins the answers are kept, and the bytes that they take together, about."""

    origins: int
    size: int


Get: TypeAlias = "Callable[[URL, str], Awaitable[Response | Failure]]"


class Robots:
    """The rules of all origins: each file is fetched once, and kept for `robots_cache_ttl`.

    `get` fetches one hop of a URL through a proxy of this name, if any: a body cut at
    MAX_BYTES, or a Failure. What one proxy brings holds only for those who use it:
    its failures are not the site's. `clock` gives seconds. `name` is what a robots.txt knows us
    by; half of `concurrency` files are fetched at once; a site that names a time to come back is
    asked again after `retry_after_max` seconds at most.
    """

    def __init__(
        self,
        settings: PolitenessSettings,
        table: HostTable,
        get: Get,
        clock: Callable[[], float],
        *,
        name: str,
        concurrency: int,
        retry_after_max: float,
    ) -> None:
        self._settings = settings
        self._name = name
        self._retry_after_max = retry_after_max
        self._most = max(1, concurrency // 2)  # files are fetched at once
        self._table = table
        self._get = get
        self._clock = clock
        self._small: Cache[object, _Kept] = Cache(MAX_CACHED_ORIGINS, MAX_CACHED_BYTES)
        # A few large files cost nothing to write, so they must not evict those of others.
        self._large: Cache[object, _Kept] = Cache(MAX_CACHED_ORIGINS, MAX_CACHED_BYTES)
        self._running: dict[object, asyncio.Task[_Kept]] = {}
        self._fetching: set[object] = set()  # those of them whose answer is not here yet
        self._slots = asyncio.Semaphore(self._most)
        self._cleared = 0  # how often all answers were thrown away
        self._surplus = 0  # of those that are taken, what is not to come back
        self._parsing = asyncio.Lock()  # threads that parse side by side would crowd the loop out
        self._queue = 0  # files that wait for it, and the one that has it

    def configure(
        self, settings: PolitenessSettings, *, name: str, concurrency: int, retry_after_max: float
    ) -> None:
        """Take other settings, as when it was made.

        Files are read again where another name, or another longest delay, may find another answer.
        """
        if (name, settings.max_crawl_delay) != (self._name, self._settings.max_crawl_delay):
            self._small.clear()
            self._large.clear()
            self._cleared += 1
        self._settings, self._name = settings, name
        self._retry_after_max = retry_after_max
        most = max(1, concurrency // 2)
        self._surplus += self._most - most
        self._most = most
        while self._surplus < 0:
            self._surplus += 1
            self._slots.release()

    @property
    def full(self) -> bool:
        """Whether as many files are being fetched as may be: half of `concurrency`."""
        return self._slots.locked()

    @property
    def under_way(self) -> int:
        """How many files are on their way: being fetched, waiting to be parsed, or being parsed."""
        return len(self._running)

    @property
    def parsing(self) -> int:
        """How many large files wait to be parsed, with the one that is being parsed."""
        return self._queue

    @property
    def small(self) -> Total:
        """The total of the answers that are kept and take LARGE_BYTES at most."""
        return Total(len(self._small), self._small.size)

    @property
    def large(self) -> Total:
        """The total of the answers that are kept and take more than LARGE_BYTES."""
        return Total(len(self._large), self._large.size)

    def running(self, url: URL, proxy: str = "") -> bool:
        """Whether the file for the origin of `url` is on its way, for any caller to wait for."""
        return (origin_of(url), proxy) in self._running

    def known(self, url: URL, proxy: str = "") -> Rules | Failure | None:
        """What holds for the origin of `url`, if that need not be asked for now."""
        if not self._table.of(url.raw_host or "").obey_robots:
            return EVERYTHING
        origin = (origin_of(url), proxy)
        now = self._clock()
        kept = self._small.get(origin, now) or self._large.get(origin, now)
        return None if kept is None else kept.at(now)

    async def rules(self, url: URL, proxy: str = "") -> Rules | Failure:
        """What holds for the origin of `url`; a Failure if that can't be known for now.

        Callers that ask at once share one fetch, which outlives those that are cancelled.
        While as many run as may, they wait for it to begin.
        """
        origin = (origin_of(url), proxy)
        while (known := self.known(url, proxy)) is None:
            task = self._running.get(origin)
            if task is not None:
                break
            await self._slots.acquire()
            if origin in self._running or self.known(url, proxy) is not None:
                self._give_back()  # another caller was first
                continue
            task = self._begin(origin, url, proxy)
        if known is not None:
            return known
        assert task is not None
        await asyncio.wait((task,))
        if task.cancelled():
            return Failure("robots_denied", "robots.txt: scraperd is stopping", retryable=True)
        return task.result().at(self._clock())

    async def close(self) -> None:
        """End the fetches that run."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, origin: object, url: URL, proxy: str) -> asyncio.Task[_Kept]:
        self._fetching.add(origin)
        task = self._running[origin] = asyncio.create_task(self._ask(origin, url, proxy))
        task.add_done_callback(lambda task: self._done(origin, task))
        return task

    def _answered(self, origin: object) -> None:
        if origin in self._fetching:
            self._fetching.discard(origin)
            self._give_back()

    def _give_back(self) -> None:
        """Let another file be fetched, unless fewer may be by now."""
        if self._surplus > 0:
            self._surplus -= 1
        else:
            self._slots.release()

    def _done(self, origin: object, task: asyncio.Task[_Kept]) -> None:
        del self._running[origin]
        self._answered(origin)
        if not task.cancelled():
            task.exception()  # whoever waits raises it; it may be that nobody does any more

    async def _ask(self, origin: object, url: URL, proxy: str) -> _Kept:
        cleared = self._cleared
        found = await self._follow(url, proxy)
        self._answered(origin)
        answer, lifetime = await self._judge(found)
        kept = _Kept(answer, self._clock() + (lifetime if cleared == self._cleared else 0.0))
        self._small.pop(origin)
        self._large.pop(origin)
        cache = self._large if kept.size > LARGE_BYTES else self._small
        cache.put(origin, kept, size=kept.size, until=kept.until)
        return kept

    async def _follow(self, url: URL, proxy: str) -> Response | Failure | None:
        """The file, also from behind redirects; None if they lead nowhere."""
        here = url.with_path("/robots.txt")
        seen: set[URL] = set()
        while here not in seen and len(seen) <= MAX_REDIRECTS:
            seen.add(here)
            answer = await self._get(here, proxy)
            if isinstance(answer, Failure) or (location := location_of(answer)) is None:
                return answer
            target = _target(here, location)
            if target is None:
                break
            here = target
        return None

    async def _judge(self, answer: Response | Failure | None) -> tuple[Rules | Failure, float]:
        """What it says, and for how many seconds.

        The sections 2.3.1.1 (success), 2.3.1.3 (unavailable) and 2.3.1.4 (unreachable).
        """
        settings = self._settings
        if isinstance(answer, Failure):
            return _unread(answer)
        if answer is None:
            return EVERYTHING, settings.robots_cache_ttl
        status = answer.status
        if status == 429 or status >= 500:  # noqa: PLR2004 - busy or broken, not absent
            asked = retry_after(answer.headers)
            wait = BUSY_WAIT if asked is None else max(asked, FAULT_WAIT)
            failure = Failure("robots_denied", f"robots.txt answered {status}", retryable=True)
            return failure, min(wait, self._retry_after_max)
        if status >= 300:  # noqa: PLR2004 - RFC 9110 section 15
            return EVERYTHING, settings.robots_cache_ttl
        if (unread := answer.trouble or answer.cut) is not None:  # what is cut may deny more
            return _unread(unread)
        return await self._parse(answer.body)

    async def _parse(self, body: bytes) -> tuple[Rules | Failure, float]:
        settings = self._settings
        given = (body, self._name, settings.max_crawl_delay)
        if len(body) <= _IN_THREAD:
            return parse(*given), settings.robots_cache_ttl
        if self._queue > MAX_QUEUE:
            what = "robots.txt: too many large files at once"
            return Failure("robots_denied", what, retryable=True), QUEUE_WAIT
        self._queue += 1
        try:
            async with self._parsing:
                return await asyncio.to_thread(parse, *given), settings.robots_cache_ttl
        finally:
            self._queue -= 1


def _unread(failure: Failure) -> tuple[Failure, float]:
    """What becomes of it, and for how many seconds."""
    hung = failure.kind == "timeout"  # it took a fetch's place for long, and would again
    return _unreachable(failure), BUSY_WAIT if hung else FAULT_WAIT


def _unreachable(failure: Failure) -> Failure:
    if failure.kind == "blocked_address":
        return failure
    return replace(failure, message=f"robots.txt: {failure.message}")


def _target(base: URL, location: str) -> URL | None:
    """Where a redirect leads; None if that is nothing to fetch."""
    try:
        return resolve(base, location)
    except ValueError:
        return None


def parse(body: bytes, name: str, max_delay: float) -> Rules:
    """What `body` says to the crawler of the product token `name`; no file is malformed.

    protego gets only the rules of our own group, under `*`. It would lend a bot the
    group of a name that its own starts with, make an object for each pair of agent and
    rule (64 KiB can take seconds), and split lines at characters of Unicode.
    """
    lines: dict[str, None] = {}  # a rule that comes twice counts once
    fixed, letter, size = 0.0, 0.0, _ENTRY
    for field, value in _group(body, name):
        line = f"{field}:{value}"
        if not value or line in lines:
            continue
        if field in ("allow", "disallow"):
            size += _PER_CHARACTER * len(value)
            wild = "*" in value
            for needles in _needles(field, value):
                size += _WILD if wild or "$" in value else _PLAIN
                fixed += (_PER_WILD if wild else _PER_PLAIN) + _PER_NEEDLE * len(needles)
                if needles:
                    letter += _PER_STEP + _PER_NEEDLE_LETTER * max(map(len, needles))
        elif not (value.isascii() and value.isprintable()):
            continue  # no number; protego would see line breaks in it
        lines[line] = None
    if not lines:
        return EVERYTHING
    if fixed > MAX_COST:  # an attack; dropping some of its rules would be to disobey them
        lines, fixed, letter, size = {"disallow:/": None}, _PER_PLAIN, 0.0, _ENTRY
    parser = Protego.parse("\n".join(("user-agent:*", *lines)))
    parser.can_fetch("http://x/", "*")  # it makes its index now
    cost = Cost(fixed, letter)
    return Rules(parser, crawl_delay=_delay(parser, max_delay), cost=cost, size=size)


def _needles(field: str, value: str) -> list[list[str]]:
    """The texts that are looked for in a URL, for each of the rules that protego makes of this."""
    _, *parts = value.replace("$", "%24").split("*")
    rules = [parts]
    if "$" in value:  # it is tried as an ordinary character, too
        rules.append(parts[:-1] if value.endswith("$") else parts)
    elif field == "allow" and unquote(value).endswith("/index.html"):  # so is the directory
        rules.append(parts[:-1])
    return [[part for part in parts if part] for parts in rules]


def _group(body: bytes, name: str) -> list[tuple[str, str]]:
    """Field and value of all groups of `name`, else of all groups of `*` (section 2.2.1).

    What is no rule (sitemaps, unknown lines) does not end a run of user-agent lines.
    """
    name = name.lower()
    ours: list[tuple[str, str]] = []
    anyones: list[tuple[str, str]] = []
    mine = anyone = named = running = False
    for field, value in _records(body):
        if field != "user-agent":
            running = False
            if mine:
                ours.append((field, value))
            if anyone:
                anyones.append((field, value))
            continue
        if not running:
            mine = anyone = False
        running = True
        if _ANYONE.match(value):
            anyone = True
        elif (token := _TOKEN.match(value)) and token[0].lower() == name:
            mine = named = True
    return ours if named else anyones


def _records(body: bytes) -> Iterator[tuple[str, str]]:
    """The lines that say something, as field and value; paths come percent-encoded."""
    if len(body) >= MAX_BYTES:  # cut; half a line says something else
        body = body[: max(body.rfind(end, 0, MAX_BYTES) for end in (b"\n", b"\r")) + 1]
    # Latin-1 keeps each byte apart, so that UTF-8 is encoded as in a URL, and so is what is none.
    text = body.removeprefix(b"\xef\xbb\xbf").replace(b"\r", b"\n").decode("latin-1")
    for match in _RECORD.finditer(text):
        field, value = _FIELDS[match[1].lower()], match[2].strip(_BLANKS)
        if field in ("allow", "disallow"):
            # A path starts with a slash (section 2.2); any other text says nothing, like none.
            value = quote(value.encode("latin-1"), _SAFE_IN_RULE) if value[:1] in "/*" else ""
        yield field, value


def _delay(parser: Protego, limit: float) -> float | None:
    """Seconds between two fetches, by Crawl-delay or Request-rate: the longer, up to `limit`."""
    delays = []
    if (delay := parser.crawl_delay("*")) is not None:
        delays.append(delay)
    if rate := parser.request_rate("*"):  # whole numbers of any size
        delays.append(min(rate.seconds, 10**9) / min(rate.requests, 10**9))
    return min(max(delays), limit) if delays else None
