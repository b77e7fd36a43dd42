"""The documents keep to the code: names, numbers and tables are compared, not trusted.

May touch: the documents and the code, to read.
Must never: run a server.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import get_args

import pytest
from yarl import URL

from scraperd.broker.rabbitmq.topology import CALLBACK_DELAYS, DELAYS, Topology
from scraperd.cli.main import main
from scraperd.config.load import load
from scraperd.config.names import SETTINGS, TABLES
from scraperd.config.settings import Config
from scraperd.config.tables import EndpointSettings, HostSettings
from scraperd.contract import Cookie, Include, Job, Kind, Link, Metadata, Method, Result, Timings
from scraperd.extract.rules import Bounds
from scraperd.fetch import connector, resolver
from scraperd.fetch.guard import Guard
from scraperd.jobs.unrun import MAX_SNOOZES
from scraperd.ops.events import EVENTS, FIELDS
from scraperd.politeness import robots, throttle
from scraperd.sandbox import extractor, pool
from scraperd.wiring import table_of
from tests.rig.checks import prose, quick
from tests.rig.checks.events import tables

CHECKOUT = Path(__file__).parents[1]
README = (CHECKOUT / "README.md").read_text()
CONTRACT = (CHECKOUT / "docs/contract.md").read_text()
QUEUES = (CHECKOUT / "docs/operations/queues.md").read_text()
OBSERVE = (CHECKOUT / "docs/operations/observe.md").read_text()
OPERATORS_PAGES = ("run", "observe", "queues", "politeness", "network", "tuning", "troubleshooting")
OPERATIONS = "\n".join(
    (CHECKOUT / f"docs/operations/{page}.md").read_text() for page in OPERATORS_PAGES
)
METRICS = (CHECKOUT / "docs/operations/metrics.md").read_text()
SECURITY = (CHECKOUT / "docs/security.md").read_text()
DEAD_LETTERS = (CHECKOUT / "docs/operations/dead-letters.md").read_text()
ARCHITECTURE = (CHECKOUT / "docs/architecture.md").read_text()
FAIRNESS = (CHECKOUT / "docs/decisions/0010-fairness.md").read_text()
LADDER = (CHECKOUT / "docs/decisions/0003-delay-ladder.md").read_text()
CHANGELOG = (CHECKOUT / "CHANGELOG.md").read_text()
SOURCES = {path: path.read_text() for path in (CHECKOUT / "scraperd").rglob("*.py")}
ALL_CODE = "\n".join(SOURCES.values())
DOCUMENTS = [*CHECKOUT.glob("*.md"), *(CHECKOUT / "docs").rglob("*.md")]


def section(text: str, heading: str) -> str:
    """What stands under a heading, up to the next one."""
    return text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]


def unwrapped(text: str) -> str:
    """`text` with each run of white space as one space."""
    return " ".join(text.split())


def toml_blocks(text: str) -> list[str]:
    """The indented blocks that hold a table of hosts."""
    blocks = re.findall(r"(?:^(?:    .*)?\n)+", text, re.MULTILINE)
    return [textwrap.dedent(block) for block in blocks if "[hosts." in block]


def first_cells(text: str) -> set[str]:
    """The names in backticks in the first column of the tables of `text`."""
    cells = re.findall(r"^\| (.*?) \|", text, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def test_every_job_field_is_documented() -> None:
    """The contract's table of a job has exactly the fields of the code."""
    assert first_cells(section(CONTRACT, "A job")) == set(Job.__struct_fields__)


def test_every_result_field_is_documented() -> None:
    """The contract's table of a result has exactly the fields of the code, and nested ones too."""
    text = section(CONTRACT, "A result")
    assert first_cells(text) == set(Result.__struct_fields__)
    nested = {*Link.__struct_fields__, *Metadata.__struct_fields__, *Timings.__struct_fields__}
    cookies = section(CONTRACT, "Carry a session on")
    assert first_cells(cookies) == set(Cookie.__struct_fields__)
    assert nested <= set(re.findall(r"[a-z_]+", text))


def test_every_failure_kind_is_documented() -> None:
    """Each kind has its row, and there is no row for a kind that is none."""
    assert first_cells(section(CONTRACT, "Failure kinds")) == set(get_args(Kind))


def test_choices_are_documented() -> None:
    """The methods, the includes and the bounds of the rules are the code's."""
    assert " ".join(get_args(Method)) in CONTRACT
    assert " ".join(f"`{name}`" for name in get_args(Include)) in CONTRACT
    most = Bounds()
    bounds = (
        f"At most {most.rules} rules, nested {most.depth} deep, selectors of {most.selector:,} "
        "characters"
    )
    assert bounds in unwrapped(CONTRACT)


def test_every_queue_is_documented() -> None:
    """The page on queues names each queue with its arguments, and the whole ladder."""
    for queue in Topology("scraperd", calls_back=True, tallies=True).queues:
        if ".delay." not in queue.name:
            [row] = re.findall(rf"^\| `{queue.name}` \| queue.*$", QUEUES, re.MULTILINE)
            for argument in queue.arguments:
                if argument not in ("x-queue-type", "x-dead-letter-routing-key"):
                    assert argument in row
    for tiers in (DELAYS, CALLBACK_DELAYS):
        assert f"for N = {' '.join(map(str, tiers))} " in QUEUES


def test_the_ladder_is_documented() -> None:
    """The tiers, where a retry's delay is explained and where it is decided."""
    tiers = ", ".join(map(str, DELAYS))
    assert f"next tier, in seconds: {tiers}." in unwrapped(CONTRACT)
    assert f"rounded up: {tiers} s." in unwrapped(LADDER)


def test_the_upgrade_names_the_tiers_that_came_and_went() -> None:
    """Who provisions queues reads which to create and which to delete."""
    former = {1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600}
    came, went = (
        ", ".join(map(str, sorted(s))) for s in (set(DELAYS) - former, former - {*DELAYS})
    )
    assert f"{came.replace(', 2500', ' and 2500')} seconds are new" in unwrapped(CHANGELOG)
    assert f"{went.replace(', 1800', ' and 1800')} are no longer used" in unwrapped(CHANGELOG)


@pytest.mark.parametrize("heading", tables())
def test_every_event_is_documented(heading: str) -> None:
    """The tables of events and fields are those of ops/events.py.

    `python -m tests.rig.checks.events` writes them.
    """
    assert (
        "".join(re.findall(r"^\|.*\n", section(OBSERVE, heading), re.MULTILINE))
        == tables()[heading]
    )


def test_settings_named_in_the_documents_exist() -> None:
    """A word in backticks that looks like a setting is one, or is known to be something else."""
    settings = set(SETTINGS)
    for variable in re.findall(r"SCRAPERD_([A-Z_]+)", README + OPERATIONS):
        known = settings | {"config", "service_host"}  # the last is no setting
        assert variable.lower().replace("__", ".") in known
    others = {
        *Job.__struct_fields__,
        *Result.__struct_fields__,
        *Cookie.__struct_fields__,
        *Timings.__struct_fields__,
        *get_args(Include),
        *HostSettings.__struct_fields__,
        *EndpointSettings.__struct_fields__,
        "delivery_mode",
        "reply_to",
        "message_id",
        "content_encoding",
        "app_id",
        "json_ld",
    }
    others |= {"correlation_id", "turn_of", "turn_in", "retry_after", *get_args(Kind)}
    others |= {
        "consumer_timeout",
        "frame_max",
        "max_message_size",
        "disk_free_limit",
        "delivery_limit",
    }  # RabbitMQ's
    others |= {*EVENTS, *FIELDS, "max_jobs"}  # of the log; why it drains
    others |= first_cells(METRICS)  # which tests/metrics compares with what the daemon serves
    for document in (README, CONTRACT, OPERATIONS, SECURITY, DEAD_LETTERS, CHANGELOG):
        named = re.findall(r"`([a-z]+_[a-z_]+)(?: = [^`]*)?`", document)
        assert set(named) <= settings | others
        tables = "|".join(TABLES)
        assert set(re.findall(rf"`((?:{tables})\.[a-z_]+)(?: = [^`]*)?`", document)) <= settings


def test_the_examples_of_tables_are_good(tmp_path: Path) -> None:
    """Each block of TOML in the documents is a configuration, and says what the text says."""
    for number, text in enumerate([*toml_blocks(README), *toml_blocks(OPERATIONS)]):
        file = tmp_path / f"{number}.toml"
        file.write_text(text)
        config = load(file, {})
        assert config.hosts
        assert config.proxies
    own = table_of(config).of("static.example.com")
    assert (own.concurrency, own.delay, own.proxy) == (16, 2.0, "")
    assert "has 16 at once, a delay of 2 s, and no proxy" in OPERATIONS
    variable = re.search(r"`SCRAPERD_HOSTS='(.*)'`", OPERATIONS)
    assert variable
    assert load(None, {"SCRAPERD_HOSTS": variable[1]}).hosts["*.example.com"].per_host_delay == 2


def test_the_example_of_a_local_site_closes_nothing() -> None:
    """With README's variables a site on this machine is open, and the web stays open."""
    found = dict(re.findall(r"(SCRAPERD_FETCH__[A-Z_]+)='([^']*)'", README))
    guard = Guard(load(None, found).fetch)
    for url in ("http://127.0.0.1:8000/", "http://example.com/", "https://example.com/"):
        assert guard.refuses(URL(url)) is None
    assert guard.refuses(URL("http://10.0.0.1:22/"))


def test_defaults_in_words_are_the_codes() -> None:
    """Ports, pace, memory and prefetch, where a sentence names their defaults."""
    config, text = Config(), unwrapped(OPERATIONS)
    *ports, last = map(str, config.fetch.allow_ports)
    for document in (OPERATIONS, CHANGELOG):
        assert f"ports {', '.join(ports)} and {last}" in unwrapped(document)
    assert f"not {', '.join(ports)} or {last}." in unwrapped(README)
    assert f"`politeness.per_host_concurrency` ({config.politeness.per_host_concurrency})" in text
    assert f"`politeness.per_host_delay` ({config.politeness.per_host_delay:g})" in text
    assert f"`politeness.max_crawl_delay`, {config.politeness.max_crawl_delay:g} s" in text
    assert f"`politeness.snooze_after` ({config.politeness.snooze_after:g} s)" in text
    assert f"({config.waiting_room} by default)" in text
    assert f"`fetch.memory_budget` ({config.fetch.memory_budget // 1024**2} MiB)" in text
    assert f"`sandbox.processes` ({config.sandbox.processes})" in text
    assert f"`sandbox.timeout` ({config.sandbox.timeout:g} s of CPU)" in text
    assert f"`sandbox.memory` ({config.sandbox.memory // 1024**3} GiB" in text
    assert f"longer than {extractor.QUICK:g} s" in text
    assert f"more than {pool.MAX_RETAINED_BYTES // 1024**2} MiB" in text
    first, second, last = extractor.NICE
    assert f"at nice {first}, {second} or {last}" in text
    least, most = (round(1000 * seconds) for seconds in extractor.SHORT)
    assert f"longer than {least} to {most} ms" in text
    assert (
        f"`politeness.per_address_concurrency` ({config.politeness.per_address_concurrency};"
        in text
    )
    assert f"`jobs.max_size` ({config.jobs.max_size // 1024} KiB)" in text
    assert f"have {config.jobs.max_size // 1024} KiB (`jobs.max_size`)" in unwrapped(CONTRACT)
    assert (
        f"`extract.max_selectors_length` ({config.extract.max_selectors_length:,} characters)"
        in text
    )
    assert config.prefetch_count == 2 * config.concurrency
    for name in HostSettings.__struct_fields__:
        assert re.search(rf"`(?:politeness|fetch)\.{name}`", text)


def test_limits_in_words_are_the_codes() -> None:
    """The numbers of the code that users are told."""
    text = unwrapped(OPERATIONS)
    assert f"At {MAX_SNOOZES:,} the job fails" in text
    assert f"After {MAX_SNOOZES:,} waits" in unwrapped(CONTRACT)
    assert f"snoozed {MAX_SNOOZES:,} times" in unwrapped(FAIRNESS)
    assert f"of more than {robots.MAX_BYTES // 1024} KiB" in text
    assert f"| {robots.BUSY_WAIT:g} s, or its Retry-After from {robots.FAULT_WAIT:g} s" in text
    assert f"| {robots.FAULT_WAIT:g} s |" in text
    assert robots.MAX_REDIRECTS == 5  # "followed for five hops"
    assert f"lookup ends after {3 * resolver.PATIENCE:g} s" in text
    assert f"TTL, from {resolver.MIN_TTL:g} s" in text
    assert f"not retried | {resolver.ABSENT_TTL:g} s" in text
    assert f"retried | {resolver.TROUBLE_TTL:g} s" in text
    assert f"a delay of {throttle.FIRST_DELAY:g} s that doubles" in text
    assert f"{throttle.SLOWER:g} times as many" in text
    assert f"buffer of {connector.RECEIVE_BUFFER // 1024} KiB" in text


def test_commands_named_in_the_readme_exist() -> None:
    """Every `make` target and `scraperd` command of the README is there, and none is left out."""
    makefile = (CHECKOUT / "Makefile").read_text()
    for target in re.findall(r"^    make ([a-z-]+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    commands = set(re.findall(r"^\| `scraperd ([a-z]+)", README, re.MULTILINE))
    assert commands == set(main.commands)


def test_files_named_in_the_architecture_exist() -> None:
    """The table of where things are lists every module once, and only those."""
    listed = re.findall(r"^\| `(.*?)` \|", section(ARCHITECTURE, "Where things are"), re.MULTILINE)
    package = CHECKOUT / "scraperd"
    files = [*SOURCES, *package.rglob("*.pyx")]
    modules = [str(path.relative_to(package)) for path in files if not path.stem.startswith("__")]
    assert sorted(listed) == sorted(modules)


def anchors(file: Path) -> set[str]:
    """The anchors of a page's headings, by the names that GitHub gives them."""
    headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_links_lead_somewhere(document: Path) -> None:
    """A link in a document names a file that is there, and a heading in that file."""
    for target, _, anchor in re.findall(r"\]\(([^)#]*)(#([^)]+))?\)", document.read_text()):
        if "://" not in target:
            file = document.parent / target if target else document
            assert file.exists(), target
            if anchor:
                assert anchor in anchors(file), f"{target}#{anchor}"


def test_every_page_is_in_the_index() -> None:
    """The index of the documents links to each page, so that no page is hidden."""
    docs = CHECKOUT / "docs"
    linked = set(re.findall(r"\]\(([^)#]+)", (docs / "README.md").read_text()))
    pages = {str(path.relative_to(docs)) for path in docs.rglob("*.md")}
    decisions = {page for page in pages if page.startswith("decisions/")}  # have their own index
    assert pages - decisions - linked == {"README.md"}


def test_pages_that_messages_name_exist() -> None:
    """Each page that the code names in a message or a comment is there."""
    for page in re.findall(r"docs/[a-z0-9/-]+\.md", ALL_CODE):
        assert (CHECKOUT / page).is_file(), page


def test_no_file_names_a_package_registry() -> None:
    """The pins install from whatever registry the machine is set up for."""
    hosts = re.compile("|".join(["pypi" + r"\.org", "python" + "hosted", "npmjs" + r"\.org"]))
    for path in [*CHECKOUT.glob("requirements/*"), *CHECKOUT.glob("*.toml"), *DOCUMENTS]:
        assert not hosts.search(path.read_text()), path


def test_every_decision_is_in_the_index() -> None:
    """The index of decisions has one row for each page, with a date and a status."""
    folder = CHECKOUT / "docs/decisions"
    rows = re.findall(
        r"^\| \[(\d+)\. .+\]\((\d{4})-(.+?\.md)\) \| \d{4}-\d\d-\d\d \| (?:holds|replaced by)",
        (folder / "README.md").read_text(),
        re.MULTILINE,
    )
    assert all(int(shown) == int(number) for shown, number, _ in rows)
    assert [f"{number}-{rest}" for _, number, rest in rows] == sorted(
        path.name for path in folder.glob("[0-9]*.md")
    )


def test_what_contributors_are_told_exists() -> None:
    """Each `make` target and each file in backticks of CONTRIBUTING is there."""
    text = (CHECKOUT / "CONTRIBUTING.md").read_text()
    makefile = (CHECKOUT / "Makefile").read_text()
    for target in re.findall(r"make ([a-z]+)", text):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for name in re.findall(r"(?:tests|scraperd|requirements|\.ci)/[\w./]*\w", text):
        assert (CHECKOUT / name).exists(), name
    for test in re.findall(r"(tests/[\w/]+\.py)::(\w+)", text):
        assert f"def {test[1]}(" in (CHECKOUT / test[0]).read_text(), test


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("The queue is none.", "'is none' is a banned phrase"),
        ("The daemon waits for\nthe broker.", "a sentence goes on in the next line"),
        ("The daemon waits. Then it works.", "2 sentences on one line"),
        ("- " + "a word " * 17, "a sentence of 34 words"),
        ("| a | whoever |", "'whoever' is a banned phrase"),
        ("`is none` and\n\n    is none\n", None),
        ("The daemon waits.\nThen it works:\n\n- now\n- later\n", None),
    ],
)
def test_the_check_of_prose_finds_what_it_bans(
    tmp_path: Path, text: str, fault: str | None
) -> None:
    """A fault in a page is found and named, and code is left alone."""
    page = tmp_path / "page.md"
    page.write_text(text)
    found = [what for _, what in prose.faults_of(page)]
    assert len(found) == (fault is not None)
    assert not fault or found[0].startswith(fault)


def test_what_make_quick_runs_starts_no_broker_by_itself() -> None:
    """A test outside the folders that `make quick` leaves out gets its broker by the fixture."""
    left_out = quick.WHOLE_SYSTEM | quick.PROCESSES
    for path in (CHECKOUT / "tests").rglob("test_*.py"):
        inside = path.relative_to(CHECKOUT / "tests").parts
        if not left_out.intersection(inside) and path.name != quick.SERVERS:
            assert not re.search(r"\b(?:Node|Cluster)\(|unshare\(", path.read_text()), path


def test_the_installation_is_that_of_the_unit() -> None:
    """Each command in the head of the unit is on the page on running, in the same order."""
    unit = (CHECKOUT / "systemd/scraperd.service").read_text()
    commands = re.findall(r"^#   (.+)$", unit, re.MULTILINE)
    page = (CHECKOUT / "docs/operations/run.md").read_text()
    assert commands
    assert [line for line in page.splitlines() if line.strip() in commands] == [
        f"    {command}" for command in commands
    ]
