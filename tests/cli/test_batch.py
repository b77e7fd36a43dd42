"""`scraperd batch` as a user types it: real sites, no broker, Ctrl-C, and going on afterwards.

May touch: the command as a subprocess, real web servers, temporary files.
Must never: call the command's function directly, or need a broker.
"""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from scraperd.batch import Resumed, ResumeError, lines_of
from tests.rig.daemon import LOOPBACK, environment

if TYPE_CHECKING:
    from pathlib import Path

    from tests.rig.sites.hostel import Hostel
    from tests.rig.sites.nginx import Nginx

SETTINGS = {
    **LOOPBACK,
    "jobs__retry_backoff": 0.05,
    "jobs__max_retries": 2,
    "jobs__shutdown_timeout": 1,
}


def command(*args: str, **settings: Any) -> tuple[list[str], dict[str, str]]:
    """The command, and an environment with these settings."""
    argv = [sys.executable, "-m", "scraperd", "batch", *args]
    return argv, environment({**SETTINGS, **settings})


def run(*args: str, stdin: bytes = b"", **settings: Any) -> subprocess.CompletedProcess[bytes]:
    """Run it to its end."""
    argv, env = command(*args, **settings)
    done = subprocess.run(argv, input=stdin, env=env, capture_output=True, timeout=90, check=False)
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return done


def results(output: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def test_a_file_of_urls_and_jobs(tmp_path: Path, hostel: Hostel) -> None:
    """Each line has one result: what a URL, a job, a 404, and nonsense end as; 1 as some failed."""
    file = tmp_path / "jobs"
    job = {"url": hostel.url("/page/2"), "id": "mine", "meta": 7, "include": ["body"]}
    dead = {"url": hostel.url("/status/503"), "id": "busy"}
    urls = ["# comment", "", hostel.url("/page/1"), json.dumps(job), json.dumps(dead)]
    file.write_text("\n".join([*urls, hostel.url("/status/404"), "nonsense", '{"url": 7}']))
    done = run(str(file))
    ends = {found["id"]: found for found in results(done.stdout)}
    assert ends.keys() == {"line-3", "mine", "busy", "line-6", "line-7", "line-8"}
    assert (ends["line-3"]["status"], ends["mine"]["status"]) == ("ok", "ok")
    assert (ends["mine"]["meta"], "body" in ends["mine"]) == (7, True)
    assert (ends["busy"]["attempt"], ends["busy"]["http_status"]) == (3, 503)
    assert ends["line-6"]["error"]["kind"] == "http_status"
    assert {ends[one]["error"]["kind"] for one in ("line-7", "line-8")} == {"invalid_job"}
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[-1] == "scraperd: 2 ok, 4 failed"


def test_real_pages_from_standard_input(docs_site: Nginx) -> None:
    """Python's manual, 500 pages, in one pass: all ok, and 0."""
    pages = sorted(path.relative_to(docs_site.root) for path in docs_site.root.rglob("*.html"))
    urls = "".join(f"{docs_site.url}{page}\n" for page in pages)
    done = run("-", stdin=urls.encode(), politeness__per_host_concurrency=50)
    found = results(done.stdout)
    assert len(pages) > 400
    assert sorted(result["url"] for result in found) == sorted(urls.split())
    assert {result["status"] for result in found} == {"ok"}
    assert done.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_was_interrupted_goes_on_where_it_was(
    tmp_path: Path, hostel: Hostel, number: signal.Signals
) -> None:
    """The first signal waits for what is under way, says what is left, and ends with 128+N. With
    --resume each job has one result in the end, and none was asked for again that had one.
    """
    file, output = tmp_path / "jobs", tmp_path / "results"
    quick = [hostel.url(f"/page/{n}") for n in range(30)]
    held = [hostel.url(f"/hold/{n}") for n in range(5)]
    file.write_text("\n".join([*quick, *held]))
    argv, env = command(str(file), concurrency=40, politeness__per_host_concurrency=40)
    with output.open("wb") as out, subprocess.Popen(
        argv, env=env, stdout=out, stderr=subprocess.PIPE
    ) as child:  # fmt: skip
        hostel.wait_for(lambda hits: hits.total() >= 35)
        child.send_signal(number)
        assert child.stderr is not None
        said = child.stderr.read().decode()
        assert child.wait(30) == 128 + number
    assert "scraperd: 30 ok, 0 failed" in said
    assert "scraperd: 5 of 35 jobs have no result; go on with --resume RESULTS" in said
    with output.open("ab") as out:
        out.write(b'{"id":"line-3')  # what a process that was killed leaves
    hostel.release()
    done = run(str(file), "--resume", str(output))
    assert done.returncode == 0
    assert sorted(result["url"] for result in results(done.stdout)) == sorted(held)
    assert Counter(hostel.hits)["/page/0"] == 1


def test_a_terminal_sees_a_bar(tmp_path: Path, hostel: Hostel) -> None:
    """On standard error, if that is a terminal; the results are on standard output alone."""
    file = tmp_path / "jobs"
    file.write_text(hostel.url("/page/1"))
    ours, theirs = pty.openpty()
    argv, env = command(str(file))
    done = subprocess.run(
        argv, env=env, stdout=subprocess.PIPE, stderr=theirs, timeout=60, check=False
    )
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert done.returncode == 0
    assert len(results(done.stdout)) == 1
    assert "0/1" in shown


def test_results_of_another_input_are_refused(tmp_path: Path, hostel: Hostel) -> None:
    """Both by a URL that differs and by a line that is no result; nothing is fetched."""
    file, output = tmp_path / "jobs", tmp_path / "results"
    file.write_text(hostel.url("/page/1"))
    output.write_text('{"id":"line-1","url":"http://other.example/"}\n')
    done = run(str(file), "--resume", str(output))
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"line 1 is http://127.0.0.1" in done.stderr
    output.write_text('nonsense\n{"id":"line-1"}\n')
    done = run(str(file), "--resume", str(output))
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"--resume: line 1 of the results is not a result" in done.stderr
    assert not hostel.hits


def test_each_result_stands_for_one_job() -> None:
    """Two jobs of one id need two results."""
    lines = list(lines_of([b'{"url":"http://a/","id":"x"}', b'{"url":"http://a/","id":"x"}']))
    known = Resumed.of([b'{"id":"x","url":"http://a/"}'])
    assert [known.take(line) for line in lines] == [True, False]


def test_what_is_in_a_file_makes_no_difference_to_how_it_ends() -> None:
    """Bytes that are no UTF-8, no JSON, or far too long are jobs that are refused, each alone."""
    lines = list(lines_of([b"\xff\xfe", b"{", b"http://a/ b", b"x" * 100_000]))
    assert [line.number for line in lines] == [1, 2, 3, 4]
    done = run("-", stdin=b"\n".join(line.body for line in lines))
    assert {found["error"]["kind"] for found in results(done.stdout)} == {"invalid_job"}
    assert len(results(done.stdout)) == 4
    with pytest.raises(ResumeError):
        Resumed.of([b"{", b"{}"])


@pytest.mark.parametrize(
    ("line", "redirect", "words"),
    [
        ('{"url":' * 3000, "", "scraperd: 0 ok, 1 failed"),
        ("nonsense", "1</dev/null", "standard output can't be written: Bad file descriptor"),
        ("nonsense", "> /dev/full", "standard output can't be written: No space left on device"),
    ],
    ids=["depth", "closed", "full"],
)
def test_a_hostile_line_and_an_output_that_takes_nothing(
    tmp_path: Path, line: str, redirect: str, words: str
) -> None:
    """Both end with 1 and in words, and not as internal errors."""
    (tmp_path / "jobs").write_text(f"{line}\n")
    done = subprocess.run(
        ["bash", "-c", f'"$0" -m scraperd batch {tmp_path}/jobs {redirect}', sys.executable],
        env=environment({}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, words in done.stderr) == (1, True), done.stderr
