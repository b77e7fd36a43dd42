"""Tests of content codings: what they undo, how little at a time, and what they refuse.

May touch: bytes, as real encoders make them.
Must never: need a network.
"""

from __future__ import annotations

import gzip
import itertools
import random
import tracemalloc
import zlib
from typing import TYPE_CHECKING

import brotli
import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from scraperd.base.inflate import BROTLI_KEPT, MAX_MEMBERS, STEP, Inflater, Undecodable

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = random.Random(1).randbytes(100_000) + b"<p>the same again</p>" * 10_000


def raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(data) + stream.flush()


ENCODERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "zlib": ("deflate", zlib.compress),
    "bare deflate": ("deflate", raw_deflate),
    "br": ("br", lambda data: brotli.compress(data, quality=5)),
    "zstd": ("zstd", zstd.compress),
}
every_coding = pytest.mark.parametrize(("coding", "encode"), ENCODERS.values(), ids=ENCODERS)


def undo(coding: str, data: bytes, size: int) -> tuple[bytes, bool]:
    """What comes out when the bytes come `size` at a time, and whether the stream ended."""
    stream = Inflater(coding)
    pieces = [
        piece for start in range(0, len(data), size) for piece in stream.feed(data[start:][:size])
    ]
    assert max(map(len, pieces), default=0) <= 2 * STEP
    return b"".join(pieces), stream.ended


@every_coding
@pytest.mark.parametrize("size", [1000, STEP, 10**9])
def test_undoes_what_an_encoder_made(
    coding: str, encode: Callable[[bytes], bytes], size: int
) -> None:
    """However the network cuts it, the page comes back whole, no piece much larger than a step."""
    assert undo(coding, encode(PAGE), size) == (PAGE, True)


@every_coding
@pytest.mark.parametrize("page", [b"", b"x", b"<p>hello</p>"])
def test_byte_by_byte(coding: str, encode: Callable[[bytes], bytes], page: bytes) -> None:
    """The shortest pages, in the shortest pieces."""
    assert undo(coding, encode(page), 1) == (page, True)


@every_coding
@pytest.mark.parametrize("missing", [1, 3, 20])
def test_a_stream_that_ends_early_is_not_whole(
    coding: str, encode: Callable[[bytes], bytes], missing: int
) -> None:
    """Without its last bytes a stream has not ended, though much of the page has come out."""
    out, ended = undo(coding, encode(PAGE)[:-missing], STEP)
    assert not ended
    assert PAGE.startswith(out)


@every_coding
def test_no_bytes_at_all_are_whole(coding: str, encode: Callable[[bytes], bytes]) -> None:
    """An empty body with a Content-Encoding is common (a HEAD, a redirect), and no fault."""
    assert encode(b"") != b""
    assert undo(coding, b"", 1) == (b"", True)


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
@pytest.mark.parametrize("size", [1, 10**6])
def test_what_is_no_such_coding_is_refused(coding: str, size: int) -> None:
    """A page that was never encoded is told from one that was. Bare deflate takes anything."""
    with pytest.raises(Undecodable, match=coding):
        undo(coding, b"<html>never encoded</html>" * 10, size)


@every_coding
def test_a_changed_byte_is_noticed(coding: str, encode: Callable[[bytes], bytes]) -> None:
    """A bit that tips over in the middle is an error, an early end, or at least another page."""
    data = bytearray(encode(PAGE))
    data[len(data) - 40] ^= 0x10
    try:
        out, ended = undo(coding, bytes(data), STEP)
    except Undecodable:
        return
    assert not ended or out != PAGE


@pytest.mark.parametrize(("coding", "encode"), [ENCODERS["gzip"], ENCODERS["zstd"]])
@pytest.mark.parametrize("size", [1, 7, 10**6])
def test_members_follow_each_other(
    coding: str, encode: Callable[[bytes], bytes], size: int
) -> None:
    """RFC 1952 section 2.2 and RFC 8878 section 3.1: streams may be strung together."""
    data = encode(b"one, ") + encode(b"") + encode(b"two")
    assert undo(coding, data, size) == (b"one, two", True)


def skippable(data: bytes, number: int = 0) -> bytes:
    """A zstd frame that a decoder passes over (RFC 8878 section 3.1.2)."""
    return (0x184D2A50 + number).to_bytes(4, "little") + len(data).to_bytes(4, "little") + data


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40).map(lambda data: (zstd.compress(data), data)),
            st.builds(skippable, st.binary(max_size=40), st.integers(0, 15)).map(
                lambda frame: (frame, b"")
            ),
        ),
        max_size=6,
    ),
    st.integers(1, 300),
)
def test_zstd_frames_of_both_kinds_are_one_stream(
    frames: list[tuple[bytes, bytes]], size: int
) -> None:
    """RFC 8878 section 3.1: frames and skippable frames in any order, cut anywhere."""
    data = b"".join(frame for frame, _ in frames)
    assert undo("zstd", data, size) == (b"".join(page for _, page in frames), True)


@pytest.mark.parametrize("size", [1, 10**6])
def test_endless_skippable_frames_are_refused(size: int) -> None:
    """They yield no byte either, so they count as members."""
    with pytest.raises(Undecodable, match="members"):
        undo("zstd", zstd.compress(b"x") + skippable(b"") * MAX_MEMBERS, size)


@pytest.mark.parametrize(("coding", "encode"), [ENCODERS["gzip"], ENCODERS["zstd"]])
@pytest.mark.parametrize("size", [1, 10**6])
def test_a_further_member_must_be_whole_too(
    coding: str, encode: Callable[[bytes], bytes], size: int
) -> None:
    """Half of the second member is an early end, not the end of the first."""
    out, ended = undo(coding, encode(b"one, ") + encode(b"two")[:-2], size)
    assert not ended
    assert out.startswith(b"one, ")


@pytest.mark.parametrize(
    "name",
    ["gzip", "zlib", "br", "zstd"],
)
@pytest.mark.parametrize("rest", [b"\0" * 10, b"<!-- served in 3 ms -->", b"\x1fx", b"\x1f"])
@pytest.mark.parametrize("size", [1, 10**6])
def test_what_follows_the_end_is_ignored(name: str, rest: bytes, size: int) -> None:
    """Padding and comments after the end are ignored, as browsers and curl do."""
    coding, encode = ENCODERS[name]
    assert undo(coding, encode(b"page") + rest + encode(b"more"), size)[0] == b"page"
    assert undo(coding, encode(b"page") + rest, size) == (b"page", True)


@every_coding
@given(
    page=st.binary(max_size=200).map(lambda data: data * 50),
    junk=st.binary(max_size=30).map(lambda data: b"\0" + data),
    size=st.integers(1, 5000),
)
def test_bytes_behind_the_end_are_ignored_however_they_come(
    coding: str, encode: Callable[[bytes], bytes], page: bytes, junk: bytes, size: int
) -> None:
    """Browsers discard them; whether they come with the stream's last bytes changes nothing."""
    assert undo(coding, encode(page) + junk, size) == (page, True)


@pytest.mark.parametrize("size", [1000, STEP, 10**9])
def test_brotli_finds_its_end_in_a_large_page(size: int) -> None:
    """What had come out before the decoder failed comes out once."""
    data = brotli.compress(PAGE, quality=5) + b"<!-- served in 3 ms -->" * 1000
    assert undo("br", data, size) == (PAGE, True)


@pytest.mark.parametrize("size", [997, STEP, 10**9])
@pytest.mark.parametrize("junk", [b"\0", b"junk" * 5000])
def test_brotli_refuses_bytes_behind_a_long_stream(size: int, junk: bytes) -> None:
    """A stream beyond BROTLI_KEPT is not kept; it fails by any split, and is whole without junk."""
    page = random.Random(2).randbytes(BROTLI_KEPT + 1)
    data = brotli.compress(page, quality=1)
    assert len(data) > BROTLI_KEPT
    assert undo("br", data, size) == (page, True)
    with pytest.raises(Undecodable, match="br"):
        undo("br", data + junk, size)
    stream = Inflater("br")
    assert b"".join(stream.feed(data)) == page
    with pytest.raises(Undecodable, match="behind the end"):
        list(stream.feed(junk))


@pytest.mark.parametrize("size", [101, 4096, 10**9])
def test_a_broken_brotli_stream_fails_by_any_split(size: int) -> None:
    """Reading it again after the failure does not make it whole."""
    data = brotli.compress(PAGE.hex().encode(), quality=5)
    with pytest.raises(Undecodable, match="br"):
        undo("br", data[:60_000] + b"\xff" * 400_000, size)


@pytest.mark.parametrize(("coding", "encode"), [ENCODERS["gzip"], ENCODERS["zstd"]])
def test_endless_empty_members_are_refused(coding: str, encode: Callable[[bytes], bytes]) -> None:
    """They yield no byte that a size limit could count, so they are counted themselves."""
    assert undo(coding, encode(b"") * MAX_MEMBERS, STEP) == (b"", True)
    with pytest.raises(Undecodable, match="members"):
        undo(coding, encode(b"") * (MAX_MEMBERS + 1), STEP)


@every_coding
def test_a_bomb_is_undone_only_as_far_as_asked(
    coding: str, encode: Callable[[bytes], bytes]
) -> None:
    """64 MiB in a few kB: taking four steps undoes four steps, in memory too."""
    bomb = encode(bytes(64 << 20))
    assert len(bomb) < STEP * 2
    tracemalloc.start()
    try:
        pieces = list(itertools.islice(Inflater(coding).feed(bomb), 4))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(map(len, pieces)) <= 4 * 2 * STEP
    assert peak < 12 * STEP


def test_zstd_may_not_ask_for_a_huge_window() -> None:
    """RFC 9659: over HTTP no window above 8 MiB; each open page may hold one."""
    options = {zstd.CompressionParameter.window_log: 27}
    encoder = zstd.ZstdCompressor(options=options)
    data = encoder.compress(PAGE) + encoder.flush()
    with pytest.raises(Undecodable, match="zstd"):
        undo("zstd", data, STEP)
