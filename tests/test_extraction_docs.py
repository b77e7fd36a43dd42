"""The page on extraction keeps to the code: each example is run, each table is compared.

May touch: docs/extraction.md, the extraction code, the `scraperd` command as a subprocess.
Must never: leave an example out, or take anything from the page that is not checked.
"""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, get_args

import pytest
from jsonschema import Draft202012Validator

from scraperd.cli.scrape import command as scrape
from scraperd.config.names import SETTINGS, value_of
from scraperd.config.settings import Config
from scraperd.contract import Include, Job, Metadata, decode_job, schema
from scraperd.extract import compile as compiling
from scraperd.extract.compile import compile_rules
from scraperd.extract.document import Extracted, extract_document
from scraperd.extract.rules import Cast, RuleError
from scraperd.extract.values import dates
from scraperd.extract.values.casts import cast
from scraperd.scrape.content import extract_request
from scraperd.wiring import extract_limits, extractor_of
from tests.rig.daemon import environment

if TYPE_CHECKING:
    from collections.abc import Iterator

URL: Final = "https://shop.example/toys/ball.html"
TEXT: Final = (Path(__file__).parents[1] / "docs/extraction.md").read_text(encoding="utf-8")
MEDIA: Final = {"html": "text/html", "json": "application/json", "xml": "application/xml"}
JOBS: Final = Draft202012Validator(schema(Job))
UNSAID: Final = {"charset", "content_hash"}  # compared only where an example shows them


class Block(NamedTuple):
    """A fenced block: its language, what it is, what else is said of a page, its text."""

    language: str
    what: str
    more: str
    text: str
    line: int

    @property
    def body(self) -> bytes:
        """The page as it is sent."""
        encoding = re.fullmatch("encoding=(.*)", self.more)
        return self.text.encode(encoding[1] if encoding else "utf-8")

    @property
    def media(self) -> str:
        """Its Content-Type."""
        media = re.fullmatch("media=(.*)", self.more)
        return media[1] if media else MEDIA[self.language]


class Example(NamedTuple):
    """A page, the job for it, and what must come out."""

    page: Block | None
    job: Block
    answer: Block

    @property
    def fields(self) -> dict[str, Any]:
        """The job."""
        said = json.loads(self.job.text)
        return {"url": URL, **(said if self.job.what == "job" else {"extract": said})}


def blocks() -> list[Block]:
    """All fenced blocks, in order."""
    found = []
    for match in re.finditer(r"^```(.*)\n((?:(?!```).*\n)*)```$", TEXT, re.MULTILINE):
        language, what, more = f"{match[1]}  ".split(" ", 2)
        line = TEXT.count("\n", 0, match.start()) + 1
        found.append(Block(language, what, more.strip(), match[2], line))
    return found


def examples() -> Iterator[Example]:
    """Each answer with the job before it and the last page before that."""
    page = job = None
    for block in blocks()[:-1]:  # the last is the command's
        match block.what:
            case "page":
                page = block
            case "rules" | "job":
                assert job is None, f"line {block.line}: the job before it has no answer"
                job = block
            case _:
                assert job is not None, f"line {block.line}: answers nothing"
                yield Example(page, job, block)
                job = None
    assert job is None


EXAMPLES: Final = list(examples())
PAGES: Final = [example for example in EXAMPLES if example.answer.what != "invalid"]
REFUSED: Final = [example for example in EXAMPLES if example.answer.what == "invalid"]


def line_of(example: Example) -> str:
    """Where the example's answer stands."""
    return f"line {example.answer.line}"


def taken(job: dict[str, Any], body: bytes, media: str) -> Extracted:
    """What a helper process makes of a job's page, by the same functions."""
    decoded = decode_job(json.dumps(job).encode())
    assert isinstance(decoded, Job), decoded
    asked = extract_request(decoded, decoded.url, media)
    limits = extract_limits(Config())
    compiled = None if asked.rules is None else compile_rules(asked.rules, limits.bounds)
    return extract_document(asked, body, compiled, limits)


def result(job: dict[str, Any], body: bytes, media: str) -> dict[str, Any]:
    """The fields of the Result that come from the page, its status and its failure."""
    found = taken(job, body, media)
    made: dict[str, Any] = {"status": "failed" if found.failure else "ok"}
    if found.failure is not None:
        made["error"] = {"kind": found.failure.kind, "message": found.failure.message}
    parts = {name: json.loads(bytes(part)) for name, part in found.parts.items()}
    return made | parts | {"charset": found.charset, "content_hash": found.digest}


def section(heading: str) -> str:
    """What stands under a heading of any level, up to the next one."""
    return re.split(r"\n#+ ", TEXT.split(f"# {heading}\n", 1)[1], maxsplit=1)[0]


def rows(text: str, start: str) -> list[list[str]]:
    """The cells of the table whose head begins with `start`."""
    table = re.split(rf"\n\| {re.escape(start)} \|.*\n\| ---.*\n", text, maxsplit=1)[1]
    return [re.split(r" ?\| ?", line)[1:-1] for line in table.split("\n\n", 1)[0].splitlines()]


def names(text: str) -> set[str]:
    """What stands in backticks."""
    return set(re.findall(r"`([^`]+)`", text))


def test_no_example_is_left_out() -> None:
    """Every fence belongs to a block that was read, and every page to an example that was run."""
    assert TEXT.count("```") == 2 * len(blocks())
    assert [block.what for block in blocks()].index("command") == len(blocks()) - 1
    used = {example.page for example in PAGES}
    assert used == {block for block in blocks() if block.what == "page"}
    assert {example.answer.what for example in EXAMPLES} == {"data", "result", "invalid"}
    assert not re.search(r"\n\n(    |\t)", TEXT), "a block that is not fenced is not checked"


@pytest.mark.parametrize("example", PAGES, ids=line_of)
def test_the_example_gives_its_answer(example: Example) -> None:
    """A page with its rules gives exactly what is shown, the order of names included."""
    assert example.page is not None
    found = result(example.fields, example.page.body, example.page.media)
    shown = json.loads(example.answer.text)
    if example.answer.what == "data":
        shown = {"status": "ok", "data": shown}
    found = {name: value for name, value in found.items() if name in shown or name not in UNSAID}
    assert found == shown
    exact = [json.dumps(each.get("data"), ensure_ascii=False) for each in (found, shown)]
    assert exact[0] == exact[1]  # 12 is not 12.0, and the names stand in the rules' order


@pytest.mark.parametrize("example", REFUSED, ids=line_of)
def test_the_refused_example_says_why(example: Example) -> None:
    """Rules that are shown as refused are, with that message."""
    with pytest.raises(RuleError) as caught:
        compile_rules(json.dumps(example.fields["extract"]).encode())
    assert str(caught.value) == example.answer.text.strip()


@pytest.mark.parametrize("example", PAGES, ids=line_of)
def test_the_example_fits_the_schema(example: Example) -> None:
    """What is shown as good is good for whoever checks jobs by the JSON Schema."""
    JOBS.validate(example.fields)


BASES: Final = (
    {"selector": "p"},
    {"selector": "p", "type": "list"},
    {"selector": "p", "regex": "(?P<junk>b)"},
    {"selector": "p", "cast": "int"},
    {"selector": "p", "cast": "date"},
    {"selector": "p", "output": "table"},
    {"jmespath": "a"},
)
JUNK: Final = ["", "junk", "@", "@a", ".", 0, 1, -1, 1.5, True, [], ["p"], [1], {}, {"a": "b"}]
# Key and value of rules that the schema can't tell from good ones.
UNKNOWABLE: Final = {
    ("selector", "@"),
    ("selector", "@a"),
    ("selector", "."),
    ("jmespath", "@a"),
    ("jmespath", "."),
    ("regex", "["),
    ("format", "junk"),
    ("format", "@"),
    ("format", "@a"),
    ("format", "."),
    ("format", "['p']"),
    ("group", "@"),
    ("group", "@a"),
    ("group", "."),
    ("group", ""),
    ("group", "-1"),
}


def test_the_schema_and_the_compiler_agree() -> None:
    """No rule that compiles is refused by the schema; and of the others it lets only known ones by.

    Each key is given each kind of value, beside others that it may need.
    """
    by_schema, by_compiler = set(), set()
    for key in compiling._KEYS:
        for value in [*JUNK, "["] if key == "regex" else JUNK:
            for base in BASES:
                tree = {"x": {**base, key: value}}
                is_valid = JOBS.is_valid({"url": URL, "extract": tree})
                try:
                    compile_rules(json.dumps(tree).encode())
                except RuleError:
                    pass
                else:
                    assert is_valid, tree
                    by_compiler.add((key, str(value)))
                if is_valid:
                    by_schema.add((key, str(value)))
    assert by_schema - by_compiler == UNKNOWABLE


def test_the_links_within_the_page_lead_somewhere() -> None:
    """Each leads to a heading, by the name that GitHub gives it."""
    headings = re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= anchors


def test_the_tables_name_all_there_is() -> None:
    """Keys, outputs, casts, includes, metadata, functions and directives are the code's."""
    assert [*map(str, compiling._KEYS)] == [row[0].strip("`") for row in rows(TEXT, "key")]
    outputs = [row[0].strip("`") for row in rows(TEXT, "`output`")]
    assert outputs == ["text", "html", "@name", "table", "an object"]
    assert [row[0].strip("`") for row in rows(TEXT, "`cast`")] == [*get_args(Cast)]
    assert {row[0].strip("`") for row in rows(TEXT, "`include`")} == {*get_args(Include)}
    fields = [row[0].strip("`") for row in rows(TEXT, "field of `metadata`")]
    assert fields == [*Metadata.__struct_fields__]
    functions = re.search(r"^The functions: ([^.]*)\.", TEXT, re.MULTILINE)
    assert functions
    assert names(functions[1]) == {*compiling._FUNCTIONS}
    casts = section("Casts")
    assert set(re.findall(r"`%([A-Za-z])`", casts)) == {*dates._DIRECTIVES}
    urls = section("Attributes and URLs").split("redirects: ")[1].split(".\nThat")[0]
    assert names(urls) == compiling._URL_ATTRIBUTES


def test_the_choices_and_defaults_of_keys_are_the_codes() -> None:
    """What the table of keys says a value may be is what the schema says."""
    said = {row[0].strip("`"): row[1:] for row in rows(TEXT, "key")}
    rule = schema(Job)["$defs"]["Job"]["properties"]["extract"]["additionalProperties"]["anyOf"][1]
    for key, spec in rule["properties"].items():
        if "enum" in spec:
            assert [*re.findall(r"`([^`]+)`", said[key][0])] == spec["enum"]
    assert "1 to 20" in said["selector"][0]
    assert compiling.MAX_FALLBACKS == 20
    assert "1 to 10" in said["format"][0]
    assert compiling.MAX_FORMATS == 10
    plain = compile_rules(b'{"x": {"selector": "p"}}').by_name[0][1]
    assert (plain.output, plain.many, plain.required) == ("text", False, False)


def test_short_forms_are_short_for_what_is_said() -> None:
    """Each row of the table of short forms is compiled to what its long form is compiled to."""
    for short, long in rows(TEXT, "string"):
        [text] = names(short)
        outer = {"jmespath": "a"} if "JSON" in short else {"selector": "p"}
        inside = "inside" in short
        forms = [
            {"x": {**outer, "output": {"y": form}} if inside else form}
            for form in (text, json.loads(long.strip("`")))
        ]
        # By their reprs: an expression of jmespath is equal to itself alone.
        first, second = (repr(compile_rules(json.dumps(form).encode())) for form in forms)
        assert first == second


def test_selectors_that_are_said_to_work_do() -> None:
    """And those that are said not to are refused."""
    text = section("Selectors")
    good = re.search(r"among others: (.*?)\.\s+`:scope`", text, re.DOTALL)
    assert good
    for selector in names(" ".join(good[1].split())):
        filled = re.sub(r"(?<=nth-of-type)\(\)", "(2)", selector).replace("()", "(p)")
        compile_rules(json.dumps({"x": {"selector": filled}}).encode())
    for bad in (
        "p::text",
        "p:eq(1)",
        "p:first",
        "p:contains('a')",
        "p :scope",
        "p:lang(en)",
        "> p",
    ):
        name = re.search("[:>]+[a-z]*", bad)
        assert name
        assert f"`{name[0]}" in text
        with pytest.raises(RuleError):
            compile_rules(json.dumps({"x": {"selector": bad}}).encode())


def test_numbers_and_dates_in_the_text_are_read_as_it_says() -> None:
    """`text` is VALUE, what groups, and which dates are and are not read."""
    casts = section("Casts")
    said = re.findall(r"`([^`]+)` is (\d[\d.]*\d|\d)(?: or (\d[\d.]*\d))?", casts)
    assert len(said) >= 4
    for text, first, second in said:
        values = [cast("int", text), cast("float", text)]
        assert float(first) in values
        assert not second or float(second) in values
    grouped = next(row[1] for row in rows(casts, "separators") if "several" in row[0])
    assert {cast("int", text) for text in names(grouped)} == {1234567}
    read, _, unread = casts.partition("Not read:")
    for text in names(unread.split("a wrong weekday")[0]):
        assert cast("date", text) is None
    for text in names(read.split("day and year in either order, ")[1]):
        assert cast("date", text) == "2024-05-12"
    for name in ("UTC", "GMT", "EST"):
        assert cast("date", f"12 May 2024 10:00 {name}")


FULL: Final = {
    "feed": """<rss version="2.0" xmlns:content="http://purl.org/rss/1.0/modules/content/"
      xmlns:atom="http://www.w3.org/2005/Atom"><channel><title>t</title><link>/</link>
      <description>d</description><language>en</language><managingEditor>a</managingEditor>
      <pubDate>12 May 2024 10:00:00 GMT</pubDate><item><guid>1</guid><title>t</title>
      <link>/1</link><description>d</description><content:encoded>c</content:encoded>
      <author>a</author><pubDate>12 May 2024 10:00:00 GMT</pubDate>
      <atom:updated>2024-05-12T10:00:00Z</atom:updated><category>c</category>
      <enclosure url="/1.mp3" type="audio/mpeg" length="1"/></item></channel></rss>""",
    "sitemap": """<urlset xmlns:xhtml="http://www.w3.org/1999/xhtml"
      xmlns:image="http://www.google.com/schemas/sitemap-image/1.1"
      xmlns:news="http://www.google.com/schemas/sitemap-news/0.9"><url><loc>/1</loc>
      <lastmod>2024-05-12</lastmod><changefreq>daily</changefreq><priority>1</priority>
      <xhtml:link rel="alternate" hreflang="en" href="/en"/>
      <image:image><image:loc>/1.png</image:loc></image:image>
      <news:news><news:title>t</news:title><news:publication_date>2024-05-12</news:publication_date>
      <news:publication><news:name>n</news:name><news:language>en</news:language></news:publication>
      </news:news></url></urlset>""",
}


def test_the_table_of_feeds_has_all_fields() -> None:
    """The fields of a feed and its entries are those that documents with everything give."""
    job = {"url": URL, "include": ["feed"]}
    feed, sitemap = (result(job, text.encode(), "text/xml")["feed"] for text in FULL.values())
    table = rows(TEXT, "field")
    for column, found in enumerate((feed, feed["entries"][0], sitemap["entries"][0]), 1):
        said = {name for row in table if row[column] for name in names(row[0])}
        assert said == set(found)
    places = sitemap["entries"][0]
    [nested] = (row[3].split("; ") for row in table if "`news`" in row[0])
    parts = (places["alternates"][0], places["images"][0], places["news"])
    for text, part in zip(nested, parts, strict=True):
        assert names(text) == set(part)


MEDIA_ROWS: Final = [
    (row, name.replace("…+", "application/x+").replace("…", "x"))
    for row in rows(TEXT, "document")
    for name in sorted(names(row[0].partition(";")[0])) or ["image/png"]
]


@pytest.mark.parametrize(("row", "media"), MEDIA_ROWS, ids=[each[1] for each in MEDIA_ROWS])
def test_documents_are_read_as_the_table_says(row: list[str], media: str) -> None:
    """By its Content-Type a document is searched, or fails, and its body is text or base64."""
    if row[0].startswith("feeds"):
        media, html, data = "application/rss+xml", FULL["feed"], FULL["feed"]
    else:
        html, data = "<p>x</p>", '{"title": "t"}'
    for cell, rule, body in ((row[1], "p", html), (row[2], {"jmespath": "title"}, data)):
        found = result({"url": URL, "extract": {"x": rule}}, body.encode(), media)
        is_json = "unless the body is JSON" in cell
        assert ("data" in found) == (cell == "searched" or is_json)
        assert ("error" in found) == (cell.startswith("fail") and not is_json)
    both = {"url": URL, "extract": {"h": "p", "j": {"jmespath": "title"}}}
    is_read = row[1] == "searched" or "together" in row[1]
    assert ("data" in result(both, data.encode(), media)) == is_read
    if "unless" in row[2]:
        job = {"url": URL, "extract": {"x": {"jmespath": "title"}}}
        assert result(job, b"<p>x</p>", media)["error"]["kind"] == "extract"
    whole = result({"url": URL}, b"<p>x</p>", media)
    assert ("body_encoding" in whole) == (row[3] == "base64")


def test_documents_without_a_type_are_read_as_the_table_says() -> None:
    """Their first bytes tell."""
    both = {"url": URL, "extract": {"h": "p", "j": {"jmespath": "title"}}, "include": ["body"]}
    assert result(both, b" <p>x</p>", "")["data"] == {"h": "x", "j": None}
    assert result(both, b' {"title": "t"}', "")["data"] == {"h": None, "j": "t"}
    text, binary = (result(both, body, "") for body in (b"title", b"\x00title"))
    assert text["error"]["kind"] == binary["error"]["kind"] == "extract"
    assert text["body"] == "title"
    assert binary["body_encoding"] == "base64"


def deep(levels: int) -> dict[str, Any]:
    """Rules nested so deep."""
    inner: Any = "p"
    for _ in range(levels - 1):
        inner = {"selector": "p", "output": {"x": inner}}
    return {"x": inner}


def overstepped(config: Config) -> Iterator[tuple[str, str, str]]:
    """Each setting with the kind and message of the failure past it."""
    own = config.extract
    for name, tree in (
        ("extract.max_rules", dict.fromkeys(map(str, range(own.max_rules + 1)), "p")),
        ("extract.max_depth", deep(own.max_depth + 1)),
        ("extract.max_selector_length", {"x": "p" * (own.max_selector_length + 1)}),
        ("extract.max_selectors_length", {str(n): "p" * 990 for n in range(51)}),
    ):
        with pytest.raises(RuleError) as caught:
            compile_rules(json.dumps(tree).encode())
        yield name, "invalid_job", caught.value.reason
    everything = {"url": URL, "extract": {"x": {"selector": "p", "type": "list"}}}
    for name, body in (
        ("extract.max_matches", b"<p>" * (own.max_matches + 1)),
        ("extract.max_output_size", b"<p>" + b"a" * (own.max_output_size + 1)),
    ):
        failure = taken(everything, body, "text/html").failure
        assert failure is not None
        yield name, failure.kind, failure.message.removeprefix("extract.x: ")
    extractor = extractor_of(config)
    yield "sandbox.timeout", "extract", extractor.cause(-signal.SIGPROF)
    yield "sandbox.memory", "extract", extractor.cause(None)


def test_bounds_are_the_settings() -> None:
    """Each setting of extraction has its row with its default, and what happens past it."""
    config = Config()
    table = {row[0].strip("`"): row[1:] for row in rows(TEXT, "setting")}
    settings = {name for name in SETTINGS if name.startswith(("extract.", "sandbox."))}
    settings -= {"sandbox.dumpable"}
    assert set(table) == settings
    for name, (default, _) in table.items():
        value = value_of(config, name)
        assert default.split()[0] == (f"{value:g}" if isinstance(value, float) else f"{value:,}")
    failing = list(overstepped(config))
    assert {name for name, *_ in failing} == settings - {"sandbox.processes"}
    for name, kind, message in failing:
        assert table[name][1].startswith(f"`{kind}`: `{message}`")
    compile_rules(json.dumps(deep(config.extract.max_depth)).encode())  # no deeper than that
    compile_rules(b'{"x": {"selector": "p", "regex": "a{1000}"}}')
    with pytest.raises(RuleError):
        compile_rules(b'{"x": {"selector": "p", "regex": "a{1001}"}}')
    assert "to 1,000, and a pattern that needs more than 640 KiB" in section("Regex")
    assert compiling._REGEX_MEMORY == 640 * 1024
    text = " ".join(section("Bounds").split())
    assert f"at most {compiling.MAX_SIZE:,} bytes of JSON" in text
    assert f"selectors has at most {compiling.MAX_FALLBACKS}" in text
    assert f"formats at most {compiling.MAX_FORMATS}, a format {dates.LONGEST_FORMAT} " in text


def test_the_command_does_what_is_shown(tmp_path: Path) -> None:
    """The files that are shown, given to the command that is shown, print what is shown."""
    console = blocks()[-1].text
    *files, (command, output) = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", console, re.MULTILINE)
    for cat, text in files:
        (tmp_path / cat.removeprefix("cat ")).write_text(text, encoding="utf-8")
    program, *arguments = shlex.split(command)
    assert program == "scraperd"
    done = subprocess.run(
        [sys.executable, "-m", "scraperd", *arguments],
        env=environment({}),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    shown, brace, matches = output.partition("\n}\n")
    expected = json.loads(shown + brace)
    found = json.loads(done.stdout)
    assert {name: found[name] for name in expected} == expected
    assert done.stderr == matches


def test_the_commands_options_are_explained() -> None:
    """All options of `scraperd scrape` are in the table, but for those that are not about rules."""
    explained = set(
        re.findall(r"--[a-z]+[a-z-]*", section("Trying rules").split("| argument |")[1])
    )
    options = {option for parameter in scrape.params for option in parameter.opts}
    others = {"--config", "--header", "-H", "-c", "source", "--no-follow"}
    assert explained == options - others
