"""The codings of a body: which ones its head names, and what undoes them, one over another. Pure.

May touch: the head, the decoders of base/inflate.py.
Must never: let one coding hand more to the next than a limit, or pass packed bytes for a page.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Protocol

from scraperd.base.inflate import CODINGS, CONTENT, Inflater, Undecodable
from scraperd.base.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from scraperd.fetch.http1.reader import Head

MAX_CODINGS: Final = 5  # of one body; curl 7.88 has the same limit
TRANSFER: Final = "transfer coding"
_TRANSFER_CODINGS: Final = ("gzip", "deflate")  # RFC 9112 section 7.2
_NAMES: Final = {**dict.fromkeys(CODINGS), "x-gzip": "gzip", "x-deflate": "deflate"}
_SHOWN: Final = 60  # characters of an unknown name
# What sites write there without a coding: browsers show such a page. A charset, a media type,
# MIME's words for "as it is" (RFC 2045 section 6.2), and S3's name for how a file was uploaded.
_NO_CODING: Final = re.compile(
    r"identity|none|null|plain|text|raw|binary|[78]-?bit|aws-chunked|[a-z]+/[a-z0-9.+-]+"
    r"|utf-?(?:8|16|32)(?:[bl]e)?|(?:us-)?ascii|ansi|unicode|latin-?[0-9]+|big5(?:-hkscs)?"
    r"|(?:iso|windows|win|cp|ibm)[-_]?[0-9][0-9_-]*|koi8-[ru]|gb(?:k|2312|18030)"
    r"|euc[-_](?:jp|kr|cn|tw)|s(?:hift)?[-_]?jis"
)


class Coding(Protocol):
    """What undoes the codings of a body. `coding` names them, and `what` says of which header."""

    coding: str
    what: str

    @property
    def ended(self) -> bool:
        """Whether all streams are whole."""

    @property
    def overfull(self) -> bool:
        """Whether it has stopped, as one coding handed more to the next than the limit."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what `data` stands for; an empty piece after work that gave nothing yet."""


def coding_of(head: Head, limit: int) -> Coding | None:
    """Return what undoes the codings of the body; None if there are none.

    Of a coding's output `limit` bytes may go into another one. Never raises: what cannot be undone
    raises Undecodable when the first byte of the body is fed, as a HEAD has none.
    """
    content = head.headers.getall("Content-Encoding", ())
    if not head.codings:
        if not content:
            return None
        if len(content) == 1 and content[0] in CODINGS:  # nearly all that have one
            return Inflater(content[0])
    try:
        layers = [*_content(content), *_transfer(head.codings)]
    except Undecodable as error:
        return _Refused(error)
    if len(layers) > MAX_CODINGS:
        text = f"{len(layers)} codings lie one over another, more than {MAX_CODINGS}"
        return _Refused(Undecodable(text))
    return Stack(layers[::-1], limit) if len(layers) > 1 else layers[0] if layers else None


def _content(values: Iterable[str]) -> Iterator[Inflater]:
    """The codings of Content-Encoding in the order in which they were applied (RFC 9110 8.4)."""
    for value in values:
        for part in value.split(","):
            name = part.partition(";")[0].strip(" \t").lower()
            if name in _NAMES:
                yield Inflater(_NAMES[name] or name)
            elif name and not _NO_CODING.fullmatch(name):
                raise _unknown(name, CODINGS, CONTENT)


def _transfer(names: Iterable[str]) -> Iterator[Inflater]:
    """The codings of Transfer-Encoding; they lie over those of Content-Encoding."""
    for given in names:
        name = _NAMES.get(given) or given
        if name not in _TRANSFER_CODINGS:
            raise _unknown(given, _TRANSFER_CODINGS, TRANSFER)
        yield Inflater(name, TRANSFER)


def _unknown(name: str, known: Iterable[str], what: str) -> Undecodable:
    return Undecodable(f"{printable(name, _SHOWN)}: not one of {', '.join(known)}", what)


class _Refused:
    """Codings that are not undone: the first byte of the body raises the error."""

    coding = ""
    what = CONTENT
    ended = True
    overfull = False

    def __init__(self, error: Undecodable) -> None:
        self._error = error

    def feed(self, data: bytes) -> Iterator[bytes]:
        if data:
            raise self._error
        return iter(())


class Stack:
    """Codings one over another; the outermost comes first in `layers`.

    The output of each but the last goes into the next piece by piece, so that no more than a
    piece of each is held. It counts, since a little data can stand for much that gives nothing:
    10 GiB of empty blocks, packed once more. At `limit` bytes of it all ends, and it is `overfull`.
    """

    what = CONTENT

    def __init__(self, layers: list[Inflater], limit: int) -> None:
        self.coding = ", ".join(layer.coding for layer in reversed(layers))
        self.overfull = False
        self._layers = layers
        self._limit = limit
        self._passed = [0] * len(layers)  # bytes that came out of each

    @property
    def ended(self) -> bool:
        """Whether the streams of all codings are whole."""
        return all(layer.ended for layer in self._layers)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what `data` stands for, and an empty piece after each step between two codings."""
        return self._through(0, data)

    def _through(self, at: int, data: bytes) -> Iterator[bytes]:
        layer = self._layers[at]
        if layer is self._layers[-1]:
            yield from layer.feed(data)
            return
        for piece in layer.feed(data):
            self._passed[at] += len(piece)
            if self._passed[at] > self._limit:
                self.overfull = True
                return
            yield b""
            yield from self._through(at + 1, piece)
            if self.overfull:
                return
