"""The OpenAPI 3.1 document of the gateway: its paths, and the Job and Result of the contract. Pure.

May touch: the contract's schemas.
Must never: describe a job or a result itself, or differ from docs/openapi.json: a test compares.
"""

from __future__ import annotations

import json
from typing import Any, Final

from scraperd.contract import VERSION, Job, Result, schema
from scraperd.server.problems import CONTENT_TYPE

_SCHEMAS: Final = "#/components/schemas/"
_JSON: Final = "application/json"
_RETRY: Final = {
    "Retry-After": {
        "description": "seconds after which to ask again",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    }
}
_CHALLENGE: Final = {
    "WWW-Authenticate": {"description": "RFC 6750", "schema": {"type": "string"}},
}
_ALLOW: Final = {"Allow": {"description": "the methods", "schema": {"type": "string"}}}
_PLACE: Final = {
    "Location": {
        "description": "where the result is asked for; with `wait` only",
        "schema": {"type": "string"},
    },
    **_RETRY,
}
_PROBLEMS: Final[dict[str, tuple[str, dict[str, Any]]]] = {  # status: words, headers
    "400": ("the request or the job is not valid; for lines: no line is a valid job", {}),
    "401": ("the token is missing or not known", _CHALLENGE),
    "403": ("the token may not do this, or the Host header is refused", {}),
    "404": ("no result is kept under this handle, or no batch is known by this id", {}),
    "405": ("the path is for another method", _ALLOW),
    "408": ("the body did not come in time", {}),
    "409": ("a request with this Idempotency-Key is being worked on", _RETRY),
    "413": ("the body, a job or the number of lines is too large", {}),
    "415": ("the Content-Type or Content-Encoding is not one that is read", {}),
    "422": ("this Idempotency-Key was used for another request", {}),
    "429": ("this token is used too often", _RETRY),
    "431": ("a header or the request line is too long, or there are too many headers", {}),
    "503": ("the broker is away, takes no jobs, or nobody tallies; too many requests wait", _RETRY),
}
_EXAMPLES: Final[tuple[dict[str, Any], ...]] = (
    {"url": "https://example.com/", "extract": {"title": "h1"}, "meta": {"page": 1}},
    {"url": "https://example.com/two", "id": "two", "include": ["links", "metadata"]},
)
_ENTRY: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["line", "id"],
    "properties": {"line": {"type": "integer", "minimum": 1}, "id": {"type": "string"}},
}
_REJECTED: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["line", "reason"],
    "properties": {
        "line": {"type": "integer", "minimum": 1},
        "field": {"type": "string", "description": "which field of the job; absent: all of it"},
        "reason": {"type": "string"},
    },
}


def _listed(entry: str, words: str) -> dict[str, Any]:
    return {"type": "array", "items": {"$ref": _SCHEMAS + entry}, "description": words}


_LISTS: Final = {
    "accepted": _listed("AcceptedLine", "lines whose jobs the broker has confirmed"),
    "rejected": _listed("RejectedLine", "lines that are not valid jobs"),
}
_OWN: Final[dict[str, Any]] = {
    "Accepted": {
        "type": "object",
        "required": ["id"],
        "properties": {
            "id": {"type": "string", "description": "of the job"},
            "result": {"type": "string", "description": "as Location"},
        },
    },
    "AcceptedLine": _ENTRY,
    "RejectedLine": _REJECTED,
    "Lines": {"type": "object", "required": ["accepted", "rejected"], "properties": _LISTS},
    "BatchProgress": {
        "type": "object",
        "required": ["id", "state", "size", "counted", "kinds", "started_at"],
        "properties": {
            "id": {"type": "string"},
            "state": {"enum": ["open", "done", "expired"]},
            "size": {"type": "integer", "description": "how many jobs the batch has"},
            "counted": {"type": "integer", "description": "jobs that have an outcome"},
            "kinds": {
                "type": "object",
                "additionalProperties": {"type": "integer"},
                "description": "of these: how many were ok, and failed by kind",
            },
            "started_at": {"type": "string", "description": "when the first outcome was there"},
            "last_at": {"type": "string", "description": "the newest one, of an open batch"},
            "ended_at": {"type": "string", "description": "when it was done or expired"},
            "reason": {"type": "string", "description": "why it expired"},
        },
    },
    "CancelRule": {
        "type": "object",
        "required": ["rule", "match", "until"],
        "properties": {
            "rule": {"type": "string", "description": "the id of the rule, as in scraperd rules"},
            "match": {"type": "string", "description": "which jobs it is about"},
            "until": {"type": "string", "description": "when the rule ends: after a day"},
        },
    },
    "Problem": {
        "description": "problem details (RFC 9457)",
        "type": "object",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"const": "about:blank"},
            "title": {"type": "string"},
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": {"type": "string"},
            "field": {"type": "string", "description": "of one job: which field is not valid"},
            "reason": {"type": "string", "description": "of one job: why"},
            **_LISTS,
            "unconfirmed": _listed("AcceptedLine", "lines whose jobs may have arrived"),
        },
    },
}


def document(max_wait: float) -> bytes:
    """Return the document as JSON. `max_wait` is http.max_wait."""
    return (json.dumps(_document(max_wait), indent=2, ensure_ascii=False) + "\n").encode()


def _document(max_wait: float) -> dict[str, Any]:
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "scraperd gateway",
            "version": VERSION,
            "summary": "Jobs for scraperd over HTTP; the version is that of job and result.",
        },
        "security": [{"bearer": []}],
        "paths": {
            "/v1/jobs": {"post": _post(max_wait)},
            "/v1/results/{handle}": {"get": _result(max_wait)},
            "/v1/jobs/{id}": {"delete": _cancel("job")},
            "/v1/batches/{id}": {"get": _batch(), "delete": _cancel("batch")},
            "/metrics": {"get": _metrics()},
            "/v1/openapi.json": {"get": _open("this document", _JSON, {"type": "object"})},
            "/health/live": {"get": _open("the process lives", "text/plain", {"type": "string"})},
            "/health/ready": {"get": _ready()},
        },
        "components": {
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "not needed where the gateway has no tokens",
                }
            },
            "schemas": {**_contract(Job), **_contract(Result), **_OWN},
        },
    }


def _contract(what: Any) -> dict[str, Any]:
    """Return the schemas of the contract, which refer to each other where OpenAPI has them."""
    text = json.dumps(schema(what)["$defs"]).replace('"#/$defs/', f'"{_SCHEMAS}')
    found: dict[str, Any] = json.loads(text)
    return found


def _body(ref: str, media: str = _JSON) -> dict[str, Any]:
    return {media: {"schema": {"$ref": _SCHEMAS + ref}}}


def _problems(*statuses: str) -> dict[str, Any]:
    return {
        status: {
            "description": words,
            "headers": headers,
            "content": _body("Problem", CONTENT_TYPE),
        }
        for status, (words, headers) in _PROBLEMS.items()
        if status in statuses
    }


def _wait(words: str, most: float) -> dict[str, Any]:
    return {
        "name": "wait",
        "in": "query",
        "description": f"seconds to wait for the result{words}; at most http.max_wait",
        "schema": {"type": "number", "exclusiveMinimum": 0, "maximum": most},
    }


def _post(max_wait: float) -> dict[str, Any]:
    lines = {
        "schema": {"type": "string", "description": "a Job a line"},
        "example": "".join(json.dumps(job) + "\n" for job in _EXAMPLES),
    }
    one = {"schema": {"$ref": _SCHEMAS + "Job"}, "example": _EXAMPLES[0]}
    key = {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "a request with the same key and body gets the same answer",
        "schema": {"type": "string", "pattern": '^"[A-Za-z0-9_-]{1,253}"$'},
    }
    accepted = {
        "schema": {"anyOf": [{"$ref": _SCHEMAS + "Accepted"}, {"$ref": _SCHEMAS + "Lines"}]}
    }
    statuses = [status for status in _PROBLEMS if status != "404"]
    return {
        "operationId": "submit",
        "summary": "Submit one job, or a job a line",
        "parameters": [_wait(" of one job", max_wait), key],
        "requestBody": {
            "required": True,
            "content": {
                _JSON: one,
                "application/x-ndjson": lines,
                "application/jsonl": lines,
            },
        },
        "responses": {
            "200": {
                "description": "the result of the job; with `wait`",
                "content": _body("Result"),
            },
            "202": {
                "description": "the broker has confirmed the jobs",
                "headers": _PLACE,
                "content": {_JSON: accepted},
            },
            **_problems(*statuses),
        },
    }


def _result(max_wait: float) -> dict[str, Any]:
    handle = {"name": "handle", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "operationId": "result",
        "summary": "Ask for a result that was waited for",
        "parameters": [handle, _wait("", max_wait)],
        "responses": {
            "200": {"description": "the result", "content": _body("Result")},
            "202": {
                "description": "the result is not there yet",
                "headers": _PLACE,
                "content": _body("Accepted"),
            },
            **_problems("400", "401", "403", "404", "405", "429", "431"),
        },
    }


def _batch() -> dict[str, Any]:
    ident = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "operationId": "batch",
        "summary": "Ask how far a batch is",
        "parameters": [ident],
        "responses": {
            "200": {"description": "how far the batch is", "content": _body("BatchProgress")},
            **_problems("400", "401", "403", "404", "405", "429", "431", "503"),
        },
    }


def _cancel(what: str) -> dict[str, Any]:
    ident = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "operationId": f"cancel_{what}",
        "summary": f"Cancel a {what}",
        "parameters": [ident],
        "responses": {
            "202": {
                "description": "the rule is set that cancels it; processes have it in two seconds",
                "content": _body("CancelRule"),
            },
            **_problems("400", "401", "403", "404", "405", "429", "431", "503"),
        },
    }


def _open(words: str, media: str, told: dict[str, Any]) -> dict[str, Any]:
    """Return an operation that needs no token."""
    return {
        "summary": words,
        "security": [{}],
        "responses": {
            "200": {"description": words, "content": {media: {"schema": told}}},
            **_problems("403", "405", "431"),
        },
    }


def _ready() -> dict[str, Any]:
    operation = _open("jobs can be published", "text/plain", {"type": "string"})
    operation["responses"] |= _problems("503")
    return operation


def _metrics() -> dict[str, Any]:
    text = {"schema": {"type": "string"}}
    return {
        "summary": "metrics for Prometheus",
        "responses": {
            "200": {
                "description": "in Prometheus's text format, or in OpenMetrics",
                "content": {"text/plain": text, "application/openmetrics-text": text},
            },
            **_problems("401", "403", "405", "429", "431"),
        },
    }
