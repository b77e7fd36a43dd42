"""robots.txt (RFC 9309): whether a page may be fetched, and how much time a site wants between two.

May touch: the getter it is given, protego, a worker thread to parse in, its clock.
Must never: let a stranger's file hold the loop or fill the memory, or raise for what a site does.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote

from msgspec.structs import replace
from protego import Protego

from scraperd.contract import Failure, check_url
from scraperd.page.fetch import Response, location_of, retry_after
from scraperd.page.urls import origin_of, resolve

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from yarl import URL

    from scraperd.config import Config
    from scraperd.page.hosts import HostTable

MAX_BYTES: Final = 512 * 1024  # read of a robots.txt; section 2.5 asks for 500 KiB at least
MAX_REDIRECTS: Final = 5  # section 2.3.1.2: at least five
BUSY_WAIT: Final = 60.0  # seconds until a host that answered 429 or 5xx is asked again
FAULT_WAIT: Final = 5.0  # the same, of a host that did not answer
KEPT: Final = 10_000  # origins
KEPT_BYTES: Final = 32 * 1024 * 1024  # of memory, about; a full garbage collection walks it all
LARGEST: Final = 20 * 1024 * 1024  # of memory, for one file: 45,000 plain rules or 25,000 wildcards
MAX_STEPS: Final = 50_000_000  # of matching wildcards, at worst, for one URL: half a ns each
_IN_THREAD: Final = 8 * 1024  # bytes; a longer file takes milliseconds to parse

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


class Rules:
    """What one origin's robots.txt says to us."""

    __slots__ = ("_parser", "_steps", "crawl_delay", "size")

    def __init__(
        self,
        parser: Protego | None = None,
        *,
        crawl_delay: float | None = None,
        steps: int = 0,
        size: int = _ENTRY,
    ) -> None:
        self._parser = parser
        self._steps = steps  # of matching, at worst, for each character of a URL
        self.crawl_delay = crawl_delay  # seconds, cut to `max_crawl_delay`; None if none is asked
        self.size = size  # bytes of memory, about

    def allows(self, url: URL) -> bool:
        """Whether `url`, of this origin, may be fetched (section 2.2.2).

        The longest match counts, and Allow where two are as long. Where rules with
        wildcards would take too long to try on a URL as long as this, it is denied.
        """
        if self._parser is None:
            return True
        text = str(url)
        if self._steps and self._steps * len(quote(text, _SAFE_IN_URL)) > MAX_STEPS:
            return False
        return self._parser.can_fetch(text, "*")


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


class Robots:
    """The rules of all origins: each file is fetched once, and kept for `robots_cache_ttl`.

    `get` fetches one hop of a URL through a proxy of this name, if any: a body cut at
    MAX_BYTES, or a Failure. What one proxy brings holds only for those who use it:
    its failures are not the site's. `clock` gives seconds.
    """

    def __init__(
        self,
        config: Config,
        table: HostTable,
        get: Callable[[URL, str], Awaitable[Response | Failure]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._table = table
        self._get = get
        self._clock = clock
        self._kept: OrderedDict[object, _Kept] = OrderedDict()  # the one used last comes last
        self._size = 0
        self._running: dict[object, asyncio.Task[_Kept]] = {}
        self._parsing = asyncio.Lock()  # threads that parse side by side would crowd the loop out

    def known(self, url: URL, proxy: str = "") -> Rules | Failure | None:
        """What holds for the origin of `url`, if that need not be asked for now."""
        if not self._table.of(url.raw_host or "").obey_robots:
            return EVERYTHING
        origin = (origin_of(url), proxy)
        kept = self._kept.get(origin)
        if kept is None or self._clock() >= kept.until:
            return None
        self._kept.move_to_end(origin)
        return kept.at(self._clock())

    async def rules(self, url: URL, proxy: str = "") -> Rules | Failure:
        """What holds for the origin of `url`; a Failure if that can't be known for now.

        Callers that ask at once share one fetch, which outlives those that are cancelled.
        """
        known = self.known(url, proxy)
        if known is not None:
            return known
        origin = (origin_of(url), proxy)
        task = self._running.get(origin)
        if task is None:
            task = asyncio.create_task(self._ask(origin, url, proxy))
            self._running[origin] = task
            task.add_done_callback(lambda task: self._done(origin, task))
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

    def _done(self, origin: object, task: asyncio.Task[_Kept]) -> None:
        del self._running[origin]
        if not task.cancelled():
            task.exception()  # whoever waits raises it; it may be that nobody does any more

    async def _ask(self, origin: object, url: URL, proxy: str) -> _Kept:
        answer, lifetime = await self._follow(url, proxy)
        kept = _Kept(answer, self._clock() + lifetime)
        if origin in self._kept:
            self._size -= self._kept.pop(origin).size
        self._kept[origin] = kept
        self._size += kept.size
        while len(self._kept) > KEPT or (self._size > KEPT_BYTES and len(self._kept) > 1):
            self._size -= self._kept.popitem(last=False)[1].size
        return kept

    async def _follow(self, url: URL, proxy: str) -> tuple[Rules | Failure, float]:
        """The file's rules, also from behind redirects, and the seconds that they hold."""
        here = url.with_path("/robots.txt")
        seen: set[URL] = set()
        while here not in seen and len(seen) <= MAX_REDIRECTS:
            seen.add(here)
            answer = await self._get(here, proxy)
            if isinstance(answer, Failure):
                return _unreachable(answer), FAULT_WAIT
            if (location := location_of(answer)) is None:
                return await self._judge(answer)
            target = _target(here, location)
            if target is None:
                break
            here = target
        return EVERYTHING, self._config.robots_cache_ttl  # unavailable, section 2.3.1.3

    async def _judge(self, answer: Response) -> tuple[Rules | Failure, float]:
        """The sections 2.3.1.1 (success), 2.3.1.3 (unavailable) and 2.3.1.4 (unreachable)."""
        config, status = self._config, answer.status
        if status == 429 or status >= 500:  # noqa: PLR2004 - busy or broken, not absent
            asked = retry_after(answer.headers)
            wait = BUSY_WAIT if asked is None else max(asked, FAULT_WAIT)
            failure = Failure("robots_denied", f"robots.txt answered {status}", retryable=True)
            return failure, min(wait, config.retry_after_max)
        if status >= 300:  # noqa: PLR2004 - RFC 9110 section 15
            return EVERYTHING, config.robots_cache_ttl
        given = (answer.body, config.robots_name, config.max_crawl_delay)
        if len(answer.body) <= _IN_THREAD:
            return parse(*given), config.robots_cache_ttl
        async with self._parsing:
            return await asyncio.to_thread(parse, *given), config.robots_cache_ttl


def _unreachable(failure: Failure) -> Failure:
    if failure.kind == "blocked_address":
        return failure
    return replace(failure, message=f"robots.txt: {failure.message}")


def _target(base: URL, location: str) -> URL | None:
    """Where a redirect leads; None if that is nothing to fetch."""
    try:
        target = resolve(base, location)
        return None if check_url(str(target)) else target
    except ValueError:
        return None


def parse(body: bytes, name: str, max_delay: float) -> Rules:
    """What `body` says to the crawler of the product token `name`; no file is malformed.

    protego gets only the rules of our own group, under `*`. It would lend a bot the
    group of a name that its own starts with, make an object for each pair of agent and
    rule (64 KiB can take seconds), and split lines at characters of Unicode.
    """
    lines: dict[str, None] = {}  # a rule that comes twice counts once
    steps, size = 0, _ENTRY
    for field, value in _group(body, name):
        line = f"{field}:{value}"
        if not value or line in lines:
            continue
        if field in ("allow", "disallow"):
            copies = 2 if "$" in value else 1  # protego also tries it as an ordinary character
            _, *parts = value.split("*")
            steps += copies * (2 + max(map(len, parts))) if parts else 0
            size += _PER_CHARACTER * len(value)
            size += copies * (_WILD if parts or copies > 1 else _PLAIN)
        elif not (value.isascii() and value.isprintable()):
            continue  # no number; protego would see line breaks in it
        lines[line] = None
    if not lines:
        return EVERYTHING
    if size > LARGEST:  # an attack; dropping some of its rules would be to disobey them
        lines, steps, size = {"disallow:/": None}, 0, _ENTRY
    parser = Protego.parse("\n".join(("user-agent:*", *lines)))
    parser.can_fetch("http://x/", "*")  # it makes its index now
    return Rules(parser, crawl_delay=_delay(parser, max_delay), steps=steps, size=size)


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
