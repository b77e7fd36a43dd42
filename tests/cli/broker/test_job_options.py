"""`scraperd publish` has an option for each field of a job, and publishes what the options say.

May touch: the commands as a user types them, a private broker.
Must never: list the fields of a job; the schema does.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Command
    from tests.rig.daemon import Dispatcher

URL = "http://a.example/"
COOKIES = [{"name": "s", "value": "1", "domain": "a.example"}]
# Of each field of a job: options, and what they make of it.
OPTIONS: dict[str, tuple[list[str], Any]] = {
    "url": ([], URL),
    "batch": (["--batch", '{"id": "b", "size": 2}'], {"id": "b", "size": 2}),
    "id": (["--id", "seven"], "seven"),
    "method": (["-X", "PUT"], "PUT"),
    "headers": (["-H", "X-A: b: c", "--header", "X-B:"], {"X-A": "b: c", "X-B": ""}),
    "cookies": (["--cookie", "a=b=c", "--cookie", "d="], {"a": "b=c", "d": ""}),
    "body": (["--body", "a body"], "a body"),
    "json": (["--json", '{"a": [1, null]}'], {"a": [1, None]}),
    "form": (["--form", "a=b c", "--form", "d="], {"a": "b c", "d": ""}),
    "extract": (["--extract", '{"t": "h1"}'], {"t": "h1"}),
    "include": (["--include", "links", "--include", "body"], ["links", "body"]),
    "timeout": (["--timeout", "2.5"], 2.5),
    "max_retries": (["--max-retries", "0"], 0),
    "max_body_size": (["--max-body-size", "1000"], 1000),
    "max_redirects": (["--max-redirects", "3"], 3),
    "follow_redirects": (["--no-follow"], False),
    "etag": (["--etag", '"abc"'], '"abc"'),
    "last_modified": (
        ["--last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"],
        "Sun, 06 Nov 1994 08:49:37 GMT",
    ),
    "proxy": (["--proxy", "office"], "office"),
    "callback_url": (["--callback-url", "https://c.example/h"], "https://c.example/h"),
    "callback": (["--callback", "billing"], "billing"),
    "expires_at": (["--expires-at", "2030-01-01T00:00:00Z"], "2030-01-01T00:00:00Z"),
    "meta": (["--meta", '{"page": 7}'], {"page": 7}),
}


@pytest.fixture
def jobs(dispatcher: Dispatcher) -> Dispatcher:
    """The jobs exchange and queue, without a daemon that would take the jobs."""
    name = f"{dispatcher.prefix}.jobs"
    dispatcher.channel.exchange_declare(name, "direct", durable=True)
    dispatcher.channel.queue_declare(name, durable=True, arguments={"x-queue-type": "quorum"})
    dispatcher.channel.queue_bind(name, name, name)
    return dispatcher


def test_each_field_of_a_job_has_an_option(
    scraperd: Command, jobs: Dispatcher, env: dict[str, str]
) -> None:
    """By the schema: a field that is added to the contract needs an option, and a line above."""
    fields = json.loads(scraperd("schema", "job").stdout)["$defs"]["Job"]["properties"]
    assert OPTIONS.keys() == fields.keys()
    for field, (args, value) in OPTIONS.items():
        done = scraperd("publish", URL, *args, **env)
        assert (field, done.returncode) == (field, 0), done.stderr
        job = json.loads(jobs.take("jobs")[1])
        assert (field, job.pop(field)) == (field, value)
        if field == "batch":
            assert job.pop("id")  # it needs one
        assert job.items() <= {"url": URL}.items()


def test_rules_and_cookies_come_from_files(
    scraperd: Command, jobs: Dispatcher, env: dict[str, str], tmp_path: Path
) -> None:
    """--extract-file and --cookies-file, and --reply-to as the message's own reply_to."""
    (tmp_path / "rules.json").write_text('{"t": "h1"}')
    (tmp_path / "cookies.json").write_text(json.dumps(COOKIES))
    args = ["--extract-file", "rules.json", "--cookies-file", "cookies.json", "--reply-to", "mine"]
    done = scraperd("publish", URL, *args, **env)
    assert done.returncode == 0, done.stderr
    properties, body = jobs.take("jobs")
    assert json.loads(body) == {"url": URL, "extract": {"t": "h1"}, "cookies": COOKIES}
    assert properties.reply_to == "mine"


def test_a_job_in_json_keeps_its_own_fields(
    scraperd: Command, jobs: Dispatcher, env: dict[str, str]
) -> None:
    """Options add to a job in JSON what it lacks, and change no byte of what it has."""
    own = '{"url": "http://a.example/", "meta": 1.000000000000000000001, "include": ["body"]}'
    done = scraperd("publish", "--include", "links", "--timeout", "3", "-", stdin=own, **env)
    assert done.returncode == 0, done.stderr
    body = jobs.take("jobs")[1]
    assert b"1.000000000000000000001" in body
    job = json.loads(body)
    assert (job["include"], job["timeout"]) == (["body"], 3)


def test_the_summary_names_the_broker(
    scraperd: Command, broker_url: str, jobs: Dispatcher, env: dict[str, str]
) -> None:
    """Where the jobs went, without the password; also if the list of brokers has several."""
    done = scraperd("publish", URL, **env)
    host = broker_url.partition("@")[2]
    assert done.stderr == f"published 1 of 1 jobs to {jobs.prefix}.jobs at amqp://{host}\n"
