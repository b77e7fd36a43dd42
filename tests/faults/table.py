"""The table at the end: a line for each row, for a terminal or as markdown.

May touch: reports.
Must never: leave out a row, or a figure that looks bad.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.faults.bench import Report
    from tests.faults.probes import Probe

HEAD = (
    *("no.", "fault", "accepted", "lost", "dup.", "longest stall s", "recovered in s"),
    *("fds", "tasks", "channels", "memory MB", "took s", "good"),
)


def lines(reports: Sequence[Report]) -> list[str]:
    """The table in columns."""
    cells = [HEAD, *(_cells(report) for report in reports)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(HEAD))]
    return ["  ".join(map(_fit, row, widths, range(len(HEAD)))).rstrip() for row in cells]


def markdown(reports: Sequence[Report]) -> str:
    """The table as markdown. Descriptors, tasks and memory: before the load, and at the end."""
    rule = ["---" if column in (1, len(HEAD) - 1) else "---:" for column in range(len(HEAD))]
    rows = [HEAD, rule, *(_cells(report) for report in reports)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _cells(report: Report) -> tuple[str, ...]:
    return (
        str(report.row.number),
        report.row.name,
        str(report.accepted),
        str(report.lost),
        str(report.duplicated),
        f"{report.stall:.1f}",
        f"{report.recovery:.1f}" if report.recovery else "-",
        _pair(report.before, report.after, "fds"),
        _pair(report.before, report.after, "tasks"),
        _pair(report.before, report.after, "channels"),
        _pair(report.before, report.after, "memory"),
        f"{report.seconds:.1f}",
        "NO" if report.complaints else "yes",
    )


def _pair(before: Probe | None, after: Probe | None, what: str) -> str:
    return " ".join(
        "-" if probe is None else str(getattr(probe, what)) for probe in (before, after)
    )


def _fit(text: str, width: int, column: int) -> str:
    return text.ljust(width) if column in (1, len(HEAD) - 1) else text.rjust(width)
