"""What the gateway answers when it can't do what was asked: problem details (RFC 9457). Pure.

May touch: nothing.
Must never: tell a credential, or repeat more of what was sent than a line shows.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

import msgspec

from scraperd.base.text import printable

CONTENT_TYPE: Final = "application/problem+json"
MAX_DETAIL: Final = 500  # characters


class Problem(Exception):  # noqa: N818 - it is an answer
    """An answer with a status of 400 or more. `more` are extension members (section 3.2)."""

    def __init__(
        self, status: int, detail: str, *, headers: dict[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = headers or {}
        self._more = more

    def with_members(self, members: dict[str, Any]) -> Problem:
        """Return it with more extension members."""
        more = {**self._more, **members}
        return Problem(self.status, str(self), headers=self.headers, **more)

    @property
    def jobs(self) -> int:
        """How many jobs were published before it."""
        return len(self._more.get("accepted", ()))

    @property
    def body(self) -> bytes:
        """The JSON of it: its type is about:blank, so the title is that of the status."""
        return msgspec.json.encode(
            {
                "type": "about:blank",
                "title": HTTPStatus(self.status).phrase,
                "status": self.status,
                "detail": printable(str(self), MAX_DETAIL),
                **self._more,
            }
        )


def unavailable(detail: str, seconds: int) -> Problem:
    """Return a 503 that may be over after so many seconds (RFC 9110 section 10.2.3)."""
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": str(seconds)})


class NotSent(Problem):
    """Nothing was sent to the broker: the job has not arrived."""
