"""A result with its JSON, no larger than a broker takes. Pure.

May touch: the contract's values and its encoding.
Must never: publish anything.
"""

from __future__ import annotations

from typing import Final

from msgspec import UNSET, Struct, UnsetType, structs

from scraperd.contract import Failure, Redirect, Result, encode

LARGE: Final = 16 * 1024  # bytes of a result whose parts are not kept beside its JSON


class Outcome(Struct, frozen=True):
    """A result and its JSON: what is decided on, logged and published is one and the same."""

    result: Result
    body: bytes = b""

    @classmethod
    def of(cls, result: Result, limit: int) -> Outcome:
        """Encode `result`; one of more than `limit` bytes becomes a failed one that says so."""
        body = encode(result)
        if len(body) > limit:
            result = too_large(result, len(body), limit)
            body = encode(result)
        if len(body) > LARGE:
            result = light(result)
        return cls(result, body)


def too_large(result: Result, size: int, limit: int) -> Result:
    """The failed result that stands for one the broker would not take."""
    return structs.replace(
        light(result),
        status="failed",
        error=Failure("too_large", f"the result has {size} bytes, more than {limit}"),
        meta=result.meta if result.meta is UNSET or len(bytes(result.meta)) < limit // 2 else UNSET,
    )


def light(result: Result) -> Result:
    """Return `result` without what can be large."""
    return structs.replace(
        result,
        body=UNSET,
        body_encoding=UNSET,
        data=UNSET,
        links=UNSET,
        metadata=UNSET,
        text=UNSET,
        feed=UNSET,
        headers=UNSET,
        cookies=UNSET,
        redirects=_bare(result.redirects),
    )


def _bare(redirects: list[Redirect] | UnsetType) -> list[Redirect] | UnsetType:
    if redirects is UNSET or all(hop.headers is UNSET for hop in redirects):
        return redirects
    return [Redirect(hop.status, hop.url) for hop in redirects]
