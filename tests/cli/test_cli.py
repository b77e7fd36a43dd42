"""The commands as a user types them: what they print, how they end, and never a traceback.

May touch: the `scraperd` command as a subprocess, a private broker.
Must never: call a command's function directly.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from scraperd.broker.rabbitmq.topology import Topology
from scraperd.extract.compiled import engine
from tests.rig.brokers.users import User
from tests.rig.brokers.wire import Seen, Wire
from tests.rig.daemon import Daemon, variables
from tests.rig.ports import free_port
from tests.rig.process import Process

if TYPE_CHECKING:
    from tests.conftest import Command
    from tests.rig.brokers.node import Node
    from tests.rig.daemon import Dispatcher
    from tests.rig.sites.hostel import Hostel


def lines(text: str) -> list[dict[str, Any]]:
    """JSON lines as objects."""
    return [json.loads(line) for line in text.splitlines()]


def test_scrape_prints_the_result(scraperd: Command, hostel: Hostel) -> None:
    """No broker is needed: rules, includes and headers work, and the exit code is 0."""
    rules = '{"title": "h1"}'
    done = scraperd(
        "scrape", hostel.url("/page/1"), "--extract", rules, "--include", "metadata", "-H", "X-A: b"
    )
    assert done.returncode == 0
    result = json.loads(done.stdout)
    assert result["data"] == {"title": "A page"}
    assert result["metadata"] == {"title": "/page/1"}


def test_scrape_shows_a_redirect_and_does_not_follow(scraperd: Command, hostel: Hostel) -> None:
    """--no-follow is `follow_redirects: false`: the redirect is the result."""
    target = hostel.url("/page/1")
    done = scraperd("scrape", hostel.url(f"/to/{target}"), "--no-follow", "--include", "cookies")
    assert done.returncode == 0
    result = json.loads(done.stdout)
    assert (result["http_status"], result["redirect_url"], result["cookies"]) == (302, target, [])


def test_scrape_reads_rules_from_a_file(scraperd: Command, hostel: Hostel, tmp_path: Path) -> None:
    """--extract-file is --extract from a file, even from Windows; --compact is one line."""
    (tmp_path / "rules.json").write_text('{"t": "title"}\r\n', encoding="utf-8-sig")
    done = scraperd("scrape", hostel.url("/page/1"), "--extract-file", "rules.json", "--compact")
    assert lines(done.stdout)[0]["data"] == {"t": "/page/1"}


PAGE = "<title>Caf\xe9</title><p class=x>1<p class=x>2 <a href=next>n</a>"
RULES = """{"t": "title", "none": "h6",
 "p": {"selector": ".x", "type": "list", "output": {"n": {"output": "text", "cast": "int"}}}}"""


def test_scrape_takes_a_local_file(scraperd: Command, tmp_path: Path) -> None:
    """Rules are tried offline: the data as from the web, and how often each rule matched."""
    (tmp_path / "rules.json").write_text(RULES)
    (tmp_path / "page.html").write_bytes(PAGE.encode("latin-1"))
    done = scraperd(
        *("scrape", "page.html", "--extract-file", "rules.json", "--include", "links"),
        *("--base", "http://example.com/a/b"),
    )
    assert done.returncode == 0
    result = json.loads(done.stdout)
    assert result["data"] == {"t": "Café", "none": None, "p": [{"n": 1}, {"n": 2}]}
    assert result["links"] == [{"url": "http://example.com/a/next", "text": "n"}]
    assert result["content_type"] == "text/html"
    assert result["charset"] == "windows-1252"
    assert [line.split() for line in done.stderr.splitlines()] == [
        ["extract.t", "1", "match"],
        ["extract.none", "0", "matches"],
        ["extract.p", "2", "matches"],
        ["extract.p.output.n", "2", "matches"],
    ]


def test_scrape_reads_standard_input(scraperd: Command) -> None:
    """What it is shows from its content, or is said; JSON and feeds work as well."""
    done = scraperd("scrape", "-", "--extract", '{"t": "title"}', stdin=PAGE)
    assert json.loads(done.stdout)["data"] == {"t": "Café"}
    rule = '{"n": {"jmespath": "a[*].n", "type": "list"}}'
    done = scraperd("scrape", "-", "--extract", rule, stdin='{"a": [{"n": 1}, {"n": 2}]}')
    assert json.loads(done.stdout)["data"] == {"n": [1, 2]}
    done = scraperd("scrape", "-", "--media", "text/plain", "--extract", '{"t": "b"}', stdin="<b>")
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["message"] == "the response is text/plain, not HTML"


def test_scrape_says_which_rule_is_missing(scraperd: Command) -> None:
    """A required rule that finds nothing is a failed result, with the matches of the others."""
    rules = '{"t": "title", "x": {"selector": "h6", "required": true}}'
    done = scraperd("scrape", "-", "--extract", rules, stdin=PAGE)
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"] == {
        "kind": "extract",
        "message": "extract.x: required, and not in the page",
    }
    assert done.stderr.splitlines() == ["extract.t  1 match", "extract.x  0 matches"]


def test_a_url_s_matches_are_shown_too(scraperd: Command, hostel: Hostel) -> None:
    """The same on a page from the web."""
    done = scraperd("scrape", hostel.url("/page/1"), "--extract", '{"t": "h1", "x": "h6"}')
    assert done.stderr.splitlines() == ["extract.t  1 match", "extract.x  0 matches"]


def test_a_failed_page_exits_1(scraperd: Command, hostel: Hostel) -> None:
    """The result of a failure is printed all the same."""
    done = scraperd("scrape", hostel.url("/status/404"))
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["kind"] == "http_status"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["scrape", "ftp://x/"], "url: must start with http:// or https://"),
        (["scrape", "http://user:hunter2@x/"], "userinfo"),
        (["scrape", "http://x/", "--extract", "{"], "--extract: not JSON"),
        (
            ["scrape", "http://x/", "--extract", '{"a": ":x("}'],
            "extract.a.selector: not a CSS selector",
        ),
        (["scrape", "http://x/", "--extract-file", "nope.json"], "nope.json: can't be read"),
        (["scrape", "nope.html"], "nope.html: can't be read: No such file or directory"),
        (["scrape", "."], ".: can't be read: Is a directory"),
        (["scrape", "-", "-H", "A: b"], "--header is for a URL"),
        (["scrape", "-", "--no-follow"], "--no-follow is for a URL"),
        (["scrape", "http://x/", "--base", "http://y/"], "--base is for a FILE"),
        (["scrape", "http://x/", "--media", "text/html"], "--media is for a FILE"),
        (["scrape", "-", "--base", "ftp://y/"], "url: must start with http:// or https://"),
        (["scrape", "-", "--extract", "{}", "--extract-file", "x"], "exclude each other"),
        (["scrape", "http://x/", "-H", "Bad"], "--header: 'Bad' has no colon"),
        (["scrape", "http://x/", "-H", "A B: c"], "headers.A B: not a header name"),
        (["scrape", "http://x/", "-H", "A: b", "-H", "A: c"], "--header: 'A' is given twice"),
        (["scrape", "http://x/", "-H", "A: b", "-H", "a: c"], "headers.a: given twice: as A too"),
        (["publish", "nope.txt"], "nope.txt: can't be read"),
        (["publish", "-"], "no jobs given"),
        (["results", "--count", "-1"], "is not in the range x>=1"),
        (["publish", "http://x/", "--wait", "--wait-timeout", "-1"], "is not in the range x>=0"),
        (["publish", "http://x/", "--timeout", "0"], "is not in the range x>0"),
        (["publish", "http://x/", "--wait-timeout", "5"], "--wait-timeout goes with --wait"),
        (["publish", "http://x/", "--wait", "--reply-to", "q"], "leave out --reply-to"),
        (["publish", "http://x/", "--reply-to", "q" * 256], "a queue's name has 1 to 255 bytes"),
        (["publish", "http://x/", "--json", "{"], "--json: not JSON"),
        (["publish", "http://x/", "--form", "a"], "--form: 'a' has no equals sign"),
        (["publish", "http://x/", "--cookie", "a=1", "--cookie", "a=2"], "'a' is given twice"),
        (["publish", "http://x/", "http://y/", "--id", "a"], "given to more than one job"),
        (["publish", "http://x/", "--body", "a", "--json", "1"], "json: at most one of body"),
        (["results", "--idle", "0"], "is not in the range x>0"),
        (["dead", "list", "--json", "--table"], "--json and --table exclude each other"),
        (["scrape", "example.com"], "did you mean https://example.com?"),
        (["scrape", "www.example.co.uk/a?b=c"], "did you mean https://www.example.co.uk/a?b=c?"),
        (["scrape", "localhost:8000/"], "did you mean http://localhost:8000/?"),
        (["scrape", "127.0.0.1:8000"], "did you mean http://127.0.0.1:8000?"),
        (["publish", "example.com"], "did you mean https://example.com?"),
        (["batch", "example.com"], "did you mean https://example.com?"),
        (["frobnicate"], "No such command"),
        (["results", "--consume", "--key", "x"], "--key works on copies"),
    ],
    ids=lambda value: None if isinstance(value, str) else " ".join(value)[:40],
)
def test_wrong_usage_exits_2_in_words(scraperd: Command, args: list[str], words: str) -> None:
    """What a user can get wrong is one line that says what and where, and the exit code is 2."""
    done = scraperd(*args)
    assert done.returncode == 2
    assert words in done.stderr
    assert "hunter2" not in done.stderr


def test_all_that_is_wrong_with_a_url_is_said_at_once(scraperd: Command) -> None:
    """Scheme, userinfo, port and address; and of a name that is this machine, port and address."""
    closed = {"SCRAPERD_FETCH__ALLOW_PORTS": "[80, 443]", "SCRAPERD_FETCH__ALLOW_NETWORKS": "[]"}
    done = scraperd("scrape", "ftp://u:hunter2@10.0.0.1:21/", **closed)
    assert done.returncode == 2
    assert done.stderr == (
        "scraperd: job: url: must start with http:// or https://; userinfo (user:password@) is "
        "refused; send an Authorization header instead; port 21 is not among fetch.allow_ports; "
        "10.0.0.1 is not public and not among fetch.allow_networks\n"
    )
    done = scraperd("scrape", "http://localhost:8000/", **closed)
    assert json.loads(done.stdout)["error"]["message"] == (
        "port 8000 is not among fetch.allow_ports; none of its addresses is allowed "
        "(fetch.allow_networks, fetch.deny_networks)"
    )


@pytest.mark.parametrize(
    "url",
    [
        "http://h.example:" + "0" * 4300 + "80/",
        "http://[]@/",
        "http://u:hunter2@h.example/",
        "http://h.example/" + "x" * 8192,
        "http://\udcff/",
    ],
    ids=["port", "bracket", "password", "long", "not UTF-8"],
)
@pytest.mark.parametrize("command", ["publish", "scrape"])
def test_a_hostile_url_is_refused_in_a_line(scraperd: Command, command: str, url: str) -> None:
    """Exit code 2 and one short line, without a traceback or a password."""
    done = scraperd(command, url)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert len(done.stderr) < 300
    assert "hunter2" not in done.stderr


@pytest.mark.parametrize(
    ("port", "value"),
    [("0" * 4300 + "80", "http://h.example/"), ("9" * 4300, None)],
    ids=["zeros", "too large"],
)
def test_cast_url_of_a_hostile_port(
    scraperd: Command, tmp_path: Path, port: str, value: str | None
) -> None:
    """4,300 digits of a port are read as browsers read them: zeros in front, or no URL."""
    url = f"http://h.example:{port}/"
    (tmp_path / "page.html").write_text(f'<a title="{url}" href="{url}">x</a>')
    rules = {"t": {"selector": "a", "output": "@title", "cast": "url"}, "h": "a@href"}
    done = scraperd("scrape", "page.html", "--extract", json.dumps(rules))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["data"] == {"t": value, "h": value}


def test_publish_names_the_bad_line_and_sends_nothing(
    scraperd: Command, broker_url: str, prefix: str, dispatcher: Dispatcher, env: dict[str, str]
) -> None:
    """One bad line among good ones: it is named, and no job of the file is published."""
    with Daemon(broker_url, prefix).ready():
        pass
    text = '# a comment\nhttp://127.0.0.1:1/\n\n{"url": "http://x/", "ulr": 1}\n'
    done = scraperd("publish", "-", stdin=text, **env)
    assert done.returncode == 2
    assert "-:4: ulr: unknown field" in done.stderr
    assert dispatcher.depth("jobs") == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            '{"url": "http://x/", "extract": {"a": ":x("}}\n',
            "-:1: extract.a.selector: not a CSS selector",
        ),
        ('{"url": "http://x/", "id": "a"}\n' * 2, "id 'a' is given to more than one job"),
        (
            'http://x/\n{"url": "http://x/", "body": "%s"}\n' % ("x" * 524_288),
            "-:2: the job has 524320 bytes, more than 524288 (jobs.max_size)",
        ),
    ],
    ids=["rule", "twins", "size"],
)
def test_publish_checks_every_job_first(scraperd: Command, text: str, words: str) -> None:
    """A bad rule names its line, and two jobs of one id are refused, before a broker is asked."""
    done = scraperd("publish", "-", "--wait", stdin=text)
    assert done.returncode == 2
    assert words in done.stderr


def test_publish_and_wait(
    scraperd: Command, broker_url: str, dispatcher: Dispatcher, hostel: Hostel, env: dict[str, str]
) -> None:
    """URLs as arguments, and a file of URLs and jobs: each result comes back as a JSON line, none
    of them through the shared results queue; a failed one makes the exit code 1.
    """
    job = json.dumps({"url": hostel.url("/page/2"), "id": "mine", "meta": 7})
    text = f"{hostel.url('/page/1')}\n{job}\n"
    with Daemon(broker_url, dispatcher.prefix).ready():
        done = scraperd("publish", "-", "--wait", "--wait-timeout", "30", stdin=text, **env)
        assert done.returncode == 0, done.stderr
        found = {result["url"]: result for result in lines(done.stdout)}
        assert found[hostel.url("/page/2")]["id"] == "mine"
        assert found[hostel.url("/page/2")]["meta"] == 7
        assert len(found) == 2
        args = [hostel.url("/status/404"), "--extract", '{"t": "title"}', "--wait"]
        assert scraperd("publish", *args, **env).returncode == 1
    assert dispatcher.depth("results") == 0


def test_publish_needs_few_permissions(
    scraperd: Command, node: Node, broker_url: str, prefix: str, dispatcher: Dispatcher
) -> None:
    """Write on the jobs exchange, and reply queues of the user's own: enough to publish and wait.
    Without them one line says what is missing.
    """
    with Daemon(broker_url, prefix).ready():
        pass
    own = rf"^{prefix}\.reply\.{prefix}\."
    user = User.add(node, prefix)
    user.permit(own, "^$", own)
    env = variables({"broker_url": user.url, "broker__prefix": prefix})
    denied = scraperd("publish", "http://a.example/", **env)
    assert denied.returncode == 1
    assert f"this user may not write to the exchange '{prefix}.jobs'" in denied.stderr
    assert dispatcher.depth("jobs") == 0
    user.permit(own, rf"^{prefix}\.jobs$", own)
    done = scraperd("publish", "http://a.example/", "--wait", "--wait-timeout", "0.5", **env)
    assert "1 results missing" in done.stderr
    for refused in (("results", "--consume"), ("results",)):
        done = scraperd(*refused, **env)
        assert done.returncode == 1
        assert "this user may not do that" in done.stderr
        assert "lost the broker" not in done.stderr
    assert dispatcher.depth("jobs") == 1


def test_publish_gives_up_waiting(
    scraperd: Command, broker_url: str, dispatcher: Dispatcher, hostel: Hostel, env: dict[str, str]
) -> None:
    """With nobody to scrape, --timeout ends the wait, says how many are missing, and exits 1."""
    with Daemon(broker_url, dispatcher.prefix).ready():
        pass
    done = scraperd("publish", hostel.url("/page/1"), "--wait", "--wait-timeout", "0.5", **env)
    assert done.returncode == 1
    assert "1 results missing after 0.5 s" in done.stderr
    assert dispatcher.depth("jobs") == 1


def test_publish_says_how_far_it_came(
    node: Node, broker_url: str, prefix: str, dispatcher: Dispatcher
) -> None:
    """The connection is cut amid 5,000 jobs: one line says so, one how many the broker has."""
    with Daemon(broker_url, prefix).ready():
        pass
    published = itertools.count()

    def at_the_300th(seen: Seen) -> int | None:
        return seen.connection if seen.name == "Basic.Publish" and next(published) == 300 else None

    with Wire(node.port) as wire:
        wire.cut_when = at_the_300th
        env = variables({"broker_url": wire.url, "broker__prefix": prefix})
        urls = "".join(f"http://127.0.0.1:1/{n}\n" for n in range(5000))
        command = [sys.executable, "-m", "scraperd", "publish", "-"]
        done = subprocess.run(
            command,
            input=urls,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    said, lost = done.stderr.splitlines()
    assert lost.startswith("scraperd: lost the broker at amqp://127.0.0.1")
    assert int(said.split()[1]) <= dispatcher.depth("jobs") <= 301


def test_results_tails_copies(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel, env: dict[str, str]
) -> None:
    """`results` shows what comes by and by and takes nothing; --key picks."""
    command = [sys.executable, "-m", "scraperd", "results", "--key", "failed.#", "--count", "1"]
    with Daemon(broker_url, prefix).ready(), Process(command, env=env) as tail:
        tail.wait_for_line("copies of new results")
        dispatcher.publish({"url": hostel.url("/page/1"), "id": "good"})
        dispatcher.publish({"url": hostel.url("/status/404"), "id": "bad"})
        assert tail.wait() == 0
        assert [line["id"] for line in lines(tail.stdout)] == ["bad"]
        assert sorted(result["id"] for result in dispatcher.results(2)) == ["bad", "good"]


def test_results_consumes_when_asked(
    scraperd: Command, broker_url: str, dispatcher: Dispatcher, hostel: Hostel, env: dict[str, str]
) -> None:
    """--consume takes results off the queue: as many as --count says, and no more."""
    with Daemon(broker_url, dispatcher.prefix).ready() as daemon:
        dispatcher.publish_many([hostel.url(f"/page/{n}") for n in range(3)])
        hostel.wait_for(lambda hits: len(hits) == 3)
        assert daemon.drain() == 0  # and with it three results are in the queue
    done = scraperd("results", "--consume", "--count", "2", **env)
    assert done.returncode == 0
    assert len(lines(done.stdout)) == 2
    assert dispatcher.depth("results") == 1


def test_check_says_what_is_there(
    scraperd: Command, broker_url: str, prefix: str, dispatcher: Dispatcher, env: dict[str, str]
) -> None:
    """Before the first start the queues are missing and that is fine; then they are counted."""
    done = scraperd("check", **env)
    assert done.returncode == 0
    assert f"queue {prefix}.jobs: does not exist; the daemon will create it" in done.stdout
    assert "guest" not in done.stdout
    size = 512 if engine.AVAILABLE else 32
    assert f"; pages of up to {size} KiB are searched on the event loop" in done.stdout
    with Daemon(broker_url, prefix).ready():
        dispatcher.depth("jobs")
        said = scraperd("check", **env).stdout
        assert f"queue {prefix}.jobs: 0 messages, 1 consumers" in said
        assert f"queues {prefix}.delay.*: 0 messages wait for a turn or a retry" in said


def test_check_warns_of_a_broker_that_is_known_to_be_hit(
    scraperd: Command, node: Node, env: dict[str, str]
) -> None:
    """The version, what can happen and what to do are a line; it is no reason to fail."""
    done = scraperd("check", **env)
    said = f"scraperd: RabbitMQ {'.'.join(map(str, node.version))}: one message"
    assert (said in done.stderr) == (node.version < (4, 0))
    assert done.returncode == 0


def test_check_says_where_the_signing_key_comes_from(
    scraperd: Command, prefix: str, tmp_path: Path, env: dict[str, str]
) -> None:
    """And who else can read it, but never the key; and which patterns allow nothing. Without its
    key neither it nor the daemon starts.
    """
    file = tmp_path / "keys"
    file.write_text("sesame-" * 9)
    file.chmod(0o644)
    assert "signing key: made from user and password" in scraperd("check", **env).stdout
    env |= {
        "SCRAPERD_JOBS__SIGNING_KEY_FILE": str(file),
        "SCRAPERD_BROKER__ALLOW_REPLY_TO": f'["a*", "{prefix}.dead", "b.jobs"]',
    }
    done = scraperd("check", **env)
    assert done.returncode == 0
    assert f"signing key: the first of 1 in {file}\n" in done.stdout
    assert f"{file} can be read by every user of this machine" in done.stderr
    assert f"broker.allow_reply_to: no result is ever sent to {prefix}.dead\n" in done.stderr
    assert "sent to b.jobs\n" in done.stderr
    assert "sent to a*" not in done.stderr
    assert "sesame" not in done.stdout + done.stderr
    file.write_text("sesame")
    for command in ("check", "run"):
        done = scraperd(command, **env)
        assert done.returncode == 78
        assert done.stderr.startswith(
            f"scraperd: jobs.signing_key_file: line 1 of {file} has 6 bytes"
        )
        assert "sesame" not in done.stdout + done.stderr


def test_check_compares_what_is_there(
    scraperd: Command, prefix: str, dispatcher: Dispatcher, env: dict[str, str]
) -> None:
    """A queue that the daemon would refuse is refused here, and one that it would use in spite of
    a difference is named; nothing is created.
    """
    declare = dispatcher.channel.queue_declare
    declare(f"{prefix}.results", durable=True, arguments={"x-queue-type": "quorum"})
    done = scraperd("check", **env)
    assert done.returncode == 1
    assert f"queue '{prefix}.results' exists with x-overflow = nothing" in done.stderr
    dispatcher.channel.queue_delete(f"{prefix}.results")
    declare(
        f"{prefix}.dead",
        durable=True,
        arguments={"x-queue-type": "quorum", "x-overflow": "reject-publish"},
    )
    done = scraperd("check", **env)
    assert done.returncode == 0
    assert f"queue '{prefix}.dead' exists with x-delivery-limit = nothing" in done.stderr
    assert f"queue {prefix}.jobs: does not exist" in done.stdout
    earlier = {
        queue.name: queue.arguments | queue.earlier
        for queue in Topology(prefix).queues
        if queue.earlier
    }
    declare(f"{prefix}.jobs", durable=True, arguments=earlier[f"{prefix}.jobs"])
    done = scraperd("check", **env)
    assert done.returncode == 0
    has = f"x-dead-letter-routing-key = {prefix}.dead and x-dead-letter-strategy = at-least-once"
    assert f"queue '{prefix}.jobs' exists with {has}" in done.stderr


def test_check_without_a_broker_exits_1(scraperd: Command) -> None:
    """An unreachable broker is one line that names it, without its password."""
    url = f"amqp://guest:hunter2@127.0.0.1:{free_port()}/"
    done = scraperd("check", SCRAPERD_BROKER_URL=url)
    assert done.returncode == 1
    assert done.stderr.startswith("scraperd: no broker at amqp://127.0.0.1:")
    assert len(done.stderr.splitlines()) == 1
    assert "hunter2" not in done.stdout + done.stderr


@pytest.mark.parametrize("command", [["schema", "job"], ["dead", "--help"], ["--version"]])
def test_a_full_disk_behind_the_output_is_one_line(command: list[str]) -> None:
    """Not a traceback, and not a success."""
    with Path("/dev/full").open("w") as full:
        argv = [sys.executable, "-m", "scraperd", *command]
        done = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    said = "scraperd: standard output can't be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_check_is_content_with_one_broker_of_several(
    scraperd: Command, broker_url: str, prefix: str
) -> None:
    """As the daemon is. Those that don't answer, or refuse the password, are named in words."""
    host = broker_url.partition("@")[2]
    wrong = f"amqp://guest:hunter2@{host}"
    urls = json.dumps([f"amqp://127.0.0.1:{free_port()}/", broker_url, wrong])
    done = scraperd("check", SCRAPERD_BROKER_URL=urls, SCRAPERD_BROKER__PREFIX=prefix)
    assert done.returncode == 0
    assert f"broker: reached amqp://{host}" in done.stdout
    first, second = (line for line in done.stderr.splitlines() if "scraperd: RabbitMQ" not in line)
    assert first.startswith("scraperd: no broker at amqp://127.0.0.1:")
    assert second.endswith("the broker refused the user name or the password of broker_url")
    assert "hunter2" not in done.stdout + done.stderr


def test_publish_says_that_the_broker_takes_nothing(
    scraperd: Command, broker_url: str, prefix: str, node: Node, env: dict[str, str]
) -> None:
    """Under an alarm it ends after confirm_timeout, in words, instead of waiting without any."""
    with Daemon(broker_url, prefix).ready():
        pass
    node.alarm_memory()
    try:
        done = scraperd("publish", "http://a.example/", SCRAPERD_BROKER__CONFIRM_TIMEOUT="1", **env)
    finally:
        node.clear_alarms()
    assert done.returncode == 1
    assert "no confirm within 1 s; does the broker hold publishers back" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["run", "check", "scrape http://x/", "publish http://x/"])
def test_a_bad_configuration_exits_78(scraperd: Command, tmp_path: Path, command: str) -> None:
    """Every fault at once, a line each, and the exit code that systemd does not restart."""
    (tmp_path / "bad.toml").write_text('concurency = 5\nprefix = "a b"\n')
    name, *rest = command.split()
    done = scraperd(name, "--config", "bad.toml", *rest, SCRAPERD_BROKER__HEARTBEAT="soon")
    assert done.returncode == 78
    assert "did you mean 'concurrency'?" in done.stderr
    assert len(done.stderr.splitlines()) == 3


def test_a_configuration_that_is_not_there_exits_78(scraperd: Command) -> None:
    """Wrong configuration has one exit code, whatever is wrong with it."""
    done = scraperd("run", "--config", "nope.toml")
    assert done.returncode == 78
    assert done.stderr == "scraperd: nope.toml: can't be read: No such file or directory\n"


def test_a_closed_pipe_is_quiet(scraperd: Command, tmp_path: Path) -> None:
    """`scraperd ... | head` ends without a traceback when the reader leaves."""
    command = f"{sys.executable} -m scraperd schema config | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("what", ["job", "result", "config"])
def test_schemas_are_valid(scraperd: Command, what: str) -> None:
    """What `schema` prints is a JSON Schema by its own metaschema."""
    import jsonschema

    schema = json.loads(scraperd("schema", what).stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$defs"]


def test_the_example_configuration_is_accepted(scraperd: Command, tmp_path: Path) -> None:
    """`schema example` prints a file that `check` takes, as far as the broker."""
    (tmp_path / "example.toml").write_text(scraperd("schema", "example").stdout)
    url = f"amqp://127.0.0.1:{free_port()}/"
    done = scraperd("check", "--config", "example.toml", SCRAPERD_BROKER_URL=url)
    assert "configuration: good (example.toml)" in done.stdout


@pytest.mark.parametrize(
    "command",
    [
        *("", "run", "check", "scrape", "publish", "results", "schema"),
        *("dead", "dead list", "dead show", "dead requeue", "dead purge"),
    ],
)
def test_help_tells_the_exit_codes(scraperd: Command, command: str) -> None:
    """Each command explains itself and how it ends."""
    done = scraperd(*command.split(), "--help")
    assert done.returncode == 0
    assert "Exit codes: 0 done" in done.stdout
    assert "--help" in done.stdout
