"""Check the Markdown pages by docs/style.md: phrases, one sentence a line, short sentences.

May touch: the checkout's Markdown pages, to read.
Must never: change one.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKOUT: Final = Path(__file__).resolve().parents[3]
MAX_WORDS: Final = 32  # a sentence; docs/style.md asks for 25, but some sentences list names
LAST_OLD_DECISION: Final = 29  # pages up to this number are as they were written
EXAMPLES: Final = "docs/style.md"  # shows bad phrases in its table, so its tables are not checked

BANNED: Final = {
    r"\b(?:is|are|was|were) none\b": 'say "not", "invalid" or "missing"',
    r"(?<!there )\bis no (?:argument|attempt|failure|setting|suspect|text|value)\b": 'say "not a"',
    r"\bwho(?:m|so)?ever\b": 'say "anybody who" or name the person',
    r"\b(?:somebody|nobody)\b": "name the person or the program",
    r"\b(?:for ever|evermore)\b": 'say "without end" or "always"',
    r"\banew\b": 'say "again" or "new"',
    r"\bwhatever\b": 'say "any" or "anything that"',
    r"\bbegun\b": 'say "started"',
    r"\bbeside\b": 'say "next to", "at the same time as" or "also"',
    r"\bstrangers?\b": 'say "untrusted"',
    r"\bsaid so\b": "name the place that says it",
    r"\bof the day\b": 'say "current"',
    r"\b(?:thereof|therein|whence|hence|thus|lest|albeit|amongst)\b": "use a common word",
    r"\ba joke\b": "say what is wrong",
    r"\bTODO\b": "open an issue",
}


class Line(NamedTuple):
    """A line of prose: its number, its text without code and links, and whether it goes on."""

    number: int
    text: str
    continues: bool  # the next line belongs to the same paragraph


def main() -> int:
    """Print each fault as `file:line: fault`. Return 1 if a page has a fault, else 0."""
    faults = [
        f"{path.relative_to(CHECKOUT)}:{number}: {fault}"
        for path in pages()
        for number, fault in faults_of(path)
    ]
    print("\n".join(faults) or "prose: every page keeps to docs/style.md")
    return 1 if faults else 0


def pages() -> list[Path]:
    """Return the Markdown pages that have to keep to the style."""
    found = [*CHECKOUT.glob("*.md"), *(CHECKOUT / "docs").rglob("*.md")]
    return sorted(path for path in found if not is_excused(path.relative_to(CHECKOUT)))


def is_excused(page: Path) -> bool:
    """Return True for a decision that is older than the style."""
    number = re.match(r"\d{4}", page.name)
    return number is not None and int(number[0]) <= LAST_OLD_DECISION


def faults_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line number and the description of each fault of a page."""
    lines = without_code(path.read_text(encoding="utf-8").splitlines())
    shows_bad_phrases = path == CHECKOUT / EXAMPLES
    for number, line in enumerate(lines, 1):
        if not (shows_bad_phrases and (line.startswith("|") or '"' in line)):
            yield from ((number, fault) for fault in banned_in(line))
    for sentence in prose(lines):
        yield from ((sentence.number, fault) for fault in sentence_faults(sentence))


def without_code(lines: list[str]) -> list[str]:
    """Return the lines without code blocks, with inline code as one word, and links as text."""
    kept, is_fenced, is_block = [], False, False
    before = ""
    for line in lines:
        is_fence = line.lstrip().startswith("```")
        is_block = line.startswith("    ") and (is_block or not before.strip())
        before = line
        if is_fence:
            is_fenced = not is_fenced
        if is_fence or is_fenced or is_block:
            kept.append("")
            continue
        text = re.sub(r"``.+?``|`[^`]+`", "code", line)
        kept.append(re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text))
    return kept


def prose(lines: list[str]) -> Iterator[Line]:
    """Yield the lines of paragraphs and list items; not tables, headings and empty lines."""
    for number, line in enumerate(lines, 1):
        after = lines[number] if number < len(lines) else ""
        if line.strip() and not re.match(r"[|#<]|-{3}", line):
            is_new = not after.strip() or bool(re.match(r"\s*(?:[-*] |\d+\. |[|#<])", after))
            yield Line(number, re.sub(r"^\s*(?:[-*] |\d+\. )", "", line).strip(), not is_new)


def banned_in(line: str) -> Iterator[str]:
    """Yield a fault for each banned phrase of a line."""
    for pattern, advice in BANNED.items():
        for match in re.finditer(pattern, line, re.IGNORECASE):
            yield f"{match[0]!r} is a banned phrase: {advice}"


def sentence_faults(line: Line) -> Iterator[str]:
    """Yield a fault for a line that is not exactly one sentence, or that is too long."""
    text = re.sub(r"[*_]{2}", "", line.text)
    sentences = re.split(r"(?<=[.!?])\)?\s+(?=[A-Z\"(])", text)
    if len(sentences) > 1:
        yield f"{len(sentences)} sentences on one line; write one sentence a line"
    if line.continues and not re.search(r"[.:;!?][)\"]?$", text):
        yield "a sentence goes on in the next line; write one sentence a line"
    for sentence in sentences:
        words = len(re.findall(r"\w[\w'-]*", sentence))
        if words > MAX_WORDS:
            yield f"a sentence of {words} words, more than {MAX_WORDS}"


if __name__ == "__main__":
    sys.exit(main())
