"""The attacks of `make bench-tenants`: one function and one row each; and who publishes them.

May touch: the private broker, as the attacker; its own priority.
Must never: be measured as part of the daemon, or send more than it says.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pika

from benchmarks.tenants.site import LIMITED, NAMES, ZEROS
from tests.rig.sites import extraction_pages

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterable, Iterator

MIB: Final = 1024**2
BIG_BYTES: Final = 10_200_000  # of a result with the body of a page below /big
NICE: Final = 5
PACE: Final = 20.0  # jobs a second
FOLLOWED: Final = 20.0  # seconds in which links are followed
AT_ONCE: Final = 45  # of 90 names of one address that may be asked at once
SLOTS: Final = "for slots, all of which such jobs hold (decision 22)"
OTHERS: Final = ("jobs", "results", "quarantine", "quarantine.solo", "dead")  # another team's
FULL: Final = "attacker.full"  # a queue of the attacker's that takes nothing
_ONCE: Final[dict[str, Any]] = {"max_retries": 0, "include": []}


@dataclass(frozen=True, slots=True)
class Aim:
    """What the attacker knows: the broker, the daemon's prefix, the servers' ports, the round."""

    broker: str
    prefix: str
    site: int
    web: int
    worst: int
    number: int

    def url(self, path: str, name: str = "n0.evil.example") -> str:
        """Of the attacker's own site."""
        return f"http://{name}:{self.site}/{path}"

    def each(self, path: str, count: int, family: str = "n", domain: str = "evil") -> Iterator[str]:
        """The same path under so many names that no round before had."""
        for n in range(count):
            name = f"{family}{(self.number * count + n) % NAMES}.{domain}.example"
            yield self.url(path, name)


class Letter(NamedTuple):
    """A message to the jobs queue: a job or any bytes, and AMQP properties."""

    body: dict[str, Any] | bytes
    properties: dict[str, Any] = {}  # noqa: RUF012 - nobody writes to it


@dataclass(frozen=True, slots=True)
class Facts:
    """What became of a row: results by kind, what the sites and other teams' queues saw."""

    kinds: Counter[str]
    site: Counter[str]
    strangers: dict[str, int]  # messages in other teams' queues
    limited: int  # honest pages of the limited host, in the attacked windows
    limited_due: float  # and how many had come if all in its line had been served in turn


@dataclass(frozen=True, slots=True)
class Attack:
    """One row.

    `letters` makes its messages, before they are sent; `pace` in messages a second, 0 for all
    at once. At the usual pace they are no load that an ordinary tenant's jobs would not be.
    `follow` makes further ones of a result, as a crawler does.

    `limited` says that the limited host is shared fairly and no more: its own pages are
    judged by their share. `waits` says for what honest jobs wait, whatever the attacker's jobs
    are: their ratio is shown and not judged. `flaky` adds honest pages that need a
    retry. `check` says what else is wrong. `core` rows are in the short form. `answer` are the
    bytes of each result that the attacker's jobs ask the broker to take.
    """

    what: str
    letters: Callable[[Aim], Iterable[Letter]]
    pace: float = PACE
    follow: Callable[[dict[str, Any]], Iterable[Letter]] | None = None
    check: Callable[[Facts], Iterable[str]] = lambda _: ()
    limited: bool = False
    waits: str = ""
    flaky: bool = False
    core: bool = False
    answer: int = 0


def _jobs(urls: Iterable[str], **more: Any) -> Iterator[Letter]:
    for url in urls:
        yield Letter({"url": url, **_ONCE, **more})


def ordinary(aim: Aim) -> Iterator[Letter]:
    """What the rows' usual pace costs by itself."""
    yield from _jobs(aim.each("page", 100), extract={"title": "title"})


def port_zeros(_: Aim) -> Iterator[Letter]:
    """A port of 4,300 digits."""
    yield from _jobs([ZEROS + str(n) for n in range(3)])


def port_zeros_linked(aim: Aim) -> Iterator[Letter]:
    """A page that links to such a URL, asked for in all ways there are."""
    url = {"selector": "a", "output": "@href", "cast": "url", "type": "list"}
    rules = {"plain": {"selector": "a", "output": "@href", "type": "list"}, "url": url}
    yield from _jobs(
        [aim.url("zeros")], include=["links", "metadata"], extract={"plain": rules["plain"]}
    )
    yield from _jobs([aim.url("zeros", "n1.evil.example")], extract=rules)


def followed(result: dict[str, Any]) -> Iterator[Letter]:
    """A job for each URL of a result."""
    data = result.get("data", {})
    urls = [link["url"] for link in result.get("links", [])]
    urls += [value for values in data.values() for value in values]
    urls += [result.get("metadata", {}).get("canonical")]
    yield from _jobs([url for url in urls if url][:10])


def poison_death(aim: Aim) -> Iterator[Letter]:
    """Messages that expire at once, the last two with an x-death that is no list of tables.

    Three or more in some seconds stop the queue on RabbitMQ 3: that is not promised.
    """
    for n, url in enumerate(aim.each("page", 500)):  # of fewer none would expire
        headers = {"x-death": ["a", "b"]} if n >= 498 else {}
        yield Letter({"url": url, **_ONCE}, {"expiration": "1", "headers": headers})


def selector_classes(aim: Aim) -> Iterator[Letter]:
    """As many rules of 480 tests as are allowed, on a list of 15,001 classes."""
    rules = {f"r{n}": ".a" * 480 for n in range(50)}
    yield from _jobs(aim.each("classes", 20), extract=rules)


def selector_values(aim: Aim) -> Iterator[Letter]:
    """As many searches for 900 letters as are allowed, in a value of 30,000 that nearly match."""
    rules = {f"r{n}": f'[z*="{"a" * 900}b" i]' for n in range(50)}
    yield from _jobs(aim.each("value", 20), extract=rules)


def selector_attributes(aim: Aim) -> Iterator[Letter]:
    """As many rules of 160 tests as are allowed, on 5,000 attributes."""
    rules = {f"r{n}": "[zzz1]" * 160 for n in range(50)}
    yield from _jobs(aim.each("attributes", 20), extract=rules)


def selector_large(aim: Aim) -> Iterator[Letter]:
    """What takes hours on a page that is too large to be looked at first; new rules each time."""
    for n, url in enumerate(aim.each("nested", 60)):
        yield from _jobs([url], extract={f"r{aim.number}-{n}": "x b b b"})


def readable_text(aim: Aim) -> Iterator[Letter]:
    """The main content of pages that take half a second, of which there are many."""
    yield from _jobs(aim.each("big", 60), include=["text"])


def worst_pages(aim: Aim) -> Iterator[Letter]:
    """One of each sort of the extraction bench."""
    for name, sort in extraction_pages.SORTS.items():
        if not sort.together:
            yield Letter({**next(extraction_pages.jobs(name, aim.worst)), "id": name})


def huge_form(aim: Aim) -> Iterator[Letter]:
    """26 MB of a million form fields."""
    fields = {f"field-number-{n:06}": "" for n in range(1_000_000)}
    yield Letter({"url": aim.url("page"), "form": fields, **_ONCE})


def huge_jobs(aim: Aim) -> Iterator[Letter]:
    """40 MB in each."""
    job = {"url": aim.url("page"), "body": "x" * 40 * MIB, **_ONCE}
    body = json.dumps(job).encode()
    for _ in range(40):
        yield Letter(body)


def many_fields(aim: Aim) -> Iterator[Letter]:
    """60,000 headers, cookies, unknown fields and numbers of a `meta`, in jobs of about 1 MB."""
    pairs = {f"x-{n}": "v" for n in range(60_000)}
    for key in ("headers", "form", "meta", "cookies"):
        for url in aim.each("page", 4):
            yield Letter({"url": url, key: pairs, **_ONCE})
    for url in aim.each("page", 4):
        yield Letter({"url": url, **pairs})


def redirects_to_victim(aim: Aim) -> Iterator[Letter]:
    """Own pages that lead to a host of the other tenant's that permits little."""
    yield from _jobs(aim.each(f"to-victim/{aim.number}", 200))


def robots_to_victim(aim: Aim) -> Iterator[Letter]:
    """A robots.txt under each name that leads there."""
    yield from _jobs(aim.each("page", 200, family="r"))


def share(facts: Facts) -> Iterator[str]:
    """Half of what is due is little enough to ask for on a noisy machine."""
    if facts.limited < facts.limited_due / 2:
        yield f"the honest had {facts.limited} of {facts.limited_due:.0f} pages due at {LIMITED}"


def forged_replies(aim: Aim) -> Iterator[Letter]:
    """Results for whoever's queues."""
    for n in range(60):
        to = f"other.{OTHERS[n % len(OTHERS)]}"
        yield Letter({"url": aim.url("page"), **_ONCE, "meta": {"url": ZEROS}}, {"reply_to": to})


def none_elsewhere(facts: Facts) -> Iterator[str]:
    """Another team's queues are not ours to write to."""
    for queue, count in facts.strangers.items():
        if count:
            yield f"{count} forged messages in {queue}"


def forged_crashes(aim: Aim) -> Iterator[Letter]:
    """Jobs that say of themselves that two processes died of them."""
    for url in aim.each("page", 30):
        yield Letter({"url": url, **_ONCE}, {"headers": {"x-scraperd-strikes": 2}})


def forged_headers(aim: Aim) -> Iterator[Letter]:
    """All other headers of ours, with what suits the attacker."""
    turn = f"{time.time():.3f} limited.honest.example 0.001"
    for n, url in enumerate(aim.each("page", 120)):
        headers: list[tuple[str, Any]] = [
            ("x-scraperd-attempt", 999_999),
            ("x-scraperd-snoozes", 999),
            ("x-scraperd-turn", turn),
            ("x-scraperd-strikes", 1),
        ]
        target = f"http://limited.honest.example:{aim.web}/?{n}" if n % 4 == 2 else url
        yield Letter({"url": target, **_ONCE}, {"headers": dict([headers[n % 4]])})


def one_address(aim: Aim) -> Iterator[Letter]:
    """90 names, each a host of its own that permits one at once."""
    for url in aim.each("hold", 90, domain="one"):
        yield Letter({"url": url, **_ONCE})


def held(facts: Facts) -> Iterator[str]:
    """Limits by name do not hold an address."""
    if (most := facts.site["held at once"]) > AT_ONCE:
        yield f"{most} requests at once at one address"


def dear_rules(aim: Aim) -> Iterator[Letter]:
    """Rules that are dear to compile, new in each job."""
    names = ("dear regexes", "dear selectors", "dear expressions")
    for n in range(20):
        sort = extraction_pages.SORTS[names[n % 3]]
        rules = json.dumps(sort.asked(1000 * (aim.number + 1) + n)["extract"])
        url = aim.url("page", f"n{n}.evil.example")
        yield Letter({"url": url, **_ONCE, "extract": json.loads(rules)})


def odd_selectors(aim: Aim) -> Iterator[Letter]:
    """Selectors that were accepted and failed on each page."""
    for n, url in enumerate(aim.each("page", 60)):
        yield Letter({"url": url, **_ONCE, "extract": {f"r{n}": "\\0 :is(:root"}})


def refused_as_jobs(facts: Facts) -> Iterator[str]:
    """What is no selector must be refused before a fetch."""
    if wrong := {kind for kind in facts.kinds if "invalid_job" not in kind}:
        yield f"not refused as invalid_job, but {sorted(wrong)}"


def hanging_hosts(aim: Aim) -> Iterator[Letter]:
    """Pages that never come, under a thousand names."""
    yield from _jobs(aim.each("hang", 1000), timeout=10)


def mute_names(aim: Aim) -> Iterator[Letter]:
    """Names whose nameserver says nothing."""
    for n in range(200):
        yield Letter({"url": aim.url("page", f"n{n}.mute.example"), **_ONCE})


def robots_hang(aim: Aim) -> Iterator[Letter]:
    """A robots.txt that never comes, under many names."""
    yield from _jobs(aim.each("page", 400, family="h"))


def drips(aim: Aim) -> Iterator[Letter]:
    """A byte of a body at a time, under many names."""
    yield from _jobs(aim.each("drip", 100), timeout=10)


def slow_bodies(aim: Aim) -> Iterator[Letter]:
    """Large bodies that come slowly and never whole, of few names."""
    yield from _jobs([aim.url("slow", f"n{n % 8}.evil.example") for n in range(60)], timeout=15)


def chains(aim: Aim) -> Iterator[Letter]:
    """Ten redirects each, all over the names."""
    yield from _jobs(aim.each("chain/10", 200))


def big_results(aim: Aim) -> Iterator[Letter]:
    """9 MB each, wanted whole."""
    yield from _jobs(aim.each("big", 30), include=["body"])


def bombs(aim: Aim) -> Iterator[Letter]:
    """10 GiB of zeros each."""
    yield from _jobs(aim.each("bomb/gzip", 20))
    yield from _jobs(aim.each("bomb/zstd", 20))


def cookies(aim: Aim) -> Iterator[Letter]:
    """180 cookies in each of ten redirects."""
    yield from _jobs(aim.each("cookies/9", 60))


def invalid_burst(aim: Aim) -> Iterator[Letter]:
    """Five sorts of what is no job."""
    bodies: list[bytes] = [b"{", b"[" * 5000, b'{"url": 1}', b'{"url": "http://x/", "no": 1}']
    bodies.append(json.dumps({"url": aim.url("page"), "extract": {"a": "a["}}).encode())
    for n in range(400):
        yield Letter(bodies[n % 5])


def retry_storm(aim: Aim) -> Iterator[Letter]:
    """503 with Retry-After: 0, for as many tries as there are."""
    for url in aim.each("busy", 200):
        yield Letter({"url": url, "include": []})


def big_meta(aim: Aim) -> Iterator[Letter]:
    """4 MB that come back with the result."""
    meta = [{"a": n} for n in range(300_000)]
    for url in aim.each("page", 20):
        yield Letter({"url": url, "meta": meta, **_ONCE})


def full_replies(aim: Aim) -> Iterator[Letter]:
    """Results for a queue that refuses them."""
    for url in aim.each("page", 200):
        yield Letter({"url": url, **_ONCE}, {"reply_to": FULL})


def big_headers(aim: Aim) -> Iterator[Letter]:
    """60 kB of AMQP headers each, of names of their own."""
    headers = {f"name-{n}": "v" for n in range(5000)}
    for url in aim.each("page", 200):
        yield Letter({"url": url, **_ONCE}, {"headers": headers})


ATTACKS: Final[dict[str, Attack]] = {
    "ordinary": Attack("no attack: as many ordinary jobs, for comparison", ordinary, core=True),
    "port-zeros": Attack("3 URLs with a port of 4,300 digits", port_zeros, core=True),
    "port-zeros-linked": Attack(
        "a page that links to such URLs, and a crawler that follows them",
        port_zeros_linked,
        follow=followed,
    ),
    "selector-classes": Attack(
        "20 x 50 rules of 480 classes, a list of 15,001 classes", selector_classes, core=True
    ),
    "selector-values": Attack(
        "20 x 50 rules [z*=...] of 900 characters, a value of 30,000", selector_values
    ),
    "selector-attributes": Attack(
        "20 x 50 rules of 160 [zzz1], 5,000 attributes", selector_attributes
    ),
    "selector-large": Attack("60 rules 'x b b b', 42 kB of nested <b>", selector_large),
    "readable-text": Attack("60 times the text of a page of 9 MB", readable_text),
    "worst-pages": Attack("one of each sort of bench-extract", worst_pages, pace=8),
    "huge-form": Attack("a job of a million form fields, 26 MB", huge_form, core=True),
    "huge-jobs": Attack("40 jobs of 40 MB", huge_jobs),
    "many-fields": Attack("20 jobs of 60,000 fields of each sort", many_fields, pace=8),
    "redirects-to-victim": Attack(
        "200 pages that lead to an honest host which permits 5 a second",
        redirects_to_victim,
        pace=15,
        check=share,
        limited=True,
        core=True,
    ),
    "robots-to-victim": Attack(
        "200 names whose robots.txt leads there",
        robots_to_victim,
        pace=15,
        check=share,
        limited=True,
    ),
    "forged-replies": Attack(
        "60 jobs with a reply_to of another team's queues",
        forged_replies,
        check=none_elsewhere,
        core=True,
    ),
    "forged-strikes": Attack("30 jobs with x-scraperd-strikes: 2", forged_crashes, core=True),
    "forged-headers": Attack(
        "120 jobs with forged attempts, snoozes, turns; a quarter at the host that permits little",
        forged_headers,
        pace=40,
        check=share,
        limited=True,
    ),
    "one-address": Attack(
        "90 names of one address, hosts that permit one at once",
        one_address,
        pace=45,
        check=held,
        core=True,
    ),
    "dear-rules": Attack("20 jobs of the dearest rules", dear_rules, core=True),
    "odd-selectors": Attack(
        "60 jobs with the selector '\\0 :is(:root'",
        odd_selectors,
        check=refused_as_jobs,
        core=True,
    ),
    "hanging-hosts": Attack(
        "1,000 names that never answer, of 200 addresses", hanging_hosts, pace=100, waits=SLOTS
    ),
    "mute-names": Attack("200 names whose nameserver is silent", mute_names, pace=50),
    "robots-hang": Attack("400 names whose robots.txt never comes", robots_hang, pace=100),
    "drips": Attack("100 bodies of a byte every 50 ms", drips, pace=50, waits=SLOTS),
    "slow-bodies": Attack("60 bodies of 9 MB at 1 MB/s, never whole", slow_bodies),
    "chains": Attack("200 jobs of ten redirects over many names", chains, pace=5),
    "big-results": Attack("30 results of 9 MB", big_results, pace=5, answer=BIG_BYTES),
    "bombs": Attack("40 compression bombs of 10 GiB", bombs, pace=10),
    "cookies": Attack("60 jobs of ten redirects with 180 cookies each", cookies, pace=5),
    "invalid-burst": Attack("invalid jobs, 100 a second", invalid_burst, pace=100),
    "retry-storm": Attack(
        "jobs at hosts that say 503, Retry-After: 0, 50 a second", retry_storm, pace=50
    ),
    "big-meta": Attack("20 jobs with a meta of 4 MB", big_meta, pace=5),
    "full-replies": Attack("200 jobs with a reply_to that is full", full_replies, pace=50),
    "big-headers": Attack("200 jobs with 60 kB of AMQP headers", big_headers),
    # the last, because it can break the node
    "poison-death": Attack(
        "500 messages that expire, two with a malformed x-death, beside jobs that need a retry",
        poison_death,
        pace=0,
        flaky=True,
        core=True,
    ),
}


def command(name: str, aim: Aim, go: Path) -> list[str]:
    """How to start the attacker: it says `ready`, waits for the file `go`, says `sent N`."""
    return [sys.executable, "-m", "benchmarks.tenants.attacks", name, json.dumps(asdict(aim)),
            str(go)]  # fmt: skip


def main(name: str, aim: Aim, go: Path) -> None:
    """Publish all letters of an attack, at its pace."""
    attack = ATTACKS[name]
    connection = pika.BlockingConnection(pika.URLParameters(aim.broker))
    channel = connection.channel()
    feed = channel.queue_declare("", exclusive=True).method.queue or ""
    if attack.follow is not None:
        channel.queue_bind(feed, f"{aim.prefix}.results", "*.*.example.evil.#")
    letters = [_encoded(letter, n, aim) for n, letter in enumerate(attack.letters(aim))]
    print("ready", flush=True)
    while not go.exists():
        time.sleep(0.01)
    began = time.monotonic()
    for n, (body, properties) in enumerate(letters):
        if attack.pace:
            connection.sleep(max(0.0, began + n / attack.pace - time.monotonic()))
        channel.basic_publish("", f"{aim.prefix}.jobs", body, properties)
        print(f"sent {n + 1}", flush=True)
    count = len(letters)
    print("done", flush=True)
    if attack.follow is None:
        return
    for _, _, result in channel.consume(feed, auto_ack=True, inactivity_timeout=FOLLOWED):
        for letter in attack.follow(json.loads(result or b"{}")):
            count += 1
            channel.basic_publish("", f"{aim.prefix}.jobs", *_encoded(letter, count, aim))
        print(f"sent {count}", flush=True)


def _encoded(letter: Letter, n: int, aim: Aim) -> tuple[bytes, pika.BasicProperties]:
    """With a message id that names the job, so that one that can't be read is named too."""
    body = letter.body if isinstance(letter.body, bytes) else json.dumps(letter.body).encode()
    named = {"message_id": f"attack/{aim.number}/{n}", "delivery_mode": 2}
    return body, pika.BasicProperties(**{**named, **letter.properties})


if __name__ == "__main__":
    os.nice(NICE)
    main(sys.argv[1], Aim(**json.loads(sys.argv[2])), Path(sys.argv[3]))
