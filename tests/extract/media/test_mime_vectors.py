"""The published corpora of MIME types, as `make conformance` runs them.

May touch: the corpora in tests/data/conformance/.
Must never: know why a case differs; the corpus says that.
"""

from __future__ import annotations

import pytest

from tests.conformance import media
from tests.conformance.urls import Corpus


@pytest.mark.parametrize(
    ("corpus", "fewest", "explained"),
    [
        (media.types, 950, 0),
        (media.headers, 55, 0),
        (media.unknown, 70, 8),
        (media.scriptable, 4428, 0),
        (media.computed_types, 85, 17),
    ],
    ids=lambda it: getattr(it, "__name__", ""),
)
def test_types_are_what_the_standards_say(corpus: object, fewest: int, explained: int) -> None:
    """Each case agrees, but for images, audio and video, which are binary in any case."""
    assert callable(corpus)
    found = corpus()
    assert isinstance(found, Corpus)
    assert found.differ == []
    assert found.agree >= fewest
    assert found.explained.total() == explained
