"""An innocent tenant's jobs beside each attack: their latency, quiet and attacked, in turn.

May touch: the stage's private servers, the processes it starts, the results and /proc.
Must never: take a figure from anywhere but results as they arrive, the kernel and the loop's
heartbeat; or count a job as back that is not.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import statistics
import sys
import time
import urllib.request
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import pika
from pika.exceptions import ChannelClosedByBroker

from benchmarks.extraction import site as worst_site
from benchmarks.extraction import until
from benchmarks.kernel import congestion_control
from benchmarks.stage import Child, Stage
from benchmarks.tenants.attacks import ATTACKS, FULL, OTHERS, Aim, Facts, command
from benchmarks.tenants.site import HOSTS, LIMITED, NAMES, WEB
from tests.rig import ports, process
from tests.rig.daemon import environment
from tests.rig.sites.nginx import Nginx
from tests.rig.watched import holds, last_beat

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from benchmarks.tenants.attacks import Attack

RATE: Final = 30.0  # honest jobs a second
PERMITTED: Final = 5.0  # pages a second of the limited host
WORSE: Final = 3.0  # how many times the quiet 99th percentile the attacked one may be
FLOOR: Final = (
    2.0  # times what a consumer that only answers has: more is the daemon's, not the broker's
)
WARM: Final = 10.0  # seconds of honest jobs that do not count, after a start: the broker settles
CLOSE: Final = 10.0  # times; a worse ratio is no noise
MORE: Final = 2  # rounds
FLOORS: Final = 100  # the number of the first round of a floor
PATIENCE: Final = 20.0  # seconds after a window in which its results may come
CALM: Final = 6.0  # seconds in which the attacker's jobs may end, else the daemon is replaced
RESTART: Final = 2.0  # seconds: RestartSec of the unit
HELD: Final = 0.1  # seconds that the loop should never be held
LIMITED_EVERY: Final = 10  # of the honest jobs one in ten is at the limited host: 3 a second
LONGEST: Final = 10.0  # seconds of an attacked window whose attacker goes on
_LOOK: Final = 0.05  # seconds between two looks at the daemon
_ASK: Final = 0.2  # seconds between two questions for the depth of the results queue
_LIST: Final = {"selector": "h1, h2, h3", "type": "list"}
_LINKS: Final = {"selector": "a[href]", "output": "@href", "type": "list"}
SIMPLE: Final[dict[str, Any]] = {"title": "title", "headings": _LIST, "links": _LINKS}
SETTINGS: Final[dict[str, Any]] = {  # all else as it is shipped
    "log__format": "json",
    "fetch__allow_networks": ["127.0.0.0/8"],
    "fetch__allow_ports": [],
    "hosts": {
        "limited.honest.example": {"per_host_delay": 1 / PERMITTED},
        "*.one.example": {"per_host_concurrency": 1},
    },
}


@dataclass(slots=True)
class Window:
    """A time in which honest jobs were published.

    `times` are seconds from publish to result; those of jobs at the limited host and of those
    that need a retry are apart. A job that is not back counts as long as it was waited for.
    """

    began: float
    ended: float = 0.0
    times: list[float] = field(default_factory=list)
    limited: list[float] = field(default_factory=list)
    retried: list[float] = field(default_factory=list)
    missing: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    due: float = 0.0  # pages of the limited host, if all in its line were served in turn

    def judged(self, attack: Attack) -> list[float]:
        """The times that are to stay as they are."""
        return self.times if attack.limited else self.times + self.limited


@dataclass(slots=True)
class Report:
    """A row: its windows and what became of everything."""

    name: str
    attack: Attack
    quiet: list[Window] = field(default_factory=list)
    attacked: list[Window] = field(default_factory=list)
    floor: list[Window] = field(default_factory=list)  # attacked; with a bare consumer
    kinds: Counter[str] = field(default_factory=Counter)
    died: int = 0
    peak: float = 0.0
    held: float = 0.0
    held_at: str = ""
    strangers: dict[str, int] = field(default_factory=dict)
    site: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def ratio(self) -> float:
        """Of the 99th percentiles, within a round; the median of the rounds."""
        pairs = zip(self.quiet, self.attacked, strict=True)
        return statistics.median(
            quantile(theirs.judged(self.attack), 99) / quantile(mine.judged(self.attack), 99)
            for mine, theirs in pairs
        )

    @property
    def above_floor(self) -> float:
        """The attacked 99th percentile, divided by that of a consumer that only answers.

        Of each the median of the rounds: an outage of the broker is as long as it likes, and the
        longest one would stand for all.
        """
        if not self.floor:
            return math.inf
        return self.typical(self.attacked) / self.typical(self.floor)

    def typical(self, windows: list[Window]) -> float:
        """The median of the windows' 99th percentiles."""
        return statistics.median(quantile(one.judged(self.attack), 99) for one in windows)

    @property
    def worse(self) -> bool:
        """Whether the ratio is more than three."""
        return self.ratio > WORSE

    @property
    def slow(self) -> bool:
        """Whether the daemon makes honest jobs wait: not its slots, and not the broker."""
        return self.worse and not self.attack.waits and self.above_floor > FLOOR

    @property
    def close(self) -> bool:
        """Whether the ratio could be more than it may be by a noise of the machine's."""
        return self.slow and self.ratio < CLOSE

    @property
    def missing(self) -> int:
        """Honest jobs that did not come back, but those that wait for what is shared."""
        return sum(
            count
            for window in self.quiet + self.attacked
            for sort, count in window.missing.items()
            if not (self.attack.waits or (self.attack.limited and sort == "limited"))
        )

    def complaints(self) -> list[str]:
        """What is not as it must be."""
        windows = self.quiet + self.attacked
        failed: Counter[str] = sum((window.failed for window in windows), Counter())
        limited = sum(len(w.limited) - w.missing["limited"] for w in self.attacked)
        due = sum(window.due for window in self.attacked)
        facts = Facts(self.kinds, self.site, self.strangers, limited, due)
        found = [f"99th percentile {self.ratio:.1f} times the quiet one"] * self.slow
        found += [f"the daemon died {self.died} times"] * (self.died > 0)
        found += [f"{self.missing} honest jobs not back"] * (self.missing > 0)
        found += [f"{count} honest jobs failed: {what}" for what, count in failed.items()]
        return [*found, *self.attack.check(facts)]


class Service:
    """The daemon, watched, restarted as its unit would; under a prefix of its own."""

    def __init__(self, scene: Scene, prefix: str) -> None:
        self._scene = scene
        self.prefix = prefix
        own = {"broker_url": scene.stage.node.url, "broker__prefix": prefix}
        self._env = environment({**SETTINGS, **own, "fetch__nameservers": [scene.nameserver]})
        self._popen: subprocess.Popen[bytes] | None = None
        self._due = 0.0
        self._looked = 0.0
        self.files: list[Path] = []
        self.peak = 0.0
        self.died = 0
        self._start()

    def forget(self) -> None:
        """Begin to count deaths and the peak of memory (proc(5): clear_refs)."""
        self.peak, self.died = 0.0, 0
        if self._popen is not None:
            Path(f"/proc/{self._popen.pid}/clear_refs").write_text("5")

    def _start(self) -> None:
        file = self._scene.stage.folder / f"{self.prefix}.holds.{len(self.files)}"
        argv = [sys.executable, "-m", "tests.rig.watched", str(file)]
        with (self._scene.stage.folder / f"{self.prefix}.log").open("ab") as log:
            self._popen = process.spawn(argv, env=self._env, stdout=log)
        self.files.append(file)

    def look(self) -> None:
        """See whether it lives, and restart it when that is due."""
        if (now := time.monotonic()) - self._looked < _LOOK:
            return
        self._looked = now
        if self._popen is None:
            if now >= self._due:
                self._start()
        elif self._popen.poll() is not None:
            self.died += 1
            self._popen, self._due = None, now + RESTART
        else:
            self.peak = max(self.peak, peak_of(self._popen))

    def replace_by_floor(self, answer: int) -> None:
        """End the daemon, and let a consumer that only answers take its place.

        Its answers to the attacker have `answer` bytes, if that is not 0.
        """
        self.kill()
        argv = [sys.executable, "-m", "benchmarks.tenants.floor", self._scene.stage.node.url]
        with (self._scene.stage.folder / f"{self.prefix}.floor").open("ab") as log:
            self._popen = process.spawn([*argv, self.prefix, str(answer)], stdout=log)

    def kill(self) -> None:
        """End it; what it held does not matter any more."""
        if self._popen is not None:
            self._popen.kill()
            process.reap(self._popen)
        self._popen = None

    def longest(self, began: float, ended: float) -> tuple[float, str]:
        """The most seconds of its own processor time in which the loop did not turn, and where."""
        found = [h for file in self.files if file.exists() for h in holds(file)]
        mine = [(min(h.late, h.cpu), h.stack) for h in found if began <= h.at <= ended]
        return max([*mine, (self._unended(), "still held")])

    def _unended(self) -> float:
        """Of a hold that goes on, so far."""
        at, used = last_beat(self.files[-1])
        if self._popen is None or self._popen.poll() is not None or not at:
            return 0.0
        stat = Path(f"/proc/{self._popen.pid}/task/{self._popen.pid}/stat").read_text()
        ticks = sum(map(int, stat.rpartition(")")[2].split()[11:13]))
        held = min(time.monotonic() - at, ticks / os.sysconf("SC_CLK_TCK") - used)
        return held if held > HELD else 0.0


class Scene:
    """The servers of both tenants, for as long as the `with` block.

    `release` "4" is RabbitMQ 4; "" is what this machine has.
    """

    def __init__(self, release: str = "") -> None:
        self._release = release

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.stage = stack.enter_context(Stage(release=self._release))
            self.web, self.port, self.worst = (ports.free_port() for _ in range(3))
            listens = "".join(f"listen {host}:{self.web};" for host in [*WEB, LIMITED])
            folder = self.stage.folder
            stack.enter_context(
                Nginx(folder / "site", folder / "web", port=self.web, extra=listens)
            )
            stack.enter_context(worst_site(self.stage, self.worst))
            self.nameserver = f"127.0.0.1:{stack.enter_context(self._site())}"
            self._other_team()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextmanager
    def _site(self) -> Iterator[str]:
        log = self.stage.folder / "tenants-site.log"
        argv = [sys.executable, "-m", "benchmarks.tenants.site", str(self.port), str(self.web)]
        with log.open("wb") as output:
            popen = process.spawn(argv, stdout=output)
        try:
            until(lambda: b"ready" in log.read_bytes(), 120)
            yield log.read_text().rpartition("ready ")[2].strip()
        finally:
            process.end(popen, 5)

    def _other_team(self) -> None:
        """Queues as another daemon on the broker would have them; and the attacker's full one."""
        durable = {"x-queue-type": "quorum"}
        for name in OTHERS:
            self.stage.channel.queue_declare(f"other.{name}", durable=True, arguments=durable)
        full = {"x-max-length": 1, "x-overflow": "reject-publish"}
        self.stage.channel.queue_declare(FULL, arguments=full)
        self.stage.channel.basic_publish("", FULL, b"full")

    def strangers(self) -> dict[str, int]:
        """What is in the other team's queues; they are empty then."""
        channel = self.stage.channel
        return {
            f"other.{name}": channel.queue_purge(f"other.{name}").method.message_count or 0
            for name in OTHERS
        }

    def seen(self) -> Counter[str]:
        """What the attacker's site counted."""
        with urllib.request.urlopen(f"http://{HOSTS[0]}:{self.port}/stats") as answer:
            return Counter(json.load(answer))

    def remove(self, prefix: str) -> None:
        """Delete all queues of a daemon that was killed."""
        for name in self.stage.node.counts():
            if name.startswith(f"{prefix}."):
                self.stage.channel.queue_delete(name)


class Tenant:
    """The honest tenant: jobs at a steady rate, each result as it comes, to a queue of its own."""

    def __init__(self, scene: Scene, service: Service) -> None:
        self._scene = scene
        self._service = service
        self.flaky = False  # whether some pages need a retry
        self._waits: dict[str, tuple[Window, float, str]] = {}
        self._count = 0
        self._back = 0  # of what is in the results queue
        self._ended = 0
        self._asked = 0.0
        self._next = time.monotonic()
        self._pages = [page.url.split("/", 3)[3] for page in scene.stage.pages]
        random.Random(1).shuffle(self._pages)  # the same each time
        parameters = pika.URLParameters(scene.stage.node.url)
        parameters.heartbeat = 0
        self._connection = pika.BlockingConnection(parameters)
        self._channel = self._connection.channel()
        self._jobs = f"{service.prefix}.jobs"
        self._results = f"{service.prefix}.results"
        self.until_consumed()
        queue = self._channel.queue_declare("", exclusive=True).method.queue or ""
        for key in ["example.honest.#", *(h.replace(".", "-") for h in WEB)]:
            self._channel.queue_bind(queue, self._results, f"*.*.{key}")
        self._channel.basic_consume(queue, self._came, auto_ack=True)

    def close(self) -> None:
        """Leave the broker."""
        self._connection.close()

    def until_consumed(self) -> None:
        """Wait until the jobs queue has a consumer."""
        until(self._declared, 60)

    def _declared(self) -> bool:
        """Whether the daemon consumes, and so all queues are there."""
        self._service.look()
        try:
            found = self._channel.queue_declare(self._jobs, passive=True)
        except ChannelClosedByBroker:
            self._channel = self._connection.channel()
            return False
        return bool(found.method.consumer_count)

    def window(
        self, seconds: float, attacker: Attacker | None = None, *, line: float = PATIENCE
    ) -> Window:
        """So many seconds of honest jobs, or more until the attacker's have ended.

        Ends when the honest results are here, if they come. Those at the limited host are
        waited for `line` seconds only.
        """
        window = Window(time.monotonic())
        self._next = window.began
        while (age := time.monotonic() - window.began) < seconds or (
            attacker is not None and age < LONGEST and self._pending(attacker)
        ):
            if time.monotonic() >= self._next:
                self._publish(window)
            self._serve(self._next)
        at = time.monotonic()
        while self._waits and (waited := time.monotonic() - at) < PATIENCE:
            if waited > line and all(sort == "limited" for *_, sort in self._waits.values()):
                break
            self._serve(time.monotonic() + _LOOK)
        window.ended = time.monotonic()
        for _, began, sort in self._waits.values():
            window.missing[sort] += 1
            getattr(window, sort).append(window.ended - began)
        self._waits.clear()
        return window

    def _pending(self, attacker: Attacker) -> bool:
        """Whether any of the attacker's jobs has no result yet; asked a few times a second."""
        if time.monotonic() - self._asked > _ASK:
            self._asked = time.monotonic()
            depth = self._channel.queue_declare(self._results, passive=True).method.message_count
            self._ended = (depth or 0) - self._back
        return not attacker.done or self._ended < attacker.sent

    def tally(self, sent: int, seconds: float) -> Counter[str]:
        """What the attacker's jobs became, until all have ended or the time is over.

        The results queue, in which the honest results are too, is empty then.
        """
        kinds: Counter[str] = Counter()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            method, properties, _ = self._channel.basic_get(self._results, auto_ack=True)
            if method is None or properties is None:
                if kinds.total() >= sent:
                    break
                self._serve(time.monotonic() + _LOOK)
                continue
            ident = str((properties.headers or {}).get("x-scraperd-job-id", ""))
            if not ident.startswith("honest/"):
                kinds[".".join((method.routing_key or "").split(".")[:2])] += 1
        self._back = 0
        return kinds

    def _serve(self, until: float) -> None:
        left = max(0.0, min(until - time.monotonic(), _LOOK))
        self._connection.process_data_events(left)
        self._service.look()

    def _publish(self, window: Window) -> None:
        n, sort = self._count, "times"
        self._count += 1
        self._next += 1 / RATE
        web = self._scene.web
        host = f"w{n % 10}.honest.example" if n % 20 < 10 else WEB[n % 20]
        url = f"http://{host}:{web}/{self._pages[n * 37 % len(self._pages)]}"
        job: dict[str, Any] = {"id": f"honest/{n}", "url": url, "include": [], "extract": SIMPLE}
        if n % LIMITED_EVERY == 0:
            sort = "limited"
            job["url"] = f"http://limited.honest.example:{web}/{self._pages[n % 50]}"
        elif n % LIMITED_EVERY in (3, 6):
            job["extract"] = {"title": "title", f"new{n}": f"h1.of-{n}-{self._service.prefix}"}
        elif n % LIMITED_EVERY == 9:
            del job["extract"]  # the body
            job["include"] = ["body", "metadata"]
        elif self.flaky and n % LIMITED_EVERY in (2, 5):
            sort = "retried"
            job["url"] = f"http://f{n % NAMES}.honest.example:{self._scene.port}/flaky/{n}"
            job["extract"] = {"title": "title"}
        self._waits[job["id"]] = window, time.monotonic(), sort
        body = json.dumps(job).encode()
        self._channel.basic_publish("", self._jobs, body, pika.BasicProperties(delivery_mode=2))

    def _came(self, _channel: object, _method: object, _properties: object, body: bytes) -> None:
        now = time.monotonic()
        result = json.loads(body)
        self._back += 1
        if (sent := self._waits.pop(result["id"], None)) is not None:
            window, began, sort = sent
            getattr(window, sort).append(now - began)
            if result["status"] != "ok":
                window.failed[f"{result['error']['kind']}: {result['error']['message']}"] += 1


class Attacker:
    """The attacker's process: prepared, then let go, then ended."""

    def __init__(self, scene: Scene, service: Service, name: str, number: int) -> None:
        folder = scene.stage.folder
        self._go = folder / f"{name}.{number}.go"
        self._log = folder / f"{name}.{number}.attacker"
        aim = Aim(scene.stage.node.url, service.prefix, scene.port, scene.web, scene.worst, number)
        with self._log.open("wb") as output:
            self._popen = process.spawn(command(name, aim, self._go), stdout=output)
        until(lambda: b"ready" in self._log.read_bytes(), 60)

    def go(self) -> None:
        """Publish."""
        self._go.touch()

    @property
    def done(self) -> bool:
        """Whether it has nothing more to send."""
        return self._popen.poll() is not None or "done" in self._log.read_text()

    @property
    def sent(self) -> int:
        """How many jobs it has sent."""
        said = self._log.read_text().rpartition("sent ")[2].split()
        return int(said[0]) if said and said[0].isdigit() else 0

    def end(self) -> int:
        """End it; how many jobs it has sent."""
        process.end(self._popen, 0)
        if not self.sent:
            raise RuntimeError(f"the attacker failed:\n{self._log.read_text()}")
        return self.sent


class Bench:
    """Plays the rows; a daemon that can't be calmed is replaced by one of another prefix."""

    def __init__(self, scene: Scene, rounds: int, seconds: float) -> None:
        self._scene = scene
        self._rounds = rounds
        self._seconds = seconds
        self._prefixes = 0
        self._service: Service | None = None
        self._tenant: Tenant | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._drop()

    def play(self, name: str) -> Report:
        """All rounds of an attack; none after one in which a job is missing or the daemon died.

        A row that misses nothing but the ratio, and is CLOSE, is played for MORE rounds, and
        judged by all. So is one that is above its floor, and the floor with it.
        """
        began = time.monotonic()
        report = Report(name, ATTACKS[name])
        if self._service is not None:
            self._service.forget()
        self._scene.seen()
        for number in range(self._rounds + MORE):
            if number >= self._rounds and not report.close:
                break
            self._round(report, number)
            if report.missing or report.died:
                break
        if report.worse and not (report.attack.waits or report.missing or report.died):
            self._play_floor(report, self._rounds)
            if report.slow:
                for number in range(self._rounds + MORE, self._rounds + 2 * MORE):
                    self._round(report, number)
                self._play_floor(report, MORE)
        report.site = self._scene.seen()
        report.seconds = time.monotonic() - began
        return report

    def _round(self, report: Report, number: int) -> None:
        service, tenant = self._fresh(report.attack)
        attacker = Attacker(self._scene, service, report.name, number)
        report.quiet.append(tenant.window(self._seconds))
        attacker.go()
        line = self._seconds if report.attack.limited else PATIENCE
        theirs = tenant.window(self._seconds, attacker, line=line)
        hold = service.longest(theirs.began, theirs.ended)
        report.held, report.held_at = max((report.held, report.held_at), hold)
        sent = attacker.end()
        span = theirs.ended - theirs.began
        theirs.due = PERMITTED * span * len(theirs.limited) / (len(theirs.limited) + sent)
        report.attacked.append(theirs)
        strangers = self._scene.strangers()
        kinds = tenant.tally(sent - sum(strangers.values()), CALM)
        kinds["to another team"] = sum(strangers.values())
        report.kinds += kinds
        if left := max(0, sent - kinds.total()):
            report.kinds["no result yet"] += left
        report.peak = max(report.peak, service.peak)
        report.died += service.died
        report.strangers = {k: n + report.strangers.get(k, 0) for k, n in strangers.items()}
        if left or theirs.missing or service.died:
            self._drop()

    def _play_floor(self, report: Report, rounds: int) -> None:
        """The same attack beside a consumer that only answers, under a prefix of its own."""
        self._drop()
        service, tenant = self._fresh(report.attack)
        service.replace_by_floor(report.attack.answer)
        tenant.until_consumed()
        for _ in range(rounds):
            number = FLOORS + len(report.floor)
            attacker = Attacker(self._scene, service, report.name, number)
            tenant.window(self._seconds)
            attacker.go()
            report.floor.append(tenant.window(self._seconds, attacker))
            tenant.tally(attacker.end(), CALM)
        self._drop()

    def _fresh(self, attack: Attack) -> tuple[Service, Tenant]:
        """The daemon there is, or another; warm."""
        if self._service is None or self._tenant is None:
            self._prefixes += 1
            self._service = Service(self._scene, f"bench{self._prefixes}")
            self._tenant = Tenant(self._scene, self._service)
            self._tenant.window(WARM)
            self._tenant.tally(0, CALM)
        self._tenant.flaky = attack.flaky
        return self._service, self._tenant

    def _drop(self) -> None:
        if self._service is not None:
            self._service.kill()
            if self._tenant is not None:
                self._tenant.close()
            self._scene.remove(self._service.prefix)
        self._service = self._tenant = None


def main() -> None:
    """Play the rows; exit 1 if a goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tenants", description=__doc__)
    parser.add_argument("--list", action="store_true", help="say what each row does")
    parser.add_argument("--only", help="rows whose name begins with this; several by commas")
    parser.add_argument("--short", action="store_true", help="one row of each kind, one round")
    parser.add_argument("--release", default="", help="4 for RabbitMQ 4; else this machine's")
    parser.add_argument("--keep", type=Path, help="a folder for the daemons' logs")
    options = parser.parse_args()
    if options.list:
        print("\n".join(f"{name:20} {attack.what}" for name, attack in ATTACKS.items()))
        return
    wanted = tuple((options.only or "").split(","))
    names = [name for name in ATTACKS if name.startswith(wanted)]
    if not names:
        sys.exit(f"no row begins with {options.only}; see --list")
    if options.short and not options.only:
        names = [name for name in names if ATTACKS[name].core]
    rounds, seconds = (1, 4.0) if options.short else (3, 3.5)
    if congestion_control() == "bbr":
        print("TCP sends by bbr: a connection of the broker pauses for 200 ms, once in ten seconds")
    started = time.monotonic()
    reports = []
    with Scene(options.release) as scene, kept(scene, options.keep):
        bench = Bench(scene, rounds, seconds)
        with bench:
            for name in names:
                reports.append(bench.play(name))
                show(reports[-1])
    print_table(reports, rounds, seconds)
    print(f"took {time.monotonic() - started:.0f} s; load average {os.getloadavg()[0]:.1f}")
    if bad := [report.name for report in reports if report.complaints()]:
        sys.exit(f"{len(bad)} of {len(reports)} rows missed their goal: {', '.join(bad)}")


@contextmanager
def kept(scene: Scene, folder: Path | None) -> Iterator[None]:
    """Keep the daemons' logs."""
    try:
        yield
    finally:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            for log in scene.stage.folder.glob("bench*.log"):
                shutil.copy(log, folder)


HEAD: Final = (
    *("attack", "p50 quiet", "p99 quiet", "p50 att.", "p99 att. ms", "times"),
    *("died", "missing", "held ms", "peak MiB", "took s", "good"),
)


def cells(report: Report) -> tuple[str, ...]:
    """A row of the table; the percentiles are of all rounds together."""
    mine = [t for window in report.quiet for t in window.judged(report.attack)]
    theirs = [t for window in report.attacked for t in window.judged(report.attack)]
    figures = [quantile(times, part) * 1e3 for times in (mine, theirs) for part in (50, 99)]
    return (
        report.name,
        *(f"{figure:,.0f}" for figure in figures),
        f"{report.ratio:,.1f}",
        str(report.died),
        str(report.missing),
        f"{report.held * 1e3:,.0f}{'!' if report.held > HELD else ''}",
        f"{report.peak:,.0f}",
        f"{report.seconds:.0f}",
        "NO" if report.complaints() else "shown" if report.attack.waits else "yes",
    )


def show(report: Report) -> None:
    """A row as it ended, in words."""
    print(f"\n{report.name}: {report.attack.what}")
    said = [f"{head} {cell}" for head, cell in zip(HEAD, cells(report), strict=True)]
    print(f"  {', '.join(said[1:])}")
    samples = sum(len(window.judged(report.attack)) for window in report.attacked)
    print(f"  {samples} honest jobs judged beside it; the attacker's: {dict(report.kinds)}")
    if report.attack.waits:
        print(f"  honest jobs wait {report.attack.waits}: the ratio is not judged")
    if report.floor:
        times = [t for window in report.floor for t in window.judged(report.attack)]
        theirs, floor = (
            [f"{quantile(window.judged(report.attack), 99) * 1e3:,.0f}" for window in windows]
            for windows in (report.attacked, report.floor)
        )
        print(f"  beside a consumer that only answers: p50 {quantile(times, 50) * 1e3:,.0f} ms, "
              f"p99 of the rounds {', '.join(floor)} ms; the daemon's {', '.join(theirs)}, in the "
              f"median {report.above_floor:.1f} times that (goal: {FLOOR:g} if it is not {WORSE:g} "
              "times the quiet one)")  # fmt: skip
    if report.attack.limited:
        here = sum(len(w.limited) - w.missing["limited"] for w in report.attacked)
        due = sum(window.due for window in report.attacked)
        print(f"  of the limited host the honest had {here} pages; in turn it would be {due:.0f}")
    if report.attack.flaky:
        for what, windows in (("quiet", report.quiet), ("attacked", report.attacked)):
            retried = [t for window in windows for t in window.retried]
            print(f"  with a retry, {what}: p50 {quantile(retried, 50):.1f} s, "
                  f"p99 {quantile(retried, 99):.1f} s of {len(retried)}")  # fmt: skip
    if report.held > HELD and report.held_at:
        print(f"  the loop was held at {report.held_at}")
    for complaint in report.complaints():
        print(f"  MISSED  {complaint}")
    sys.stdout.flush()


def print_table(reports: list[Report], rounds: int, seconds: float) -> None:
    """All rows."""
    table = [HEAD, *map(cells, reports)]
    widths = [max(len(row[column]) for row in table) for column in range(len(HEAD))]
    print(
        f"\n{RATE:g} honest jobs a second, {rounds} rounds of {seconds:g} s quiet and "
        f"{seconds:g} s attacked; percentiles in ms of all rounds together, `times` the median "
        f"of the rounds' own ratios (goal: at most {WORSE:g})"
    )
    for row in table:
        print("  ".join(cell.ljust(widths[0]) if not n else cell.rjust(widths[n])
                        for n, cell in enumerate(row)))  # fmt: skip


def peak_of(popen: subprocess.Popen[bytes]) -> float:
    """Peak resident memory in MiB, or 0 if it has just ended."""
    try:
        return Child(popen, Path()).peak_rss()
    except (OSError, RuntimeError):
        return 0.0


def quantile(times: list[float], percent: int) -> float:
    """A percentile."""
    return statistics.quantiles([*times, times[0]], n=100, method="inclusive")[percent - 1]


if __name__ == "__main__":
    main()
