"""The command: `python -m tests.faults`, every fault or those that are named, and the table.

May touch: a temporary folder, standard output, the file that --markdown names.
Must never: exit with 0 if a row was not good.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from pathlib import Path

from tests.faults import table
from tests.faults.bench import Bench, Report
from tests.faults.register import Row, every_row


def main() -> int:
    """Play the rows; 1 if any was not good."""
    options = _options()
    rows = every_row()
    if options.list:
        print("\n".join(f"{row.number:>3}  {row.name:30} {row.what}" for row in rows.values()))
        return 0
    if unknown := set(options.only or ()) - rows.keys():
        sys.exit(f"no such row: {', '.join(sorted(unknown))}; --list names them all")
    chosen = [row for name, row in rows.items() if not options.only or name in options.only]
    logging.getLogger("pika").setLevel(logging.CRITICAL + 1)  # that brokers go is the bench's aim
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="faults-") as folder,
        Bench(Path(folder), short=options.short, release=options.rabbitmq) as bench,
    ):
        reports = [_play(bench, row) for row in chosen]
    print("\n".join(["", *table.lines(reports)]))
    if options.markdown:
        options.markdown.write_text(table.markdown(reports))
    bad = [report for report in reports if report.complaints]
    print(f"\n{len(reports)} rows, {len(bad)} not good, {time.monotonic() - began:.0f} s")
    for report in bad:
        print(f"\n{report.text}")
    return 1 if bad else 0


def _play(bench: Bench, row: Row) -> Report:
    print(f"{row.number:>3}  {row.name}: {row.what}", flush=True)
    report = bench.play(row)
    how = f"NOT GOOD: {'; '.join(report.complaints)[:300]}" if report.complaints else "good"
    print(f"     {how}; {report.accepted} jobs, {report.seconds:.1f} s", flush=True)
    return report


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these rows; default: all")
    parser.add_argument("--short", action="store_true", help="few jobs and quick heartbeats")
    parser.add_argument("--rabbitmq", default="", metavar="RELEASE", help="such as 4")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there too")
    parser.add_argument("--list", action="store_true", help="name the rows and end")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
