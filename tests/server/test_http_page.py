"""The commands of docs/http.md, run as they stand: a dispatcher in curl alone.

May touch: bash and curl, the gateway and a daemon as subprocesses, a private broker, a site.
Must never: change a word of a command.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.rig.clients.receiver import SECRET, Receiver
from tests.rig.daemon import Daemon
from tests.rig.ports import HOST
from tests.server.running import Gateway

if TYPE_CHECKING:
    from tests.rig.daemon import Dispatcher
    from tests.rig.sites.hostel import Hostel

PAGE = (Path(__file__).parents[2] / "docs/http.md").read_text()


def commands() -> list[str]:
    """The blocks of the dispatcher, without the one that only sets the variables."""
    section = PAGE.split("## A dispatcher in curl\n")[1].split("\n## ")[0]
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", section, re.MULTILINE)
    return ["\n".join(line[4:] for line in block.split("\n")) for block in blocks][1:]


def example_tokens() -> str:
    """The file of tokens that the page shows."""
    (block,) = re.findall(r"(?:^    .*\n)*^    shop .*\n(?:^    .*\n)*", PAGE, re.MULTILINE)
    return "\n".join(line[4:] for line in block.split("\n"))


def printed(block: str, given: dict[str, str]) -> list[Any]:
    """What a block prints, values of JSON, with the variables of the page."""
    done = subprocess.run(
        ["bash", "-euc", block],
        env={**os.environ, **given},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    texts = done.stdout.replace("}{", "}\n{").split("\n")
    return [json.loads(text) for text in texts if text]


@pytest.mark.usefixtures("callback_queues")
def test_a_dispatcher_in_curl_works(
    broker_url: str, dispatcher: Dispatcher, hostel: Hostel, tmp_path: Path
) -> None:
    """Each block prints what the page says, by bash and curl, with the page's file of tokens; and
    the receiver of callbacks gets the one that was asked for.
    """
    (tmp_path / "tokens").write_text(example_tokens())
    (tmp_path / "secrets").write_text(SECRET)
    token = re.search(r"^shop +submit +(\S+)", example_tokens(), re.MULTILINE)
    assert token
    tokens = {"http__tokens_file": str(tmp_path / "tokens")}
    with Receiver() as receiver, ExitStack() as stack:
        both = {
            "batches__enabled": True,
            "callbacks__secrets_file": str(tmp_path / "secrets"),
            "callback_endpoints": {"billing": {"url": receiver.url}},
        }
        stack.enter_context(Daemon(broker_url, dispatcher.prefix, **both).ready())
        started = Gateway(broker_url, dispatcher.prefix, **both, **tokens)
        gateway = stack.enter_context(started)
        gateway.ready()
        given = {
            "GATEWAY": f"http://{HOST}:{gateway.port}",
            "TOKEN": token[1],
            "SITE": hostel.url("").rstrip("/"),
        }
        said = [printed(block, given) for block in commands()]
        (called,) = receiver.until(1)
    one, many, waited, asked, again, batch, back, wrong = said
    assert one == [{"id": "first"}]
    assert many[0]["accepted"] == [{"line": 1, "id": "two"}]
    assert [it["field"] for it in many[0]["rejected"]] == ["url"]
    assert (waited[0]["status"], "title" in waited[0]["data"]) == ("ok", True)
    assert [it["id"] for it in asked] in (["four"], [])  # a fast machine has it at once
    assert again[0] == again[1]
    assert batch[0]["accepted"] == [{"line": 1, "id": "x"}, {"line": 2, "id": "y"}]
    assert (batch[1]["state"], batch[1]["kinds"]) == ("done", {"ok": 2})
    assert (back, called.data["id"]) == ([{"id": "called"}], "called")
    assert (wrong[0]["status"], wrong[0]["field"]) == (400, "extract.title.selector")
    results = [it for it in dispatcher.results(7) if "event" not in it]
    assert {it["id"] for it in results} == {"first", "two", again[0]["id"], "x", "y", "called"}


def test_the_defaults_in_words_are_the_codes() -> None:
    """The numbers of the page are those of the settings and of the code."""
    from scraperd.config.settings import Config
    from scraperd.server import door, listener
    from scraperd.server.held import HANDLE_BYTES

    http = Config().http
    for text in (
        f"`http.listen`, {http.listen} by default",
        f"`http.request_timeout` ({http.request_timeout:g} s)",
        f"`http.max_connections` ({http.max_connections})",
        f"`http.max_results` ({http.max_results:,})",
        f"`http.max_results_size` ({http.max_results_size // 1024**2} MiB)",
        f"`http.result_hold` from the submission, {http.result_hold / 3600:g} hour",
        f"`http.idempotency_window` ({http.idempotency_window / 3600:g} hour)",
        f"`http.max_idempotency_keys` ({http.max_idempotency_keys:,})",
        f"{listener.MAX_LINE:,} bytes, or there are more than {listener.MAX_HEADERS} headers",
        f"{door.WINDOW} jobs are being published at a time",
    ):
        assert text in PAGE
    security = (Path(__file__).parents[2] / "docs/security.md").read_text()
    assert f"handle of {HANDLE_BYTES} random bytes" in security
