"""The examples that each `--help` shows do what they say, as they stand.

May touch: the commands by bash, a private broker, a stand-in for example.com.
Must never: change a word of an example, or reach the real example.com.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.rig.daemon import LOOPBACK, Daemon, environment
from tests.rig.ports import free_port
from tests.rig.sites.dns import Nameserver
from tests.rig.sites.site import Site, page

if TYPE_CHECKING:
    from tests.conftest import Command
    from tests.rig.daemon import Dispatcher

NAME = "example.com"
COMMANDS = [
    *("", "run", "serve", "check", "scrape", "batch", "publish", "results", "schema", "health"),
    *("status", "host", "completion", "cancel", "pause", "resume", "limit", "rules"),
    *("dead", "dead list", "dead show", "dead requeue", "dead purge"),
]
BEGUN = {"run": b'"event":"ready"', "serve": b'"event":"gateway_ready"'}
FILES = {
    "page.html": "<h1>A file</h1>",
    "rules.json": '{"title": "h1"}',
    "urls.txt": f"https://{NAME}/\nhttps://{NAME}/two\n",
    "jobs.jsonl": json.dumps({"url": f"https://{NAME}/", "id": "one", "include": ["links"]}) + "\n",
}


def examples(scraperd: Command, command: str) -> list[str]:
    """The examples in the help of a command."""
    text = scraperd(*command.split(), "--help").stdout.partition("Examples:\n")[2]
    return [line.strip() for line in text.partition("\n\n")[0].splitlines()]


async def stand_in(
    tls: ssl.SSLContext, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """A proxy that is at the same time the site to which it is asked to connect."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    await writer.drain()
    await writer.start_tls(tls)
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        await reader.readexactly(int(fields.get(b"content-length", 0)))
        writer.write(page(b"<h1>Example Domain</h1><a href=/two>two</a>"))
        await writer.drain()


async def run(example: str, folder: Path, env: dict[str, str], dispatcher: Dispatcher) -> None:
    """Run an example by bash: it ends with 0.

    A daemon or a gateway ends by SIGTERM once it is ready. Jobs fail meanwhile, for the example
    that waits for a failed result.
    """
    child = await asyncio.create_subprocess_exec(
        *("bash", "-c", example),
        cwd=folder,
        env=env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert child.stdout is not None
    if begun := BEGUN.get(example.rpartition(" ")[2]):
        while begun not in (line := await child.stdout.readline()):
            assert line, await child.communicate()
        os.killpg(child.pid, signal.SIGTERM)
    ended = asyncio.ensure_future(child.communicate())
    while not (await asyncio.wait([ended], timeout=0.2))[0]:
        if "failed.#" in example:
            dispatcher.publish({"id": "bad"})
    assert (example, child.returncode) == (example, 0), ended.result()
    assert b"Traceback" not in ended.result()[1]


@pytest.mark.parametrize("command", COMMANDS)
async def test_the_examples_of_a_help_work(  # noqa: PLR0917 - fixtures and a case
    scraperd: Command,
    broker_url: str,
    dispatcher: Dispatcher,
    env: dict[str, str],
    tmp_path: Path,
    command: str,
) -> None:
    """Each command has examples, and each ends with 0, with a daemon at work."""
    found = await asyncio.to_thread(examples, scraperd, command)
    assert found
    assert all("scraperd" in example for example in found)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    authority, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(NAME).configure_cert(tls)
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    async with Site() as site, Nameserver({NAME: [("A", "127.0.0.1", 60)]}) as names:
        site.raw = lambda reader, writer: stand_in(tls, reader, writer)
        to_site = {
            "fetch__nameservers": [names.address],
            "fetch__ca_file": str(tmp_path / "authority.pem"),
            "fetch__proxy": "test",
            "proxies": {"test": f"http://127.0.0.1:{site.port}"},
        }
        if command == "health":
            to_site["metrics__listen"] = f"127.0.0.1:{free_port()}"
        to_site["http__listen"] = f"127.0.0.1:{free_port()}"
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        here = {**environment({**LOOPBACK, **to_site, "log__format": "json"}), **env, "PATH": path}
        with Daemon(broker_url, dispatcher.prefix, **to_site) as daemon:
            await asyncio.to_thread(daemon.ready)
            dispatcher.publish({"id": "bad"})
            if command in ("status", "host"):  # the daemon answers a moment after it is ready
                while (await asyncio.to_thread(scraperd, "status", **here)).returncode:
                    pass
            for example in found:
                await run(example, tmp_path, here, dispatcher)
