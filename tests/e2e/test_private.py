"""`make run` as a newcomer uses it: what it prints works, in each client, and Ctrl-C ends it.

May touch: examples/run_private.py as a process, in a folder of its own; amqp-tools, pika.
Must never: touch .cache/run/, which belongs to whoever uses this checkout.
"""

from __future__ import annotations

import base64
import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING

import pika
import pytest

from examples import run_private
from tests.rig import debs
from tests.rig.checks.house import CHECKOUT
from tests.rig.daemon import LOOPBACK, variables
from tests.rig.ports import HOST, free_port
from tests.rig.process import Process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.rig.sites.hostel import Hostel


@pytest.fixture
def private(tmp_path: Path) -> Iterator[Process]:
    """What `make run` starts, consuming; it reaches the tests' sites."""
    argv = [sys.executable, "-m", "examples.run_private", tmp_path / "run"]
    env = variables({**LOOPBACK, "log__format": "json"})
    with Process(argv, env=env, cwd=CHECKOUT) as running:
        running.wait_for_line('"event":"ready"', 120)
        yield running


def printed(private: Process, what: str) -> str:
    """The part of what was printed that the pattern names."""
    found = re.search(what, private.stdout)
    assert found, private.stdout
    return found[1]


def test_what_it_prints_works(private: Process, hostel: Hostel) -> None:
    """The command, the URL in pika and in amqp-tools, and the management page; then Ctrl-C."""
    url = printed(private, r"RabbitMQ answers at (\S+)")
    line = printed(private, r"\n    (SCRAPERD_BROKER_URL=.*)\n")
    line = line.replace("https://example.com/", hostel.url("/page/1"))
    done = subprocess.run(
        line, shell=True, cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, json.loads(done.stdout)["status"]) == (0, "ok"), done.stderr

    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        job = json.dumps({"url": hostel.url("/page/2"), "id": "by pika"}).encode()
        channel.basic_publish("scraperd.jobs", "scraperd.jobs", job, mandatory=True)
        for _, _, body in channel.consume("scraperd.results", auto_ack=True, inactivity_timeout=30):
            assert body is not None
            assert json.loads(body)["id"] == "by pika"
            break

    by_tools(private, hostel.url("/page/3"))
    page = printed(private, r"management page is (http://\S+/)")
    with urllib.request.urlopen(page) as answer:
        assert b"RabbitMQ Management" in answer.read()
    login = base64.b64encode(b"guest:guest").decode()
    asked = urllib.request.Request(
        f"{page}api/queues/%2F/scraperd.jobs", headers={"Authorization": f"Basic {login}"}
    )
    with urllib.request.urlopen(asked) as answer:
        assert json.load(answer)["name"] == "scraperd.jobs"

    private.send_signal(signal.SIGINT)
    assert private.wait(60) == 0


def by_tools(private: Process, page: str) -> None:
    """Publish and read with amqp-tools (rabbitmq-c), by the lines that are printed."""
    root = debs.debs("amqp-tools")
    publish = printed(private, r"\n    (amqp-publish .*)\n").replace("https://example.com/", page)
    get = printed(private, r"\n    (amqp-get .*)")
    env = {"PATH": f"{root / 'usr/bin'}:/usr/bin:/bin", "LD_LIBRARY_PATH": debs.libraries(root)}

    def shell(line: str) -> str:
        return subprocess.run(
            line, shell=True, env=env, capture_output=True, text=True, timeout=30, check=True
        ).stdout

    shell(publish)
    consume = f"amqp-consume {get.removeprefix('amqp-get ')} -c 1 cat"
    assert json.loads(shell(consume))["url"] == page


def test_a_port_that_is_taken_is_left_alone() -> None:
    """The fixed port, unless somebody listens there."""
    port = free_port()
    assert run_private.port_or_other(port) == port
    with socket.create_server((HOST, port)):
        assert run_private.port_or_other(port) not in (port, 0)
    assert (run_private.AMQP_PORT, run_private.PAGE_PORT) == (5672, 15672)
