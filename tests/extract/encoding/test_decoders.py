"""Each encoding's decoder: against Chromium's answers, and the standard's steps written out.

May touch: tests/data/encodings/, which tests/rig/sites/browser.py makes.
Must never: take the code's own answer for the expected one.
"""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scraperd.extract.encoding import decoders, sniff
from tests.rig.clocks.effort import scaled
from tests.rig.sites.browser import MULTI, SINGLE, blocks, digest, golden, samples

BAD = "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("name", SINGLE)
def test_single_byte_encodings_are_chromiums(name: str) -> None:
    """Each of the 256 bytes of each single-byte encoding is the character it is in Chromium."""
    assert decoders.decode(bytes(range(256)), name) == golden()[name][""]


@pytest.mark.parametrize("name", MULTI)
def test_every_sequence_is_chromiums(name: str) -> None:
    """All sequences of two bytes, and all longer ones that an encoding has, good and malformed,
    become the text they become in Chromium.
    """
    expected = golden()[name]
    found = {key: digest(decoders.decode(body, name)) for key, body in blocks(name)}
    assert [key for key in expected if found[key] != expected[key]] == []
    assert found.keys() == expected.keys()


@pytest.mark.parametrize("name", MULTI)
def test_odd_sequences_are_chromiums(name: str) -> None:
    """Mixed, malformed and truncated sequences have as many errors as in Chromium, where it has."""
    mine = [(body, text) for encoding, body, text in samples() if encoding == name]
    assert len(mine) > 80
    for body, text in mine:
        assert decoders.decode(body, name) == text, body.hex(" ")


@pytest.mark.parametrize("name", ["big5", "euc-jp", "euc-kr", "gb18030", "gbk", "shift_jis"])
def test_a_well_formed_page_takes_the_quick_way_to_the_same_text(name: str) -> None:
    """What Python's own codec may decode at once has the text of its sequences one by one."""
    pairs = [bytes(pair) for pair in itertools.product(range(0x80, 0x100), range(0x100))]
    sequences = [*pairs, b"\x81\x35\xf4\x37", b"\x8f\xa2\xb7"]
    # An error after it forces the slow way, which the tests above hold against Chromium.
    slow = {each: decoders.decode(each + b"\n\xff", name)[:-2] for each in sequences}
    good = {each: text for each, text in slow.items() if BAD not in text}
    assert len(good) > 6000
    for each, text in good.items():
        assert decoders.decode(b"<a>" + each, name) == "<a>" + text, each.hex(" ")
    assert decoders.decode(b"\n".join(good), name) == "\n".join(good.values())


@pytest.mark.parametrize("name", ["big5", "euc-jp", "euc-kr", "gb18030", "shift_jis"])
@pytest.mark.parametrize("shift", range(5))
def test_long_texts_are_not_cut_inside_a_sequence(name: str, shift: int) -> None:
    """Wherever a piece of a long malformed text ends, the text is that of its parts."""
    part = (
        "一中<a>".encode("gb18030" if name == "gb18030" else "cp932") + b"\x81\x30\x81\xff\x8f\xa2"
    )
    body = b"." * shift + b"\n".join([part] * 20_000)
    one = decoders.decode(part + b"\n", name)
    last = decoders.decode(part, name)
    assert decoders.decode(body, name) == "." * shift + one * 19_999 + last


class JisDecoder:
    """The standard's "ISO-2022-JP decoder", byte for byte as its steps say (section 13.2.1)."""

    STATES = ((b"(B", "ascii"), (b"(J", "roman"), (b"(I", "kana"), (b"$@", "lead"), (b"$B", "lead"))

    def __init__(self, body: bytes) -> None:
        self.queue: list[int] = list(reversed(body))
        self.state = self.output_state = "ascii"
        self.lead = 0
        self.output = False

    def run(self) -> str:
        text = []
        while True:
            byte = self.queue.pop() if self.queue else -1
            found = getattr(self, "_" + self.state)(byte)
            if found == "end":
                return "".join(text)
            text.append(found)

    def _usual(self, byte: int) -> str | None:
        if byte == 0x1B:
            self.state = "escape_start"
            return ""
        if byte == -1:
            return "end"
        self.output = False
        return None

    def _ascii(self, byte: int) -> str:
        usual = self._usual(byte)
        if usual is None:
            return chr(byte) if byte < 0x80 and byte not in (0x0E, 0x0F) else BAD
        return usual

    def _roman(self, byte: int) -> str:
        return {"\\": "\xa5", "~": "\u203e"}.get(found := self._ascii(byte), found)

    def _kana(self, byte: int) -> str:
        usual = self._usual(byte)
        if usual is None:
            return chr(0xFF61 - 0x21 + byte) if 0x21 <= byte <= 0x5F else BAD
        return usual

    def _lead(self, byte: int) -> str:
        usual = self._usual(byte)
        if usual is None:
            if not 0x21 <= byte <= 0x7E:
                return BAD
            self.lead, self.state = byte, "trail"
            return ""
        return usual

    def _trail(self, byte: int) -> str:
        self.state = "escape_start" if byte == 0x1B else "lead"
        if 0x21 <= byte <= 0x7E:  # Python's JIS X 0208 is enough for what is drawn here
            return bytes((self.lead | 0x80, byte | 0x80)).decode("euc_jp", "replace")[:1]
        return BAD

    def _escape_start(self, byte: int) -> str:
        if byte in (0x24, 0x28):
            self.lead, self.state = byte, "escape"
            return ""
        return self._give_back(byte)

    def _escape(self, byte: int) -> str:
        state = dict(self.STATES).get(bytes((self.lead, max(byte, 0))))
        if state is None:
            return self._give_back(byte, self.lead)
        self.state = self.output_state = state
        twice, self.output = self.output, True
        return BAD if twice else ""

    def _give_back(self, *from_last: int) -> str:
        self.queue += [byte for byte in from_last if byte != -1]
        self.output, self.state = False, self.output_state
        return BAD


JIS_PIECES = st.sampled_from(
    [
        b"\x1b(B",
        b"\x1b(J",
        b"\x1b(I",
        b"\x1b$@",
        b"\x1b$B",
        b"\x1b",
        b"\x1b$",
        b"\x1b(",
        b"$B",
        b"(J",
    ]
) | st.sampled_from(
    [b"%s", b"!", b"FK", b"\\", b"~", b"<", b"\n", b"\x0e", b"\x7f", b"\x80", b"\xff"]
)


@given(body=st.lists(JIS_PIECES, max_size=10).map(b"".join))
@settings(max_examples=600, deadline=None)
@example(body=b"\x1b$B\x1b(\xfe")
@example(body=b"\x1b(Ia\x1b$\x1b$B!")
def test_iso_2022_jp_goes_by_the_standard_step_by_step(body: bytes) -> None:
    """Any order of escape sequences, whole and broken, has the text of a literal transcription."""
    assert decoders.decode(body, "iso-2022-jp") == JisDecoder(body).run()


@pytest.mark.parametrize("name", [*MULTI[:5], "gbk", "shift_jis", "utf-8", *SINGLE])
def test_markup_after_a_broken_sequence_is_never_swallowed(name: str) -> None:
    """No byte and no cut sequence before a `<` or a quote can hide it from the parser."""
    for mark in b"<>\"'&/=\n":
        for lead in [bytes((byte,)) for byte in range(0x80, 0x100)] + [
            b"\x8f\xa2",
            b"\x81\x30\x81",
        ]:
            assert decoders.decode(lead + bytes((mark, 0x20)), name)[-2:] == chr(mark) + " "


def test_replacement_is_one_error() -> None:
    """A page in an encoding that hides markup from some readers is nothing but one U+FFFD."""
    assert decoders.decode(b"<script>", "replacement") == BAD
    assert decoders.decode(b"", "replacement") == ""
    assert sniff.to_text(b"~{<script>", sniff.sniff(b"", "text/html; charset=hz-gb-2312")) == BAD


@pytest.mark.parametrize("name", MULTI)
def test_time_is_linear_in_malformed_text(name: str) -> None:
    """Eight times as many bad bytes take not much more than eight times as long."""
    escapes = b"\x1b$B!\x1b(Ja\x1b" if name == "iso-2022-jp" else b"\x81\x30\xff<\x8f\xa2\xd8"

    def seconds(size: int) -> float:
        body, best = escapes * (size // len(escapes)), 9e9
        for _ in range(3):
            start = time.process_time()
            decoders.decode(body, name)
            best = min(best, time.process_time() - start)
        return best

    assert seconds(800_000) < scaled(0.02) + 3 * 8 * seconds(100_000)
