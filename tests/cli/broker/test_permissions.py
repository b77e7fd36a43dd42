"""The permissions that docs/operations/queues.md lists are enough for each command, and needed.

May touch: users of their own on the private broker, the commands as a user types them.
Must never: repeat the table of the document; it is read from there.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.rig.brokers.users import User
from tests.rig.daemon import Daemon, until, variables
from tests.server.running import Gateway, following

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Command
    from tests.rig.brokers.node import Node
    from tests.rig.daemon import Dispatcher
    from tests.rig.sites.hostel import Hostel

QUEUES = Path(__file__).parents[3] / "docs/operations/queues.md"
DAEMON = "the daemon"
TOKEN = "admin-0123456789abcdef"
PASSIVE = "the daemon with `broker.passive_declare`"


def documented(prefix: str) -> dict[str, list[str]]:
    """Configure, write and read of each kind of user, for the queues of this prefix."""
    text = QUEUES.read_text().partition("## Permissions")[2].partition("\n\n- ")[0]
    found = {}
    for row in re.findall(r"^\| (.*) \|$", text, re.MULTILINE):
        kind, *cells = re.split(r"(?<!\\) \| ", row)
        if cells[0] in ("configure", "---"):
            continue
        found[kind] = [
            "^$" if cell == "nothing" else cell.strip("`").replace("\\|", "|") for cell in cells
        ]
    assert all(len(cells) == 3 for cells in found.values())
    return {
        kind: [cell.replace("scraperd", re.escape(prefix)) for cell in cells]
        for kind, cells in found.items()
    }


@pytest.fixture
def user(node: Node, broker_url: str, prefix: str) -> Iterator[User]:
    """A user of the node, who may do nothing yet."""
    assert broker_url
    user = User.add(node, f"u-{prefix}")
    yield user
    user.delete()


def env_of(user: User, prefix: str, **settings: Any) -> dict[str, str]:
    """The variables that make a command this user's."""
    return variables({"broker_url": user.url, "broker__prefix": prefix, **settings})


def test_the_document_lists_each_kind_of_user() -> None:
    """The table is found, with the daemon and those who run one command."""
    kinds = documented("scraperd")
    assert kinds[DAEMON] == [r"^scraperd\.", r"^scraperd\.|^amq\.default$", r"^scraperd\."]
    assert len(kinds) == 9


def run_all(scraperd: Command, url: str, env: dict[str, str]) -> None:
    """Run each command that asks the broker, with a page that is there."""
    assert scraperd("publish", url, **env).returncode == 0
    waited = scraperd("publish", url, "--wait", "--wait-timeout", "30", **env)
    assert (waited.returncode, waited.stdout.count("\n")) == (0, 1), waited.stderr
    for args in (
        *("results --idle 0.5", "results --consume --idle 0.5", "dead list", "dead show --all"),
        *("dead requeue --all", "dead purge --all --yes", "dead purge --undeliverable --dry-run"),
        *("check", "status", "status --capacity", "host a.example"),
    ):
        done = scraperd(*args.split(), **env)
        assert (args, done.returncode, done.stderr.count("lacks")) == (args, 0, 0), done.stderr


def test_with_the_daemon_s_permissions_each_command_works(
    scraperd: Command, user: User, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """Before the first start and beside a daemon, also with queues that must be there already."""
    env = env_of(user, prefix)
    user.permit(*documented(prefix)[DAEMON])
    assert scraperd("check", **env).returncode == 0
    with Daemon(user.url, prefix).ready():
        until(lambda: scraperd("status", **env).returncode == 0, "it answers")
        dispatcher.publish(b"not a job")
        run_all(scraperd, hostel.url("/page/1"), env)
    user.permit(*documented(prefix)[PASSIVE])
    passive = env_of(user, prefix, broker__passive_declare=True)
    with Daemon(user.url, prefix, broker__passive_declare=True).ready():
        done = scraperd("check", **passive)
    assert (done.returncode, done.stdout.count(": does not exist")) == (0, 0), done.stderr


def test_with_permissions_for_one_command_that_command_works(
    scraperd: Command, user: User, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """Each row of the document that names commands is enough for those, and for no other.

    Who reads copies may read the results queue as well: it is named like its exchange.
    That of who sets rules is proven in tests/e2e/control: rules need the fleet's key too.
    """
    env, page = env_of(user, prefix), hostel.url("/page/1")
    commands = {
        "publish": [["publish", page], ["publish", page, "--wait"]],
        "results": [["results", "--idle", "0.5"]],
        "results --consume": [["results", "--consume", "--idle", "0.5"]],
        "status": [["status"], ["status", "--capacity"], ["host", "a.example"]],
        "dead": [
            *(["dead", "list"], ["dead", "show", "--all"], ["dead", "requeue", "--all"]),
            *(["dead", "purge", "--all", "--yes"], ["dead", "purge", "--undeliverable", "--yes"]),
        ],
    }
    rows = {
        re.findall(r"`scraperd ([a-z -]+)`", kind)[0]: cells
        for kind, cells in documented(prefix).items()
        if "`scraperd " in kind and "`scraperd cancel`" not in kind
    }
    assert rows.keys() == commands.keys()
    with Daemon(user.node.url, prefix).ready():
        dispatcher.publish(b"not a job")
        until(lambda: dispatcher.depth("dead") == 1)
        own = variables({"broker_url": user.node.url, "broker__prefix": prefix})
        until(lambda: scraperd("status", **own).returncode == 0, "it answers")
        for name, permissions in rows.items():
            user.permit(*permissions)
            for other, lines in commands.items():
                for args in lines if other == name else lines[:1]:
                    done = scraperd(*args, **env)
                    fails = other != name and (name, other) != ("results", "results --consume")
                    assert (name, args, done.returncode) == (name, args, fails), done.stderr


def test_a_gateway_needs_its_row_for_its_dashboard(  # noqa: PLR0917 - fixtures
    user: User,
    prefix: str,
    dispatcher: Dispatcher,
    hostel: Hostel,
    tmp_path: Path,
    callback_queues: None,
) -> None:
    """With it fleet, results and dead letters are shown and requeued; with the permissions of a
    publisher of jobs the page says what is missing.
    """
    del callback_queues
    (tmp_path / "tokens").write_text(f"admin admin {TOKEN}\n")
    rows = documented(prefix)
    (gateways,) = [cells for kind, cells in rows.items() if kind.startswith("a gateway")]
    (publishers,) = [cells for kind, cells in rows.items() if kind.startswith("a publisher")]
    calls_back = {"callbacks__allow_urls": True, "callbacks__concurrency": 0}
    settings = {"http__tokens_file": str(tmp_path / "tokens"), **calls_back}
    user.permit(*gateways)
    with Daemon(user.node.url, prefix, **calls_back).ready():
        dispatcher.publish(b"not a job")
        until(lambda: dispatcher.depth("dead") == 1)
        with (
            Gateway(user.url, prefix, **settings) as gateway,
            following(gateway.listening(), TOKEN) as events,
        ):
            while not (events.next()["fleet"] or {}).get("answer"):
                pass
            dispatcher.publish({"url": hostel.url("/page/1"), "id": "seen"})
            while not (told := events.next())["results"]:
                assert told["faults"] == {}
            assert told["results"][0]["id"] == "seen"
            done = {"all": True, "expected": 1}
            got = gateway.ask("POST", "/v1/dead/requeue", done, token=TOKEN)
            assert (got.status, got.json["done"]) == (200, 1)
            for path in ("/v1/callbacks/dead", "/v1/config/daemons"):
                assert gateway.ask("GET", path, token=TOKEN).status == 200
        user.permit(*publishers)
        with (
            Gateway(user.url, prefix, **settings) as gateway,
            following(gateway.listening(), TOKEN) as events,
        ):
            assert f"write on the exchange '{prefix}.ask'" in events.next()["faults"]["fleet"]
            got = gateway.ask("GET", "/v1/dead", token=TOKEN)
            assert (got.status, f"'{prefix}.dead'" in got.json["detail"]) == (503, True), got.body


@pytest.mark.parametrize(
    ("place", "pattern", "lack"),
    [
        (0, r"^PREFIX\.(?!dead$)", "configure on 'PREFIX.dead'"),
        (0, r"^PREFIX\.(?!delay)", "configure on 'PREFIX.delay.1', 'PREFIX.delay.2', "),
        (0, r"^PREFIX\.(?!results$)", "configure on 'PREFIX.results'"),
        (1, r"^PREFIX\.", "write on 'amq.default'"),
        (1, r"^PREFIX\.(?!results$)|^amq\.default$", "write on 'PREFIX.results'"),
        (2, r"^PREFIX\.(?!jobs$)", "read on 'PREFIX.jobs'"),
        (2, r"^PREFIX\.(?!quarantine.solo)", "read on 'PREFIX.quarantine.solo'"),
        (2, r"^PREFIX\.(?!undelivered)", "read on 'PREFIX.undelivered'"),
    ],
    ids=["dead", "delays", "results", "default", "outcomes", "jobs", "solo", "undelivered"],
)
@pytest.mark.parametrize("there", [False, True], ids=["no queues", "queues"])
def test_check_names_each_permission_that_lacks(  # noqa: PLR0917 - fixtures and cases
    scraperd: Command,
    user: User,
    prefix: str,
    dispatcher: Dispatcher,
    place: int,
    pattern: str,
    lack: str,
    there: bool,  # noqa: FBT001 - a case
) -> None:
    """Whether the queues exist or not: in one line, with the command that grants all of them.

    The broker has the queues, exchanges and messages that it had before.
    """
    if there:
        with Daemon(user.node.url, prefix).ready():
            pass
        dispatcher.publish({"url": "http://a.example/"})
    permissions = documented(prefix)[DAEMON]
    permissions[place] = pattern.replace("PREFIX", prefix)
    user.permit(*permissions)
    before = user.node.eval("length(rabbit_amqqueue:list())")
    done = scraperd("check", **env_of(user, prefix))
    assert done.returncode == 1
    (line,) = (line for line in done.stderr.splitlines() if "lacks" in line)
    assert f"the user '{user.name}' lacks " in line
    assert lack.replace("PREFIX", prefix) in line
    assert f"rabbitmqctl set_permissions -p / {user.name} " in line
    assert user.node.eval("length(rabbit_amqqueue:list())") == before
    if there:
        assert_untouched(dispatcher)


@pytest.mark.parametrize(
    ("place", "pattern", "lack"),
    [
        (0, r"^PREFIX\.(?!ask$)", "configure on 'PREFIX.ask'"),
        (0, r"^PREFIX\.(?!ask\.)", "configure on 'PREFIX.ask.RANDOM'"),
        (1, r"^PREFIX\.(?!ask)|^amq\.default$",
         "write and read (to bind) on 'PREFIX.ask.RANDOM'"),
        (2, r"^PREFIX\.(?!ask$)", "write and read (to bind) on 'PREFIX.ask.RANDOM'"),
        (2, r"^PREFIX\.(?!ask\.)", "read on 'PREFIX.ask.RANDOM'"),
    ],
    ids=["exchange", "queue", "write", "bind", "read"],
)  # fmt: skip
def test_check_warns_of_what_answers_lack(  # noqa: PLR0917 - fixtures and cases
    scraperd: Command, user: User, prefix: str, place: int, pattern: str, lack: str
) -> None:
    """As the daemon does: both work on, and name the command that grants what lacks.

    Check creates nothing, and with broker.answer_status = false it asks for none of that.
    """
    permissions = documented(prefix)[DAEMON]
    permissions[place] = pattern.replace("PREFIX", prefix)
    user.permit(*permissions)
    before = user.node.eval("{length(rabbit_amqqueue:list()), length(rabbit_exchange:list())}")
    done = scraperd("check", **env_of(user, prefix))
    after = user.node.eval("{length(rabbit_amqqueue:list()), length(rabbit_exchange:list())}")
    assert (done.returncode, after) == (0, before), done.stderr
    (line,) = unanswered(done.stderr)
    assert f"the user '{user.name}' lacks {lack.replace('PREFIX', prefix)} in the vhost" in line
    with Daemon(user.url, prefix).ready() as daemon:
        daemon.wait_for_line('"event":"status_unanswered"')
        assert granted(daemon.logged("status_unanswered")[0]["error"]) == granted(line)
    silent = scraperd("check", **env_of(user, prefix, broker__answer_status=False))
    assert (silent.returncode, unanswered(silent.stderr)) == (0, []), silent.stderr
    user.permit(*granted(line))
    assert unanswered(scraperd("check", **env_of(user, prefix)).stderr) == []


def test_a_daemon_that_declares_nothing_is_told_what_answers_take(
    scraperd: Command, user: User, prefix: str, dispatcher: Dispatcher
) -> None:
    """First a permission for its own queue and for no other, then an exchange to be made."""
    with Daemon(user.node.url, prefix, broker__answer_status=False).ready():
        pass
    user.permit(*documented(prefix)[PASSIVE])
    env = env_of(user, prefix, broker__passive_declare=True)
    (line,) = unanswered(scraperd("check", **env).stderr)
    assert f"lacks configure on '{prefix}.ask.RANDOM' in the vhost" in line
    configure, *others = granted(line)
    assert [configure, *others] == [rf"^{prefix}\.ask", *documented(prefix)[PASSIVE][1:]]
    user.permit(configure, *others)
    done = scraperd("check", **env)
    (line,) = unanswered(done.stderr)
    assert done.returncode == 0
    assert f"exchange '{prefix}.ask' does not exist, and broker.passive_declare is set" in line
    with Daemon(user.url, prefix, broker__passive_declare=True).ready() as daemon:
        told = daemon.wait_for_line('"event":"status_unanswered"')
        assert f"exchange '{prefix}.ask' does not exist" in told
    dispatcher.channel.exchange_declare(f"{prefix}.ask", "fanout", durable=True)
    assert unanswered(scraperd("check", **env).stderr) == []
    with Daemon(user.url, prefix, broker__passive_declare=True).ready():
        own = env_of(User(user.node, "guest"), prefix)
        until(lambda: scraperd("status", **own).returncode == 0, "it answers")


def unanswered(stderr: str) -> list[str]:
    """The lines that say that a daemon would not answer."""
    return [line for line in stderr.splitlines() if "`scraperd status` gets no answer" in line]


def granted(line: str) -> list[str]:
    """The three patterns of the command in a line."""
    command = line.partition("To grant it: ")[2].partition(" (the broker: ")[0]
    return shlex.split(command)[5:]


def assert_untouched(dispatcher: Dispatcher) -> None:
    """The jobs queue has its one job, and that was never delivered."""
    assert dispatcher.depth("jobs") == 1
    method, properties, _ = dispatcher.channel.basic_get(f"{dispatcher.prefix}.jobs")
    assert method is not None
    assert not method.redelivered
    assert properties is not None
    assert (properties.headers or {}).get("x-delivery-count", 0) == 0
