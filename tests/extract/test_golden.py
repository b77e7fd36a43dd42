"""Golden pages: what a job gets of them, by hand; the same bytes each time, in any process.

May touch: tests/data/golden, helper processes it starts.
Must never: write an expected value, or take the code's own answer for one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pytest

from scraperd.config.settings import Config
from scraperd.contract import Job, decode_job
from scraperd.extract.compile import compile_rules
from scraperd.extract.document import Extracted, ExtractRequest, extract_document
from scraperd.sandbox.child import REPLY, REQUEST, Reply, Start
from scraperd.scrape.content import extract_request
from scraperd.wiring import extract_limits, extractor_of

if TYPE_CHECKING:
    from scraperd.extract.rules import Rules

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
NAMES = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir())
LIMITS = extract_limits(Config())
TIMES = 20


class Golden(NamedTuple):
    """One golden page: what is asked of which body, and what must come of it."""

    asked: ExtractRequest
    body: bytes
    rules: Rules
    expected: dict[str, Any]


def golden(name: str) -> Golden:
    """The page in this folder, its job decoded as the daemon decodes one."""
    (page,) = (GOLDEN / name).glob("page.*")
    asked = json.loads((GOLDEN / name / "rules.json").read_text(encoding="utf-8"))
    media = asked.pop("media")
    job = decode_job(json.dumps(asked).encode())
    assert isinstance(job, Job), job
    question = extract_request(job, job.url, media)
    assert question.rules is not None
    expected = json.loads((GOLDEN / name / "expected.json").read_text(encoding="utf-8"))
    return Golden(question, page.read_bytes(), compile_rules(question.rules), expected)


def fields(taken: Extracted) -> dict[str, Any]:
    """The fields of the Result that were made of the body, but for its hash."""
    assert taken.failure is None, taken.failure
    encoded: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(taken.fields()))
    del encoded["content_hash"]
    return encoded


def shown(fields: dict[str, Any]) -> str:
    """A text that tells 1 from 1.0 and true, and the order of names."""
    return json.dumps(fields, indent=1, ensure_ascii=False)


_HELPER = """
import sys, msgspec
from scraperd.sandbox.child import Start, live
live(5, msgspec.json.decode(sys.argv[1], type=Start))
"""


def in_process(pages: list[Golden], **environment: str) -> list[bytes]:
    """The helper's answers, each encoded, from one that runs in this environment."""
    start = Start(2**31, LIMITS)
    questions = b""
    for page in pages:
        question = msgspec.msgpack.encode(page.asked)
        questions += REQUEST.pack(len(question), len(page.body), 10.0) + question + page.body
    done = subprocess.run(
        [sys.executable, "-P", "-c", _HELPER, msgspec.json.encode(start).decode()],
        input=questions,
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": ":".join(filter(None, sys.path)), **environment},
        check=True,
    )
    answers, left = [], done.stdout
    while left:
        (length,) = REPLY.unpack(left[: REPLY.size])
        reply = msgspec.msgpack.decode(left[REPLY.size : REPLY.size + length], type=Reply)
        answers.append(msgspec.msgpack.encode(reply.extracted))
        left = left[REPLY.size + length :]
    return answers


@pytest.mark.parametrize("name", NAMES)
async def test_a_page_gives_what_it_holds(name: str) -> None:
    """Every field of the result is as a person reads it off the page, to the type of a number."""
    page = golden(name)
    async with extractor_of(Config()) as extractor:
        found = (await extractor.extract(page.asked, page.body, page.rules, "host")).extracted
    order = [*page.expected, "charset"]
    ours = dict(sorted(fields(found).items(), key=lambda item: order.index(item[0])))
    assert ours == page.expected
    assert shown(ours["data"]) == shown(page.expected["data"])


@pytest.mark.parametrize("name", NAMES)
def test_a_page_gives_the_same_bytes_each_time(name: str) -> None:
    """Twenty runs over one body make one answer."""
    page = golden(name)
    answers = {
        msgspec.msgpack.encode(extract_document(page.asked, page.body, page.rules, LIMITS))
        for _ in range(TIMES)
    }
    assert len(answers) == 1


@pytest.mark.parametrize(
    "environment",
    [
        {},  # as the daemon starts them
        {"PYTHONHASHSEED": "1", "TZ": "Asia/Kathmandu", "LC_ALL": "tr_TR.UTF-8"},
        {"PYTHONHASHSEED": "2", "TZ": "America/St_Johns", "LC_ALL": "C", "PYTHONUTF8": "0"},
    ],
    ids=["bare", "east", "west"],
)
def test_another_process_gives_the_same_bytes(environment: dict[str, str]) -> None:
    """A helper's answer is this process's, whatever its hash seed, time zone and locale are."""
    pages = [golden(name) for name in NAMES]
    here = [
        msgspec.msgpack.encode(extract_document(page.asked, page.body, page.rules, LIMITS))
        for page in pages
    ]
    assert in_process(pages, **environment) == here
