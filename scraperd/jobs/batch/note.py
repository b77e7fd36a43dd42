"""The note that a job of a batch has its outcome: the message, and its seal. Pure.

May touch: values, the keys of the fleet.
Must never: hold a URL or an id of a job, or be believed without a valid seal.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated, Any, Final, Self

import msgspec
from msgspec import Meta, Struct

from scraperd.broker.ports import Message

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scraperd.contract import Batch
    from scraperd.jobs.signing import Keys

KEY_BYTES: Final = 8  # of a job's hash; of 100,000 jobs two are alike once in 3 billion batches
SEAL: Final = "x-scraperd-batch-seal"
_PURPOSE: Final = b"scraperd batch 1"
_encoder: Final = msgspec.json.Encoder()


class Note(Struct, frozen=True, tag="note", tag_field="what", omit_defaults=True):
    """A job has its outcome: its batch and that batch's size, the job's hash, how it ended, when.

    `at` is in whole seconds since 1970. `again` is true for a job of a dead letter that was
    published again: it belongs to no batch that is not known. `callback` is where the message at
    the batch's end is to be posted: a URL, or the name of an endpoint.
    """

    batch: str
    size: Annotated[int, Meta(ge=1)]
    job: Annotated[int, Meta(ge=0)]
    kind: str
    at: int
    again: bool = False
    callback: str = ""

    @classmethod
    def of(
        cls,
        batch: Batch,
        named: bytes,
        kind: str,
        at: float,
        callback: str | None = None,
        *,
        again: bool,
    ) -> Self:
        """Return the note on the job that `named` names."""
        digest = hashlib.blake2b(named, digest_size=KEY_BYTES).digest()
        job = int.from_bytes(digest, "big") >> 1  # so that it is a signed integer too
        return cls(batch.id, batch.size, job, kind, int(at), again, callback or "")


def sealed(what: Struct, keys: Keys) -> Message:
    """Return the message of a note, or of what the tally writes down."""
    body = _encoder.encode(what)
    return Message(body, {SEAL: keys.seal(_PURPOSE, (body,))})


def is_sealed(headers: Mapping[str, Any], body: bytes, keys: Keys) -> bool:
    """Return whether one of the keys of the fleet sealed a message."""
    seal = headers.get(SEAL)
    return isinstance(seal, str) and keys.is_sealed(seal, _PURPOSE, (body,))
