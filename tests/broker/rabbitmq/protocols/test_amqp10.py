"""The framing of AMQP 1.0 around a body: what is unwrapped, what is refused, and any other bytes.

May touch: the pure function; Hypothesis.
Must never: need a broker, or write sections by the code that reads them.
"""

from __future__ import annotations

import struct
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scraperd.broker.rabbitmq.protocols.amqp10 import UnreadableError, content_of
from tests.rig.clocks.effort import scaled

DATA, SEQUENCE, VALUE, FOOTER = b"\0\x53\x75", b"\0\x53\x76", b"\0\x53\x77", b"\0\x53\x78"
JOB = b'{"url": "http://x/"}'


def small(kind: int, content: bytes) -> bytes:
    """A value whose size has one byte."""
    return bytes([kind, len(content)]) + content


def large(kind: int, content: bytes) -> bytes:
    """A value whose size has four bytes."""
    return bytes([kind]) + struct.pack(">I", len(content)) + content


READ = {
    "a string": VALUE + small(0xA1, JOB),
    "a long string": VALUE + large(0xB1, JOB),
    "a binary value": VALUE + small(0xA0, JOB),
    "a long binary value": VALUE + large(0xB0, JOB),
    "data": DATA + small(0xA0, JOB),
    "long data": DATA + large(0xB0, JOB),
    "a long descriptor": b"\0\x80" + struct.pack(">Q", 0x77) + small(0xA1, JOB),
    "a symbolic descriptor": b"\0" + small(0xA3, b"amqp:amqp-value:*") + small(0xA1, JOB),
    "a long symbol": b"\0" + large(0xB3, b"amqp:data:binary") + small(0xA0, JOB),
    "a footer": VALUE + small(0xA1, JOB) + FOOTER + small(0xC1, b"\0"),
    "no sections": JOB,
}


@pytest.mark.parametrize("body", READ.values(), ids=READ)
def test_a_text_or_data_is_unwrapped(body: bytes) -> None:
    """In each encoding of part 1, by each descriptor; what is not framed is left alone."""
    assert content_of(body) == JOB


REFUSED = {
    "a map": (VALUE + small(0xC1, b"\0"), "is a map of AMQP 1.0: send the job as JSON, "),
    "a list": (VALUE + b"\x45", "is a list of AMQP 1.0"),
    "an array": (VALUE + small(0xE0, b"\1\x40"), "is an array of AMQP 1.0"),
    "null": (VALUE + b"\x40", "is null of AMQP 1.0"),
    "a symbol": (VALUE + small(0xA3, b"a"), "is a symbol of AMQP 1.0"),
    "a number": (VALUE + b"\x54\5", "is a value that is not a string of AMQP 1.0"),
    "a described value": (VALUE + VALUE + b"\x40", "is a value that is not a string"),
    "a sequence": (SEQUENCE + b"\x45", "is a sequence of AMQP 1.0"),
    "two values": (2 * (VALUE + small(0xA1, JOB)), "RabbitMQ 3 does not keep their order"),
    "several data": (2 * (DATA + small(0xA0, JOB)), "RabbitMQ 3 does not keep their order"),
    "only a footer": (FOOTER + small(0xC1, b"\0"), "a footer only"),
    "more behind": (READ["a footer"] + b"\0", "bytes behind the footer"),
    "text as data": (DATA + small(0xA1, JOB), "content of the wrong type"),
    "properties": (b"\0\x53\x73\x45", "not a section of a body"),
    "an unknown symbol": (b"\0" + small(0xA3, b"amqp:no") + b"\x40", "not a section of a body"),
    "not described": (DATA + small(0xA0, JOB) + b"x", "not a section of a body"),
}


@pytest.mark.parametrize(("body", "words"), REFUSED.values(), ids=REFUSED)
def test_anything_else_is_refused_in_words(body: bytes, words: str) -> None:
    """They say what the body is, and how to send a job."""
    with pytest.raises(UnreadableError) as refused:
        content_of(body)
    assert words in str(refused.value)
    assert str(refused.value).endswith(
        "send the job as JSON, in one string or in one section of binary data"
    )


@pytest.mark.parametrize("name", [name for name in READ if name != "no sections"])
def test_a_body_that_was_cut_is_refused(name: str) -> None:
    """At each byte, but where only a footer is missing."""
    for end in range(1, len(READ[name])):
        try:
            content = content_of(READ[name][:end])
        except UnreadableError:
            continue
        assert (name, content) == ("a footer", JOB)


@given(content=st.binary(max_size=600), wide=st.booleans(), value=st.booleans())
@settings(max_examples=100)
def test_any_content_comes_out_as_it_went_in(content: bytes, *, wide: bool, value: bool) -> None:
    """Data, and a value that is binary."""
    section = VALUE if value else DATA
    is_large = wide or len(content) > 255
    framed = section + (large(0xB0, content) if is_large else small(0xA0, content))
    assert content_of(framed) == content


TOKENS = st.sampled_from(
    [
        *(DATA, SEQUENCE, VALUE, FOOTER, b"\0", b"\0\x80", b"\0\xa3\x10amqp:data:binary"),
        *(b"\xa0\1a", b"\xa1\1a", b"\xb0\0\0\0\1a", b"\xb0\xff\xff\xff\xff", b"\xa0\xff"),
        *(b"\xc1\1\0", b"\xd1\0\0\0\4\0\0\0\0", b"\x45", b"\x40", b"\0\x80" + 8 * b"\xff"),
    ]
)


@given(body=st.lists(TOKENS | st.binary(max_size=3), max_size=8).map(b"".join))
@settings(max_examples=500)
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    """No other error, and never more bytes than came in."""
    try:
        content = content_of(body)
    except UnreadableError:
        return
    assert len(content) <= len(body)


def test_the_worst_bodies_take_no_time() -> None:
    """16 MiB of small sections, of one section, and of a section that claims more than there is."""
    size = 16 * 2**20
    bodies = [
        size // 5 * (DATA + b"\xa0\0"),
        DATA + large(0xB0, bytes(size)),
        VALUE + b"\xb1" * size,
    ]
    began = time.thread_time()
    for body in bodies:
        try:
            content_of(body)
        except UnreadableError:
            continue
    assert time.thread_time() - began < scaled(0.2)
