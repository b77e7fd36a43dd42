"""The published URL corpora, as `make conformance` runs them.

May touch: the corpora in tests/data/conformance/.
Must never: know why a case differs; the corpus says that.
"""

from __future__ import annotations

import pytest

from tests.conformance.urls import Corpus, hosts, idna, jobs, references


@pytest.mark.parametrize(
    ("corpus", "fewest"),
    [(references, 350), (jobs, 300), (hosts, 30), (idna, 1300)],
    ids=lambda it: str(it)[:20],
)
def test_urls_are_read_as_the_standard_says(corpus: object, fewest: int) -> None:
    """Each case of web-platform-tests agrees, but for URLs that no job may have; none is lost."""
    assert callable(corpus)
    found = corpus()
    assert isinstance(found, Corpus)
    assert found.differ == []
    assert found.agree >= fewest
