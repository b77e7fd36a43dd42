"""Secrets planted in each place where a daemon meets them, and looked for wherever people read.

May touch: a private broker, a raw site, the daemon as a subprocess, the command `dead list`.
Must never: look for two secrets by one text: a leak has to say where it came from.
"""

from __future__ import annotations

import asyncio
import json
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from tests.rig.brokers.users import User
from tests.rig.daemon import Daemon
from tests.rig.ports import free_port
from tests.rig.sites.site import Site, page, redirect

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Command
    from tests.rig.brokers.node import Node
    from tests.rig.daemon import Dispatcher

PLACES = (
    *("proxy", "header", "cookie", "authorization", "basic", "form", "query", "fragment"),
    *("setcookie", "redirectuser", "redirectquery", "badredirectuser", "badredirectquery", "key"),
)
SECRET = {place: f"zq{place}secret" for place in PLACES}
ASKED = ("query", "fragment", "redirectquery")  # a result names its URL, and where it led


@pytest.fixture
def user(node: Node, broker_url: str, prefix: str) -> Iterator[User]:
    """A user of the broker, whose name is the password too: neither is to be read."""
    one = User.add(node, f"secrets-{prefix}")
    one.permit()
    yield one
    one.delete()


def jobs(site: Site) -> list[dict[str, Any]]:
    """Jobs with a secret in each place; they end in all ways that there are."""
    set_cookie = f"Set-Cookie: sid={SECRET['setcookie']}; Path=/"
    at = site.at("/ok", page(headers=[set_cookie]))
    led = at.replace("http://", f"http://u:{SECRET['redirectuser']}@")
    away = site.at("/away", redirect(f"{led}?t={SECRET['redirectquery']}"))
    bad = f"ftp://u:{SECRET['badredirectuser']} x@h/p q?t={SECRET['badredirectquery']}"
    broken = site.at("/broken", redirect(bad))
    missing = site.at("/missing", page(status=404))
    busy = site.at("/busy", page(status=503))
    with_all = {
        "headers": {
            "X-Token": SECRET["header"],
            "Authorization": f"Bearer {SECRET['authorization']}",
            "Cookie": f"a={SECRET['cookie']}",
        },
    }
    tail = f"?token={SECRET['query']}#{SECRET['fragment']}"
    form = {"method": "POST", "form": {"password": SECRET["form"]}}
    urls = {name: url + tail for name, url in (("ok", at), ("missing", missing), ("busy", busy))}
    urls |= {"away": away, "broken": broken}
    made = [{"id": name, "url": url, **with_all} for name, url in urls.items()]
    made.append({"id": "form", "url": at, **with_all, **form})
    basic = at.replace("http://", f"http://u:{SECRET['basic']}@")
    made.append({"id": "basic", "url": basic, **with_all})
    made.append({"id": "proxied", "url": at, "proxy": "office", **with_all})
    return made


def leaks(text: str, *but: str) -> list[str]:
    """The places whose secret is in a text."""
    return [place for place in PLACES if SECRET[place] in text and place not in but]


async def test_planted_secrets_are_read_nowhere(
    user: User, prefix: str, dispatcher: Dispatcher, scraperd: Command, tmp_path: Path
) -> None:
    """Not in the log at level debug, results, metrics, dead letters' headers, or `dead list`.

    The body of a dead letter is the job itself, and a result names the URL it was asked for.
    """
    key = tmp_path / "key"
    key.write_text(SECRET["key"] * 3)
    settings: dict[str, Any] = {
        "log__level": "debug",
        "metrics__listen": f"127.0.0.1:{free_port()}",
        "jobs__signing_key_file": str(key),
        "jobs__max_retries": 1,
        "proxies": {"office": f"http://u:{SECRET['proxy']}@127.0.0.1:{free_port()}"},
    }
    async with Site() as site:
        made = jobs(site)
        seen = await asyncio.to_thread(_worked, user.url, dispatcher, made, settings)
    log, results, metrics, letters = seen
    assert leaks(log) == []
    assert user.name not in log + results + metrics + letters
    assert leaks(results, *ASKED) == []
    assert leaks(metrics) == []
    assert leaks(letters, *ASKED) == []
    for form in ([], ["--json"]):
        listed = scraperd(
            "dead", "list", *form, SCRAPERD_BROKER_URL=user.url, SCRAPERD_BROKER__PREFIX=prefix
        )
        assert listed.returncode == 0, listed.stderr
        assert leaks(listed.stdout + listed.stderr, *ASKED) == []
        assert user.name not in listed.stdout + listed.stderr


def _worked(
    url: str, dispatcher: Dispatcher, made: list[dict[str, Any]], settings: dict[str, Any]
) -> tuple[str, str, str, str]:
    with Daemon(url, dispatcher.prefix, **settings).ready() as daemon:
        for job in made:
            dispatcher.publish(job)
        results = dispatcher.results(len(made))
        with urllib.request.urlopen(f"http://{settings['metrics__listen']}/metrics") as answer:
            metrics = answer.read().decode()
        assert daemon.drain() == 0
        log = "".join(line.text for line in daemon.lines)
    assert {result["id"] for result in results} == {job["id"] for job in made}
    count = dispatcher.depth("dead")
    assert count
    letters = [dispatcher.take("dead")[0] for _ in range(count)]
    return log, json.dumps(results), metrics, repr([it.headers for it in letters])
