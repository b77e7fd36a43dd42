"""`make conformance`: a table of the published corpora, and of what differs and why.

May touch: the terminal, the exit code.
Must never: hide a difference.
"""

from __future__ import annotations

import sys

from tests.conformance import codings, cookies, encodings, urls

_GROUPS = (
    urls.corpora,
    encodings.corpora,
    cookies.corpora,
    codings.corpora,
)


def main() -> None:
    """Print the table; exit with 1 if a difference has no reason."""
    bad = 0
    print("| corpus | agree | differ for a reason | differ |\n| --- | --- | --- | --- |")
    found = [corpus for group in _GROUPS for corpus in group()]
    for corpus in found:
        explained = corpus.explained.total()
        print(f"| {corpus.name} | {corpus.agree} | {explained} | {len(corpus.differ)} |")
    for corpus in found:
        for why, count in corpus.explained.items():
            print(f"{corpus.name}: {count} times: {why}")
        for line in corpus.differ:
            print(f"{corpus.name}: DIFFERS: {line}")
        bad += len(corpus.differ)
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
