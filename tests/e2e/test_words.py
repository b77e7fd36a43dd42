"""No untrusted text steers a terminal or begins a line, wherever the commands and the log print it.

May touch: the commands on pipes and pseudo-terminals, the daemon, a private broker, a raw site.
Must never: call a command's function directly.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import pty
import subprocess
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import pika
import pytest

from scraperd.broker.rabbitmq.topology import Topology
from tests.rig.daemon import LOOPBACK, Daemon, environment
from tests.rig.sites.site import Site

if TYPE_CHECKING:
    from pathlib import Path

    from tests.rig.daemon import Dispatcher

# DEL, C1 controls with their CSI, soft hyphen, zero width, marks, overrides and isolates of
# direction, separators, a byte order mark, a tag character; and a letter that must stay.
UNSEEN = "\x7f\x80\x85\x9b2J\xad\u200b\u200e\u202e\u2028\u2029\u2066\u2069\ufeff\U000e0041é"
EVIL = f"\x1b[2J\x1b]8;;http://a.example\x07\r\n[red]{UNSEEN}"
FORGED = '{"id": "forged", "status": "ok", "attempt": 1}'


class Printed(NamedTuple):
    """What a command printed."""

    out: str
    err: str
    code: int

    @property
    def seen(self) -> str:
        """Both streams; a terminal ends its lines with CR LF."""
        return (self.out + self.err).replace("\r\n", "\n")

    @property
    def json(self) -> list[dict[str, Any]]:
        """Each line of standard output, as the strictest and the laxest reader of lines see it."""
        assert len(self.out.splitlines()) == self.out.count("\n")
        return [json.loads(line) for line in self.out.splitlines()]


async def command(*args: str, terminal: bool = False, **env: str) -> Printed:
    """Run `scraperd ...` to its end, with its output in a pipe or on a terminal."""
    return await asyncio.to_thread(_command, args, terminal, env)


def _command(args: tuple[str, ...], terminal: bool, env: dict[str, str]) -> Printed:  # noqa: FBT001
    ours, theirs = pty.openpty() if terminal else os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "scraperd", *args],
        env={**environment(LOOPBACK), **env},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.PIPE,
    )
    os.close(theirs)
    out = b""
    try:
        while piece := os.read(ours, 65536):
            out += piece
    except OSError:  # Linux's way to say that nobody has the terminal open any more
        pass
    os.close(ours)
    _, err = process.communicate(timeout=60)
    assert b"Traceback" not in err
    return Printed(out.decode(), err.decode(), process.returncode)


def harmless(printed: Printed) -> None:
    """Fail if a character was printed that a terminal obeys, hides, or reorders text by."""
    assert all(it.isprintable() or it == "\n" for it in printed.seen), printed


def page() -> bytes:
    """An answer whose words are hostile in each place that allows them."""
    headers = f"X-A: {UNSEEN}\r\nContent-Type: text/html; charset=utf-8; a={UNSEEN}\r\n"
    cookie = f"Set-Cookie: {UNSEEN}=b\r\nETag: {UNSEEN}\r\n"
    body = f"<title>{EVIL}</title><a href='/{UNSEEN}'>{EVIL}</a><h1>{EVIL}</h1>".encode()
    head = f"HTTP/1.1 200 {UNSEEN}\r\n{headers}{cookie}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


ALL = ["--include", "headers", "--include", "links", "--include", "metadata", "--include", "body"]
RULES = json.dumps({f"name{UNSEEN}": "h1", "none": "h6"})


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("compact", [False, True])
async def test_scrape(terminal: bool, compact: bool) -> None:  # noqa: FBT001
    """The page's words come whole, to a pipe and to a terminal, but as escapes."""
    async with Site() as site:
        url = site.at("/", page())
        form = ["--compact"] if compact else []
        args = ["scrape", url, "--extract", RULES, *ALL, *form]
        printed = await command(*args, terminal=terminal)
    harmless(printed)
    result = json.loads(printed.out)
    assert result["data"][f"name{UNSEEN}"].endswith(UNSEEN[-5:])
    assert UNSEEN[:2] in result["metadata"]["title"]
    assert EVIL in result["body"]
    assert "\\u009b" in printed.out
    assert "\\udb40\\udc41" in printed.out


ANSWERS = {
    "reason": f"HTTP/1.1 404 {UNSEEN}\r\nContent-Length: 0\r\n\r\n",
    "location": f"HTTP/1.1 302 Found\r\nLocation: ftp://{UNSEEN}\r\nContent-Length: 0\r\n\r\n",
    "bad location": f"HTTP/1.1 302 A\r\nLocation: http://[{UNSEEN}\r\nContent-Length: 0\r\n\r\n",
    "status line": f"{UNSEEN}\r\n\r\n",
    "header": f"HTTP/1.1 200 OK\r\n{UNSEEN}: a\r\nContent-Length: 0\r\n\r\n",
    "encoding": f"HTTP/1.1 200 OK\r\nContent-Encoding: {UNSEEN}\r\nContent-Length: 1\r\n\r\nx",
    "type": f"HTTP/1.1 200 OK\r\nContent-Type: {UNSEEN}/x\r\nContent-Length: 1\r\n\r\nx",
}


@pytest.mark.parametrize("what", ANSWERS)
async def test_what_a_site_makes_fail(what: str) -> None:
    """A site's words in an error's message are as harmless as those in a result."""
    async with Site() as site:
        url = site.at("/", ANSWERS[what].encode())
        printed = await command("scrape", url, "--extract", '{"a": "b"}', "--include", "headers")
    harmless(printed)
    assert json.loads(printed.out)["url"] == url


def planted(url: str, ident: str) -> bytes:
    """A job that is hostile in each field, and whose `meta` and `json` hold lines of their own."""
    job = {"id": ident, "url": url, "headers": {"X-A": "é"}, "include": ["metadata", "headers"]}
    raw = f'{{"a": [\n{FORGED}\n,\r\n"{UNSEEN}", 1e999, 1.0, "\\u0041\\/", {10**30}], "a":\t2 }}'
    return f'{json.dumps(job)[:-1]}, "meta": {raw}}}'.encode()


async def test_results_and_the_log(dispatcher: Dispatcher, node: Any, tmp_path: Path) -> None:
    """A job that is hostile in each field is one line of each command and of the log, with its own
    words; a forged line in its `meta` is none.
    """
    env = {"SCRAPERD_BROKER_URL": node.url, "SCRAPERD_BROKER__PREFIX": dispatcher.prefix}
    async with Site() as site:
        url = site.at("/", page())
        with Daemon(node.url, dispatcher.prefix) as daemon:
            await asyncio.to_thread(daemon.ready)
            (tmp_path / "jobs").write_bytes(json.dumps({"url": url, "id": EVIL}).encode())
            waited = await command("publish", str(tmp_path / "jobs"), "--wait", **env)
            dispatcher.publish(planted(url, EVIL), correlation_id="c")
            dispatcher.publish(json.dumps({EVIL: 1, "url": url, "id": EVIL}).encode())
            taken = await command("results", "--consume", "--count", "2", **env)
            await asyncio.to_thread(daemon.drain)
            log = daemon.stdout
    for printed in (waited, taken):
        harmless(printed)
        assert {result["id"] for result in printed.json} == {EVIL}
    assert len(taken.json) == 2
    forged = FORGED.replace(" ", "")
    assert f'"meta":{{"a":[{forged},"\\u007f' in taken.out
    assert f'1e999,1.0,"\\u0041\\/",{10**30}],"a":2}}' in taken.out
    assert all(it.isprintable() or it == "\n" for it in log)
    assert {line["id"] for line in daemon.logged("job")} == {EVIL}


NO_RESULTS = {
    "lines": f"\x1b[2J\n{FORGED}\n".encode(),
    "not UTF-8": b'\xff\n{"id": "\xff"}',
    "string": f'{{"a": "\n{FORGED}\n"}}'.encode(),
    "half": b'{"id": "\\ud800"}',
    "deep": b"[" * 100_000,
    "large": b"\n" * 5_000_000,
    "empty": b"",
}


@pytest.mark.parametrize("terminal", [False, True])
async def test_what_is_no_result(dispatcher: Dispatcher, node: Any, terminal: bool) -> None:  # noqa: FBT001
    """Whatever else is in the results queue is one line each, and nothing of it is lost."""
    topology = Topology(dispatcher.prefix)
    queue = next(queue for queue in topology.queues if queue.name == topology.results)
    dispatcher.channel.queue_declare(queue.name, durable=True, arguments=queue.arguments)
    for body in NO_RESULTS.values():
        dispatcher.channel.basic_publish("", queue.name, body, pika.BasicProperties())
    count = str(len(NO_RESULTS))
    env = {"SCRAPERD_BROKER_URL": node.url, "SCRAPERD_BROKER__PREFIX": dispatcher.prefix}
    printed = await command("results", "--consume", "--count", count, terminal=terminal, **env)
    harmless(printed)
    assert printed.err.count("is not JSON") == len(NO_RESULTS)
    bodies = [
        base64.b64decode(line["body"]) if "body_encoding" in line else line["body"].encode()
        for line in printed.json
    ]
    assert bodies == list(NO_RESULTS.values())


NAMES = {
    "file": ("scrape", f"{{folder}}/{EVIL}"),
    "job": ("publish", f"http://a.example/{EVIL}"),
    "rule": ("scrape", "http://a.example/", "--extract", json.dumps({UNSEEN: f"{UNSEEN}["})),
    "header": ("scrape", "http://a.example/", "--header", EVIL),
    "command": (EVIL,),
    "option": ("results", f"--{EVIL}"),
    "value": ("results", "--count", EVIL),
    "host": ("dead", "list", "--host", EVIL),
    "config": ("check", "-c", f"{{folder}}/{EVIL}"),
    "setting": ("check", "-c", "{folder}/config.toml"),
    "TOML": ("check", "-c", "{folder}/bad.toml"),
}


@pytest.mark.parametrize("what", NAMES)
async def test_names_that_a_command_is_given(tmp_path: Path, what: str) -> None:
    """A file, an option, a value or a setting that is called so is named in one harmless line."""
    setting = '"a\\n[red]\\u001b[2J\\u009b" = 1\n[hosts]\n"\\u202e" = {x=1}\n'
    (tmp_path / "config.toml").write_text(setting)
    (tmp_path / "bad.toml").write_text(f"x = {UNSEEN}")
    printed = await command(*(it.replace("{folder}", str(tmp_path)) for it in NAMES[what]))
    harmless(printed)
    assert printed.code in {1, 2, 78}
    assert not printed.out
    assert not any(line.startswith("[red]") for line in printed.err.split("\n"))
