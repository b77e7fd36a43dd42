"""The OpenAPI document: equal to the file, and held to the code by schemathesis.

May touch: the gateway as a subprocess, a private broker.
Must never: let a random input decide whether the test passes: inputs are the same each time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from scraperd.config.settings import Config
from scraperd.server.openapi import document
from tests.rig.daemon import until
from tests.rig.ports import HOST
from tests.server.conftest import SUBMIT
from tests.server.running import Gateway

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.brokers.node import Node
    from tests.rig.daemon import Dispatcher

CHECKOUT = Path(__file__).parents[2]
FILE = CHECKOUT / "docs/openapi.json"
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_headers_conformance,response_schema_conformance,unsupported_method,ignored_auth"
)


def test_the_file_is_the_document() -> None:
    """`docs/openapi.json` is what the gateway serves."""
    assert FILE.read_bytes() == document(Config().http.max_wait)


def references(value: Any) -> Iterator[str]:
    """All references in a document."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == "$ref":
                yield inner
            else:
                yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_each_reference_leads_somewhere() -> None:
    """No schema is named that is missing, and none is left over."""
    found = json.loads(document(60))
    there = {f"#/components/schemas/{name}" for name in found["components"]["schemas"]}
    assert {*references(found)} == there


@pytest.mark.timeout(240)
def test_schemathesis_finds_no_answer_that_is_not_described(
    node: Node, desk: Dispatcher, tmp_path: Path
) -> None:
    """Valid and invalid requests made from the document get described answers, and never a 500."""
    (tmp_path / "tokens").write_text(f"shop submit {SUBMIT}\n")
    settings = {"http__tokens_file": str(tmp_path / "tokens"), "http__max_wait": 0.01}
    with Gateway(node.url, desk.prefix, **settings) as gateway:
        gateway.ready()
        explored(gateway, tmp_path)
        assert gateway.ask("GET", "/health/live").status == 200
        tried = {200, 202, 400, 401, 404, 405, 415}
        until(lambda: tried <= {it["http_status"] for it in gateway.logged("request")})
    desk.channel.queue_purge(f"{desk.prefix}.jobs")


def explored(gateway: Gateway, folder: Path) -> None:
    """Run schemathesis, which ends with 0 if all answers are as described."""
    argv = [
        str(Path(sys.executable).parent / "schemathesis"),
        *("run", f"http://{HOST}:{gateway.port}/v1/openapi.json"),
        *("--header", f"Authorization: Bearer {SUBMIT}", "--checks", CHECKS),
        *("--max-examples", "6", "--phases", "examples,coverage,fuzzing", "--no-color"),
        "--generation-deterministic",
    ]
    hooks = {"SCHEMATHESIS_HOOKS": "tests.server.lines_for_schemathesis"}
    done = subprocess.run(
        argv,
        env={**os.environ, **hooks, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=230,
        cwd=folder,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
