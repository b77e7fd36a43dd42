"""The answer to `GET /v1/batches/ID`.

May touch: the request's path, what asks the fleet.
Must never: ask about what cannot be a batch's id.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

import msgspec

from scraperd.contract import is_batch_id
from scraperd.server.listener import Answer
from scraperd.server.problems import Problem

if TYPE_CHECKING:
    from aiohttp import web

    from scraperd.server.batches.asking import Batches

BATCHES: Final = "/v1/batches/"
UNKNOWN: Final = (
    "no batch is known by this id: no job of it has an outcome yet, or it ended longer ago than "
    "batches.keep"
)


async def batch_of(batches: Batches | None, request: web.BaseRequest) -> Answer:
    """Return how far the batch is that the path names. Raises Problem."""
    if request.query:
        raise Problem(HTTPStatus.BAD_REQUEST, "this path takes no query parameter")
    if batches is None:
        raise Problem(
            HTTPStatus.NOT_FOUND, "batches are not tallied here (batches.enabled is false)"
        )
    ident = unquote(request.rel_url.raw_path.removeprefix(BATCHES))
    if not is_batch_id(ident):
        raise Problem(HTTPStatus.NOT_FOUND, "this cannot be the id of a batch")
    found = await batches.of(ident)
    if found.state == "unknown":
        raise Problem(HTTPStatus.NOT_FOUND, UNKNOWN)
    return Answer(HTTPStatus.OK, msgspec.json.encode(found.values()))
