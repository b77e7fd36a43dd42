"""Input is UTF-8 whatever the locale says, with a byte order mark or without; lines end at LF.

May touch: the `scraperd` command as a subprocess, a site, the private broker.
Must never: rely on the locale of this process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.rig.daemon import LOOPBACK, Daemon, environment

if TYPE_CHECKING:
    from pathlib import Path

    from tests.rig.daemon import Dispatcher
    from tests.rig.sites.hostel import Hostel

LOCALES = [
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"LC_ALL": "C", "PYTHONIOENCODING": "latin-1"},
    {"PYTHONIOENCODING": "utf-16"},
]
BOM = b"\xef\xbb\xbf"
MARKS = "a\N{LINE SEPARATOR}b\x85c\N{PARAGRAPH SEPARATOR}d\x0b\x0c\x1c\x1de\N{BYTE ORDER MARK}"


def run(*args: str, stdin: bytes, **env: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command with these bytes as standard input."""
    return subprocess.run(
        [sys.executable, "-m", "scraperd", *args],
        input=stdin,
        env={**environment(LOOPBACK), **env},
        capture_output=True,
        timeout=60,
        check=False,
    )


def jobs(hostel: Hostel) -> bytes:
    """A URL and a job, both with characters beyond ASCII, and those that end a line elsewhere."""
    job = {"url": hostel.url("/page/2"), "id": "two", "meta": {"marks": MARKS}}
    # Control characters below U+0020 are escaped, as JSON asks for; the others are not.
    return f"{hostel.url('/page/ä')}\r\n{json.dumps(job, ensure_ascii=False)}\n".encode()


@pytest.mark.parametrize("env", LOCALES, ids=str)
@pytest.mark.parametrize("bom", [b"", BOM], ids=["plain", "bom"])
def test_a_batch_is_utf_8(hostel: Hostel, env: dict[str, str], bom: bytes) -> None:
    """Each line of standard input is one job, and what it says comes back as it was."""
    done = run("batch", "-", stdin=bom + jobs(hostel), **env)
    found = {one["id"]: one for one in map(json.loads, done.stdout.split(b"\n")[:-1])}
    assert found.keys() == {"line-1", "two"}
    assert found["line-1"]["url"] == hostel.url("/page/ä")
    assert found["two"]["meta"] == {"marks": MARKS}
    assert done.returncode in {0, 1}
    assert hostel.hits["/page/%C3%A4"] == hostel.hits["/page/2"] == 1


def test_published_jobs_are_utf_8(
    env: dict[str, str], broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """`publish` sends each line of standard input as it was, with and without a byte order mark."""
    with Daemon(broker_url, prefix).ready():
        pass  # the queues are there now
    for locale, bom in zip(LOCALES, (BOM, b"", BOM), strict=True):
        done = run("publish", "-", stdin=bom + jobs(hostel), **env, **locale)
        assert done.returncode == 0, done.stderr
        bodies = {body.pop("id"): body for body in (_taken(dispatcher) for _ in range(2))}
        assert bodies.pop("two")["meta"] == {"marks": MARKS}
        assert [body["url"] for body in bodies.values()] == [hostel.url("/page/ä")]


def _taken(dispatcher: Dispatcher) -> dict[str, Any]:
    """A job of the jobs queue, with its id, which may be in its properties alone."""
    properties, body = dispatcher.take("jobs")
    job: dict[str, Any] = {"id": properties.correlation_id, **json.loads(body)}
    return job


@pytest.mark.parametrize("env", LOCALES, ids=str)
def test_rules_in_a_file_are_utf_8(tmp_path: Path, env: dict[str, str]) -> None:
    """A rules file with a byte order mark finds a class beyond ASCII, and names come back whole."""
    rules, page = tmp_path / "rules.json", tmp_path / "page.html"
    rules.write_bytes(BOM + '{"größe": ".größe"}'.encode())
    page.write_text('<meta charset=utf-8><p class="größe">zwölf', encoding="utf-8")
    done = run("scrape", str(page), "--extract-file", str(rules), stdin=b"", **env)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["data"] == {"größe": "zwölf"}


def test_a_line_that_is_not_utf_8_is_no_other_url(hostel: Hostel) -> None:
    """Latin-1 in a URL: the job is refused, with the place, and no page of another name is got."""
    done = run("batch", "-", stdin=hostel.url("/page/").encode() + b"\xe4x\n")
    (result,) = map(json.loads, done.stdout.splitlines())
    place = len(hostel.url("/page/"))
    assert result["error"]["kind"] == "invalid_job"
    assert f"not UTF-8: invalid continuation byte at byte {place}" in result["error"]["message"]
    assert hostel.hits.total() == 0


def test_a_results_file_with_a_byte_order_mark_is_resumed(tmp_path: Path, hostel: Hostel) -> None:
    """What an editor of Windows made of the results does not start the batch anew."""
    output = tmp_path / "results"
    result: dict[str, Any] = {"id": "line-1", "url": hostel.url("/page/1"), "meta": MARKS}
    output.write_bytes(BOM + json.dumps(result, ensure_ascii=False).encode() + b"\r\n")
    urls = f"{hostel.url('/page/1')}\n{hostel.url('/page/2')}\n".encode()
    done = run("batch", "-", "--resume", str(output), stdin=urls)
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == ["line-2"]
    assert done.returncode == 0


@pytest.mark.parametrize(
    "command", ["publish http://a.example/ --wait --timeout", "dead requeue --all --rate"]
)
@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e400", "-1", "", "x"])
def test_what_is_not_a_number_is_refused_in_a_line(command: str, number: str) -> None:
    """Options that take a number name what they got, with exit code 2."""
    done = run(*command.split(), number, stdin=b"")
    assert done.returncode == 2
    last = done.stderr.decode().splitlines()[-1]
    assert last.startswith("Error: Invalid value for '--")
    assert number.removesuffix("e400") in last
