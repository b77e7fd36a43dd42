"""The published bodies of brotli and zstd, as `make conformance` runs them.

May touch: the corpora in tests/data/conformance/, sockets on loopback.
Must never: take a difference that has no reason.
"""

from __future__ import annotations

from tests.conformance import codings


def test_each_body_is_its_original() -> None:
    """However it is sent, a body is the file it was made of, or fails as its makers say."""
    [brotli] = codings.corpora()
    assert (brotli.differ, brotli.agree) == ([], 298)
