"""What ops/events.py says of the log: lines are read by it, and documents have its tables.

May touch: docs/operations/observe.md, which `python -m tests.rig.checks.events` writes.
Must never: know an event or a field that is not in ops/events.py.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Union

import msgspec
from msgspec import UNSET, UnsetType

from scraperd.ops.events import EVENTS, FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from scraperd.ops.events import Event, Type

OBSERVE: Final = Path(__file__).parents[3] / "docs/operations/observe.md"
_TYPES: Final[dict[Type, Any]] = {
    "text": str,
    "text or null": str | None,
    "integer": int,
    "number": float,
    "true or false": bool,
    "list of texts": list[str],
}


def faults(texts: Iterable[str]) -> Iterator[str]:
    """Yield what is wrong with each line of a JSON log: its event, its fields or their types.

    Another text, such as a line that a killed process left half written, is passed over.
    """
    for text in texts:
        if text.startswith('{"timestamp":') and text.endswith("}"):
            try:
                _decoder().decode(text)
            except msgspec.ValidationError as error:
                yield f"{error}: {text[:500]}"


@cache
def _decoder() -> msgspec.json.Decoder[Any]:
    types = [_type_of(name, event) for name, event in EVENTS.items()]
    return msgspec.json.Decoder(Union[tuple(types)])  # noqa: UP007 - of a list


def _type_of(name: str, event: Event) -> type[msgspec.Struct]:
    """The type of the lines of an event; they hold nothing else."""
    fields: list[Any] = [("timestamp", str), ("level", Literal[event.levels])]
    fields += [(field, _TYPES[FIELDS[field].type]) for field in event.fields]
    fields += [(field, _TYPES[FIELDS[field].type] | UnsetType, UNSET) for field in event.at_times]
    return msgspec.defstruct(
        name, fields, tag_field="event", tag=name, kw_only=True, forbid_unknown_fields=True
    )


def tables() -> dict[str, str]:
    """The tables of docs/operations/observe.md by the headings that they stand under."""
    events = [
        (f"`{name}`", ", ".join(event.levels), event.meaning, event.todo)
        for name, event in EVENTS.items()
    ]
    fields = [
        (f"`{name}`", field.type, field.meaning, _users(name, "fields"), _users(name, "at_times"))
        for name, field in FIELDS.items()
    ]
    return {
        "What the log says, and what to do": _table(
            ("event", "level", "meaning", "what to do"), events
        ),
        "The fields of a line": _table(
            ("field", "type", "meaning", "always in", "at times in"), fields
        ),
    }


def _users(field: str, among: str) -> str:
    names = [name for name, event in EVENTS.items() if field in getattr(event, among)]
    return ", ".join(f"`{name}`" for name in names)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [" | ".join(row) for row in (head, ("---",) * len(head), *rows)]
    return "".join(f"| {line} |\n".replace("|  |", "| |") for line in lines)


def write() -> None:
    """Put the tables into the page, in place of those under their headings."""
    page = OBSERVE.read_text()
    for heading, table in tables().items():
        before, after = page.split(f"## {heading}\n", 1)
        old = re.search(r"(?:^\|.*\n)+", after, re.MULTILINE)
        assert old is not None, f"{OBSERVE}: no table under {heading!r}"
        page = f"{before}## {heading}\n{after[: old.start()]}{table}{after[old.end() :]}"
    OBSERVE.write_text(page)


if __name__ == "__main__":
    write()
