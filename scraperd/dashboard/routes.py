"""The paths of the dashboard: the page, what it follows, what it asks for, what it does.

May touch: requests, as the gateway hands them over.
Must never: answer without the role that a path needs; the gateway sees to that.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from scraperd.base.text import printable
from scraperd.dashboard.files import answers
from scraperd.dashboard.letters import Action, Asked
from scraperd.server.gateway import Route
from scraperd.server.listener import Answer, Stream, pieces
from scraperd.server.problems import Problem, unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aiohttp import web

    from scraperd.dashboard.configuration import Configuration
    from scraperd.dashboard.descriptions import What
    from scraperd.dashboard.letters import Letters
    from scraperd.dashboard.watch import Watch
    from scraperd.server.gateway import Handler
    from scraperd.server.tokens import Holder

EVENTS: Final = "/v1/events"
MAX_ASKED_BYTES: Final = 64 * 1024  # of the body of a request
BODY_TIMEOUT: Final = 10.0  # seconds
MAX_WORDS: Final = 300  # characters of a reason
_T = TypeVar("_T", bound=Asked)


class Dashboard:
    """Answers what the page asks.

    `letters` are the panels of dead letters, `about` is what the page is told of the gateway, and
    `tokens` whether it needs one.
    """

    def __init__(
        self,
        watch: Watch,
        letters: Sequence[Letters],
        configuration: Configuration,
        about: dict[str, Any],
        *,
        tokens: bool,
    ) -> None:
        self._watch = watch
        self._letters = letters
        self._tokens = tokens
        self._configuration = configuration
        self._about = {**about, "dead": [it.about.told for it in letters]}

    def routes(self) -> dict[str, Route]:
        """Return who may use which path, and what answers."""
        files = {path: Route("GET", None, _file(answer)) for path, answer in answers().items()}
        return {
            **files,
            "/dashboard/needs.json": Route("GET", None, self._needs),
            EVENTS: Route("GET", "read", self._events),
            "/v1/me": Route("GET", "read", self._me),
            "/v1/config": Route("GET", "read", self._config),
            "/v1/config/daemons": Route("GET", "read", self._config_of_daemons),
            **{path: route for it in self._letters for path, route in _panel(it)},
        }

    async def _events(self, request: web.BaseRequest, _: Holder) -> Stream:
        if self._watch.full:
            raise unavailable("as many look as may (http.max_viewers)", 5)
        last = request.headers.get("Last-Event-ID", "")
        return Stream(self._watch.events(last), "text/event-stream")

    async def _needs(self, _: web.BaseRequest, __: Holder) -> Answer:
        """Tell whether a token is needed, so that the page asks for it before it asks for more."""
        return Answer(HTTPStatus.OK, b'{"token": %s}' % (b"true" if self._tokens else b"false"))

    async def _me(self, _: web.BaseRequest, holder: Holder) -> Answer:
        """Tell who has this token, so that the page offers only what is allowed."""
        found = {"holder": holder.name, "role": holder.role, **self._about}
        return Answer(HTTPStatus.OK, msgspec.json.encode(found))

    async def _config(self, _: web.BaseRequest, __: Holder) -> Answer:
        return Answer(HTTPStatus.OK, self._configuration.own)

    async def _config_of_daemons(self, _: web.BaseRequest, __: Holder) -> Answer:
        return Answer(HTTPStatus.OK, await self._configuration.of_daemons())


def _panel(letters: Letters) -> Iterator[tuple[str, Route]]:
    """Yield the paths of one panel of dead letters, and their routes."""
    about = letters.about
    yield about.path, Route("GET", "read", _list(letters))
    for what in (about.again, "purge"):
        yield f"{about.path}/{what}", Route("POST", "admin", _act(letters, what))


def _list(letters: Letters) -> Handler:
    async def handler(request: web.BaseRequest, _: Holder) -> Answer:
        given: dict[str, Any] = {}
        for name, value in request.rel_url.query.items():
            if name in {"older_than", "newer_than"}:
                given[name] = value
            else:
                given.setdefault(name, []).append(value)
        found = await letters.listed(_converted(given, Asked))
        return Answer(HTTPStatus.OK, msgspec.json.encode(found))

    return handler


def _act(letters: Letters, what: What) -> Handler:
    async def handler(request: web.BaseRequest, holder: Holder) -> Answer:
        action = _converted(await _json(request), Action)
        if action.expected is None:
            found = await letters.count(what, action)
        else:
            found = await letters.act(what, action, holder.name)
        return Answer(HTTPStatus.OK, msgspec.json.encode(found))

    return handler


def _file(answer: Answer) -> Handler:
    async def handler(_: web.BaseRequest, __: Holder) -> Answer:
        return answer

    return handler


async def _json(request: web.BaseRequest) -> Any:
    """Return the body of a request. Raises Problem.

    Only JSON's media type is taken: a form of another site could not send that unasked.
    """
    if request.content_type != "application/json":
        raise Problem(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send JSON, with Content-Type: application/json"
        )
    body = bytearray()
    async for piece in pieces(request, MAX_ASKED_BYTES, "a fixed limit", BODY_TIMEOUT):
        body += piece
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(HTTPStatus.BAD_REQUEST, f"not JSON: {printable(str(error))}") from error


def _converted(given: Any, kind: type[_T]) -> _T:
    """Return what was asked for. Raises Problem."""
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise Problem(HTTPStatus.BAD_REQUEST, printable(str(error), MAX_WORDS)) from error
