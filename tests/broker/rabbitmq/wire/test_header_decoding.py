"""Tables of headers: read as the library reads them, but no stranger's costs time or hides ours.

May touch: memory only.
Must never: know how a table is read.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import decode, encode

from scraperd.broker.rabbitmq.wire import header_decoding
from scraperd.broker.rabbitmq.wire.codec import tables
from tests.rig.clocks.effort import least, scaled

header_decoding.install()  # as each connection does
COUNT = b"\x10x-delivery-countl" + (7).to_bytes(8, "big")
PLAIN = (
    st.integers(-(2**63), 2**63 - 1)
    | st.text(max_size=20)
    | st.none()
    | st.booleans()
    | st.floats(allow_nan=False, width=32)
    | st.binary(max_size=20).map(bytearray)
    | st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1)).map(  # noqa: DTZ001
        lambda when: when.replace(tzinfo=UTC, microsecond=0)
    )
    | st.decimals(0, 1000, places=2).map(Decimal)
)
NAMES = st.text(max_size=20)
VALUES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(NAMES, inner, max_size=5)
)


def table(raw: bytes) -> bytes:
    return len(raw).to_bytes(4, "big") + raw


@given(headers=st.dictionaries(NAMES, VALUES, max_size=8))
def test_a_table_is_read_as_the_library_does(headers: dict[str, object]) -> None:
    """The same bytes are the same values, and as many are consumed."""
    raw = encode.field_table(headers)
    assert decode.METHODS["table"](raw) == decode.field_table(raw)


def nested(raw: bytes, kind: bytes, times: int) -> bytes:
    for _ in range(times):
        raw = kind + len(raw).to_bytes(4, "big") + raw
    return raw


@pytest.mark.parametrize(
    "evil",
    [
        encode.field_array([None] * 120_000),
        encode.field_array([[None] * 100] * 1200),
        encode.field_array([{}] * 20_000),
        nested(b"", b"A", 20_000)[1:],
        encode.field_array([bytearray(b"\xff" * 100)] * 1200),
    ],
    ids=["long", "wide", "tables", "deep", "bytes"],
)
def test_no_header_takes_long_or_hides_another(evil: bytes) -> None:
    """120 kB of small entries take some milliseconds (the library takes seconds), and the broker's
    own count beside them is read: it is what ends a job that kills.
    """
    raw = table(b"\x01aA" + evil + COUNT)
    began = time.thread_time()
    consumed, found = decode.METHODS["table"](raw)
    assert time.thread_time() - began < scaled(0.1)
    assert (consumed, found["x-delivery-count"]) == (len(raw), 7)
    assert found["a"] is None or len(found["a"]) == 1200


def test_of_many_headers_the_first_are_read() -> None:
    """60,000 in one frame take no longer than MAX_ENTRIES, and what is handed out says so."""
    raw = table(b"\0V" * 60_000)
    consumed, found = decode.METHODS["table"](raw)
    assert least(lambda: decode.METHODS["table"](raw)) < scaled(0.01)
    assert consumed == len(raw)
    assert isinstance(found, tables.Cut)
    at_most = b"".join(b"\1%cV" % n for n in range(tables.MAX_ENTRIES))
    assert not isinstance(decode.METHODS["table"](table(at_most))[1], tables.Cut)


def test_a_name_that_is_no_text_hides_nothing() -> None:
    """RabbitMQ lets any bytes pass for a name. Such an entry is left out."""
    raw = table(b"\x02\xff\xfet\x01" + COUNT)
    assert decode.METHODS["table"](raw) == (len(raw), {"x-delivery-count": 7})


@given(raw=st.binary(max_size=60))
def test_rubbish_is_no_table(raw: bytes) -> None:
    """Whatever stands there, it is stepped over by its length, and nothing is raised."""
    consumed, found = decode.METHODS["table"](table(raw))
    assert consumed == 4 + len(raw)
    assert found is None or isinstance(found, dict)
