"""Secrets planted in each place where a daemon meets them, and looked for wherever people read.

May touch: a private broker, a raw site, a collector, the daemon as a subprocess, the commands.
Must never: look for two secrets by one text: a leak has to say where it came from.
"""

from __future__ import annotations

import asyncio
import json
import urllib.request
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.rig.brokers.users import User
from tests.rig.daemon import Daemon, until
from tests.rig.ports import free_port
from tests.rig.sites.collector import Collector, attributes
from tests.rig.sites.site import HOST, Site, Visit, page, redirect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Command
    from tests.rig.brokers.node import Node
    from tests.rig.daemon import Dispatcher

    Told = Callable[..., str]

PLACES = (
    *("proxy", "header", "cookie", "authorization", "basic", "form", "query", "fragment"),
    *("setcookie", "redirectuser", "redirectquery", "badredirectuser", "badredirectquery", "key"),
)
SECRET = {place: f"zq{place}secret" for place in PLACES}
OTHER = "127.0.0.2"  # of the same site
ASKING = (
    *(("status",), ("status", "--json"), ("host", HOST), ("host", OTHER)),
    *(("host", HOST, "--json"), ("host", OTHER, "--json")),
)
ASKED = ("query", "fragment", "redirectquery")  # a result names its URL, and where it led


@pytest.fixture
def user(node: Node, broker_url: str, prefix: str) -> Iterator[User]:
    """A user of the broker, whose name is the password too: neither is to be read."""
    one = User.add(node, f"secrets-{prefix}")
    one.permit()
    yield one
    one.delete()


@pytest.fixture
def told(scraperd: Command, user: User, prefix: str) -> Told:
    """What a command prints, on both streams, once it ends well.

    A daemon has a second to answer `status` and `host`, which can be too little on a busy machine.
    """
    env = {"SCRAPERD_BROKER_URL": user.url, "SCRAPERD_BROKER__PREFIX": prefix}

    def tell(*command: str) -> str:
        for _ in range(10):
            done = scraperd(*command, **env)
            if done.returncode == 0:
                return done.stdout + done.stderr
        raise AssertionError(done.stderr)

    return tell


class Read(NamedTuple):
    """What people read of a daemon, each as one text."""

    log: str
    results: str
    metrics: str
    letters: str
    spans: str
    answers: str
    listed: str


async def never(visit: Visit) -> None:
    """Answer nothing, until the client has given up."""
    await visit.gone()


def pages(site: Site) -> dict[str, str]:
    """The URLs of pages that end in all ways that there are, by their names."""
    set_cookie = f"Set-Cookie: sid={SECRET['setcookie']}; Path=/"
    at = site.at("/ok", page(headers=[set_cookie]))
    slow = site.at("/slow", never)

    def with_secrets(url: str) -> bytes:
        user = url.replace("http://", f"http://u:{SECRET['redirectuser']}@")
        return redirect(f"{user}?t={SECRET['redirectquery']}")

    bad = f"ftp://u:{SECRET['badredirectuser']} x@h/p q?t={SECRET['badredirectquery']}"
    return {
        "ok": at,
        "missing": site.at("/missing", page(status=404)),
        "busy": site.at("/busy", page(status=503)),
        "slow": slow,
        "away": site.at("/away", with_secrets(at)),
        "away-slow": site.at("/away-slow", with_secrets(slow)),
        "broken": site.at("/broken", redirect(bad)).replace(HOST, OTHER),
    }


def jobs(site: Site) -> list[dict[str, Any]]:
    """Jobs with a secret in each place. Those for a slow page end by their own timeout."""
    with_all = {
        "headers": {
            "X-Token": SECRET["header"],
            "Authorization": f"Bearer {SECRET['authorization']}",
            "Cookie": f"a={SECRET['cookie']}",
        },
    }
    tail = f"?token={SECRET['query']}#{SECRET['fragment']}"
    made: list[dict[str, Any]] = []
    for name, url in pages(site).items():
        limit = {"timeout": 0.5} if "slow" in name else {}
        made.append({"id": name, "url": url + tail, **with_all, **limit})
    at = site.url("/ok")
    form = {"method": "POST", "form": {"password": SECRET["form"]}}
    made.append({"id": "form", "url": at, **with_all, **form})
    basic = at.replace("http://", f"http://u:{SECRET['basic']}@")
    made.append({"id": "basic", "url": basic, **with_all})
    made.append({"id": "proxied", "url": at, "proxy": "office", **with_all})
    return made


def leaks(text: str, *but: str) -> list[str]:
    """The places whose secret is in a text."""
    return [place for place in PLACES if SECRET[place] in text and place not in but]


async def test_planted_secrets_are_read_nowhere(
    user: User, prefix: str, dispatcher: Dispatcher, told: Told, tmp_path: Path
) -> None:
    """Not in the log at level debug, results, metrics, dead letters' headers, traces, or answers.

    Answers are those of `status`, `host` and `dead list`. The body of a dead letter is the job
    itself, and a result names the URL it was asked for.
    """
    key = tmp_path / "key"
    key.write_text(SECRET["key"] * 3)
    settings: dict[str, Any] = {
        "log__level": "debug",
        "metrics__listen": f"127.0.0.1:{free_port()}",
        "tracing__sample_ratio": 1,
        "jobs__signing_key_file": str(key),
        "jobs__max_retries": 1,
        "proxies": {"office": f"http://u:{SECRET['proxy']}@127.0.0.1:{free_port()}"},
    }
    with Collector() as traces:
        settings["tracing__endpoint"] = traces.endpoint
        async with Site(listen="0.0.0.0") as site:
            with Daemon(user.url, prefix, **settings) as daemon:
                made = jobs(site)
                seen = await asyncio.to_thread(_worked, daemon, dispatcher, made, told, traces)
    for name, text in seen._asdict().items():
        of_the_job = ASKED if name in ("results", "letters", "listed") else ()
        assert leaks(text, *of_the_job) == [], name
        assert user.name not in text, name


def _worked(
    daemon: Daemon,
    dispatcher: Dispatcher,
    made: list[dict[str, Any]],
    told: Told,
    traces: Collector,
) -> Read:
    """Let a daemon do the jobs, and read all that it tells."""
    daemon.ready()
    for job in made:
        dispatcher.publish(job)
    results = dispatcher.results(len(made))
    assert {result["id"] for result in results} == {job["id"] for job in made}
    kinds = {it["id"]: it["error"]["kind"] for it in results if it["status"] == "failed"}
    assert kinds["slow"] == kinds["away-slow"] == "timeout"
    (listener,) = daemon.logged("listening")
    with urllib.request.urlopen(f"http://{HOST}:{listener['port']}/metrics") as answer:
        metrics = answer.read().decode()
    asked = [told(*command) for command in ASKING]
    faults = [json.loads(one.splitlines()[0])["faults"] for one in asked[-2:]]
    assert all(faults)
    wanted = {job["url"].partition("?")[0] for job in made if "@" not in job["url"]}
    until(lambda: wanted <= _fetched(traces), "spans are missing")
    assert daemon.drain() == 0
    listed = told("dead", "list") + told("dead", "list", "--json")
    count = dispatcher.depth("dead")
    assert count
    return Read(
        log="".join(line.text for line in daemon.lines),
        results=json.dumps(results),
        metrics=metrics,
        letters=repr([dispatcher.take("dead")[0].headers for _ in range(count)]),
        spans=traces.raw.decode(errors="replace"),
        answers="".join(asked),
        listed=listed,
    )


def _fetched(traces: Collector) -> set[str]:
    """The URLs of the spans of fetches so far, up to a query."""
    found = [attributes(span) for span in traces.spans]
    return {str(one["url.full"]).partition("?")[0] for one in found if "url.full" in one}
