"""The application properties of AMQP 1.0 in the header of RabbitMQ 3, and any other bytes there.

May touch: the pure function; Hypothesis.
Must never: need a broker.
"""

from __future__ import annotations

import struct
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scraperd.broker.rabbitmq.protocols.application_properties import MAX_PROPERTIES, properties_in
from tests.rig.clocks.effort import scaled

# As Qpid Proton 0.37 sent them to RabbitMQ 3.10.8, with a text, numbers, a boolean, a time, binary
# data, null and a UUID.
SENT = (
    b"\x00St\xd1\x00\x00\x00p\x00\x00\x00\x14\xa1\x01s\xa1\x04text\xa1\x01iU\x05\xa1\x01f\x82?\xf8\x00\x00"
    b"\x00\x00\x00\x00\xa1\x01bA\xa1\x01u\xa1\x02\xc3\xbc\xa1\x12x-scraperd-attemptU\x03\xa1\x02ts\x83\x00\x00"
    b"\x01\x8b\xcf\xe5h\x00\xa1\x03bin\xa0\x02\xff\x00\xa1\x01n@\xa1\x04uuid\x98"
    + 15 * b"\0"
    + b"\5"
)


def section(*pairs: bytes, wide: bool = False) -> bytes:
    """A section of these names and values, each as bytes."""
    content = b"".join(pairs)
    if wide:
        head = b"\xd1" + struct.pack(">II", len(content) + 4, len(pairs))
    else:
        head = bytes([0xC1, (len(content) + 1) % 256, len(pairs) % 256])
    return b"\0\x53\x74" + head + content


def text(value: str) -> bytes:
    raw = value.encode()
    return b"\xb1" + struct.pack(">I", len(raw)) + raw


def test_what_a_client_sent_becomes_headers() -> None:
    """Texts, whole numbers and booleans."""
    found = {"s": "text", "i": 5, "b": True, "u": "ü", "x-scraperd-attempt": 3}
    assert properties_in(SENT) == found


NUMBERS = [
    *((b"\x43", 0), (b"\x44", 0), (b"\x50\xff", 255), (b"\x51\xff", -1), (b"\x52\xff", 255)),
    *((b"\x53\xff", 255), (b"\x54\xff", -1), (b"\x55\xff", -1), (b"\x56\1", True)),
    *((b"\x56\0", False), (b"\x41", True), (b"\x42", False), (b"\x60\1\0", 256)),
    *((b"\x61\xff\xff", -1), (b"\x70\0\1\0\0", 65536), (b"\x71" + 4 * b"\xff", -1)),
    *((b"\x80" + 8 * b"\xff", 2**64 - 1), (b"\x81" + 8 * b"\xff", -1)),
]


@pytest.mark.parametrize(("raw", "value"), NUMBERS)
def test_each_number_has_its_value(raw: bytes, value: int) -> None:
    """In each width, with its sign."""
    assert properties_in(section(text("n"), raw, text("last"), text("x"))) == {
        "n": value,
        "last": "x",
    }


OTHERS = [b"\x40", b"\x45", b"\x72abcd", b"\x82abcdefgh", b"\x83abcdefgh", b"\x98" + 16 * b"a"]
OTHERS += [b"\xa0\1a", b"\xa3\1a", b"\xb0\0\0\0\1a", b"\xc0\1\0", b"\xd1\0\0\0\4abcd", b"\xe0\1a"]


@pytest.mark.parametrize("raw", OTHERS)
def test_other_types_are_left_out(raw: bytes) -> None:
    """And what stands behind them is read."""
    assert properties_in(section(text("n"), raw, text("last"), text("x"), wide=True)) == {
        "last": "x"
    }


@pytest.mark.parametrize(
    "header",
    [
        *(None, 5, "", b"", b"\0\x53\x74", b"\0\x53\x73\xc1\1\0", bytearray(SENT), "text"),
        *(section(b"\x40", text("x")), section(text("n")), section(b"\xa1\1\xff", b"\x41")),
        *(section(text("n"), b"\0\x53\1\x41"), section(text("n"), b"\x10"), SENT[:-1]),
    ],
)
def test_what_cannot_be_read_is_nothing(header: object) -> None:
    """Any publisher can write the header."""
    assert properties_in(header) == {}


@given(
    body=st.lists(
        st.binary(max_size=4) | st.sampled_from([text("n"), b"\x41", b"\xa0\xff", b"\xc0\4"])
    ),
    wide=st.booleans(),
)
@settings(max_examples=300)
def test_any_bytes_are_read_or_left(body: list[bytes], *, wide: bool) -> None:
    """Nothing is raised."""
    for value in properties_in(section(*body, wide=wide)).values():
        assert isinstance(value, str | int)


def test_many_properties_are_not_read() -> None:
    """One more than a job may have, so that it is refused for their number; in no time."""
    began = time.thread_time()
    many = section(*(text(str(n)) + b"\x41" for n in range(100_000)), wide=True)
    assert len(properties_in(many)) == MAX_PROPERTIES + 1
    assert time.thread_time() - began < scaled(0.5)
