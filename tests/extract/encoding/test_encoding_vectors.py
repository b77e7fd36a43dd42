"""The published corpus of encodings, as `make conformance` runs it.

May touch: the corpus in tests/data/conformance/.
Must never: know why a case differs; the corpus says that.
"""

from __future__ import annotations

from tests.conformance.encodings import pages


def test_encodings_are_found_as_html5lib_tests_say() -> None:
    """Each page of html5lib-tests has the encoding that its case names; none is lost."""
    found = pages()
    assert found.differ == []
    assert found.agree + found.explained.total() >= 80
