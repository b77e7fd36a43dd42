"""Job and Result: what a dispatcher sends and what it gets back, as JSON.

May touch: msgspec; base, for what a URL is and for text fit to be shown.
Must never: do I/O, read a clock, know AMQP, or import anything above base.
"""

from __future__ import annotations

import difflib
import re
from datetime import datetime  # noqa: TC003 - msgspec resolves the annotation at run time
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias, get_args

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from scraperd.base.text import printable
from scraperd.base.urls import MAX_URL, check_url, domain_of

if TYPE_CHECKING:
    from collections.abc import Iterator

Kind: TypeAlias = Literal[
    "invalid_job",
    "blocked_address",
    "robots_denied",
    "dns",
    "connect",
    "tls",
    "timeout",
    "http_status",
    "protocol",
    "too_large",
    "too_many_redirects",
    "decode",
    "extract",
    "expired",
    "cancelled",
    "proxy",
    "internal",
]
Method: TypeAlias = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
Include: TypeAlias = Literal[
    "body", "headers", "links", "metadata", "text", "feed", "cookies", "redirect_headers"
]

VERSION: Final = "1.0"  # of job and result; docs/compatibility.md says when which part rises
MAX_ATTEMPTS: Final = 20  # earlier attempts that are told; the newest
MAX_ID: Final = 255  # bytes: an AMQP short string, so that it fits a correlation id
MAX_JOB: Final = 512 * 1024  # bytes; the default of jobs.max_size, which says why
MAX_HEADERS: Final = 100  # Apache refuses more (LimitRequestFields)
MAX_HEADER_BYTES: Final = 64 * 1024  # of headers and cookies; nginx takes 32 KiB, Apache 8 each
MAX_COOKIES: Final = 300  # browsers keep 180 of a site; each costs time at each redirect
MAX_FORM: Final = 1000  # fields; PHP and Django take no more
MAX_INCLUDE: Final = len(get_args(Include))
MAX_META: Final = 64 * 1024  # bytes; each result of the job holds them again
MAX_BATCH_SIZE: Final = 100_000  # jobs; who tallies keeps 8 bytes of each in a message
MAX_BATCH_ID: Final = 100  # characters

_WORDS: Final[dict[str, Any]] = {"type": "string", "pattern": r"\S"}


def _one_or_more(most: int) -> dict[str, Any]:
    return {"anyOf": [_WORDS, {"type": "array", "minItems": 1, "maxItems": most, "items": _WORDS}]}


_RULE_OBJECT: Final[dict[str, Any]] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "selector": {
            "description": "a CSS selector, or several: the first that matches counts",
            **_one_or_more(20),
        },
        "jmespath": {**_WORDS, "description": "an expression, for JSON"},
        "output": {
            "description": "text (default), html, table, @attribute, or nested rules",
            "anyOf": [
                {"type": "string", "pattern": r"^(text|html|table|@[\s\S]+)$"},
                {"type": "object"},
            ],
        },
        "type": {"enum": ["item", "list"]},
        "limit": {"type": "integer", "minimum": 1, "description": "of a list: at most so many"},
        "header": {"type": "boolean", "description": "of a table: objects by its header row"},
        "regex": {**_WORDS, "description": "RE2; the first match counts"},
        "group": {"type": ["integer", "string"], "description": "of the regex: which one counts"},
        "cast": {"enum": ["int", "float", "bool", "date", "url"]},
        "decimal": {"enum": [".", ","], "description": "of int and float: the decimal separator"},
        "format": {"description": "of a date: strptime formats", **_one_or_more(10)},
        "default": {"description": "stands where there is no value"},
        "required": {"type": "boolean", "description": "without a value the job fails"},
    },
}
_RULE_SCHEMA: Final[dict[str, Any]] = {
    "description": "Extraction rules: a name maps to a CSS selector or to a rule object.",
    "type": "object",
    "additionalProperties": {
        "anyOf": [
            _WORDS,
            {**_RULE_OBJECT, "anyOf": [{"required": ["selector"]}, {"required": ["jmespath"]}]},
        ]
    },
}

JsonValue = Annotated[Raw, Meta(extra_json_schema={"description": "any JSON value"})]
_Passed = Annotated[
    Raw,
    Meta(extra_json_schema={"description": f"any JSON value, at most {MAX_META} bytes of JSON"}),
]
Rules = Annotated[Raw, Meta(extra_json_schema=_RULE_SCHEMA)]
Seconds = Annotated[float, Meta(gt=0)]
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_FIELD_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")  # RFC 9110 section 5.5, tab allowed
_COOKIE_OCTETS = r"[!#-+\--:<-\[\]-~]*"  # RFC 6265 section 4.1.1
_COOKIE_VALUE = re.compile(f'{_COOKIE_OCTETS}|"{_COOKIE_OCTETS}"')


def _said(pattern: str, **more: Any) -> Meta:
    """What a check in this file refuses, told to the readers of the schema."""
    return Meta(extra_json_schema={"pattern": f"^(?:{pattern})$"}, **more)


def _counted(most: int, what: str) -> Meta:
    """How many entries `_count_faults` lets pass, told to the readers of the schema."""
    return Meta(extra_json_schema={"maxProperties": most, "description": what})


_Url = Annotated[
    str,
    _said(
        r"[Hh][Tt][Tt][Pp][Ss]?://[^\x00-\x20\x7f\\/?#@]+(?:[/?#][^\x00-\x20\x7f\\]*)?",
        max_length=MAX_URL,
        description="http or https, absolute, without userinfo",
    ),
]
_Token = Annotated[str, _said(TOKEN.pattern)]
_FieldValue = Annotated[str, _said(_FIELD_VALUE.pattern)]
ENTITY_TAG = re.compile(r'(?:W/)?"[^\x00-\x20\x22\x7f]*"')  # RFC 9110 section 8.8.3
_HTTP_DATE = re.compile(  # IMF-fixdate, the one form that may be sent (RFC 9110 section 5.6.7)
    "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), [0-9]{2} "
    "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) [0-9]{4} "
    "[0-9]{2}:[0-9]{2}:[0-9]{2} GMT"
)
_HttpDate = Annotated[str, _said(_HTTP_DATE.pattern)]
_PROXY_NAME = re.compile("[a-z0-9_-]{1,50}")
_ProxyName = Annotated[str, _said(_PROXY_NAME.pattern)]
_CALLBACK_NAME = re.compile("[a-z0-9_-]{1,50}")
_CallbackName = Annotated[str, _said(_CALLBACK_NAME.pattern)]
_EntityTag = Annotated[str, _said(ENTITY_TAG.pattern)]
_CookieValue = Annotated[str, _said(_COOKIE_VALUE.pattern)]
_TOGETHER: Final = f"with their names, headers and cookies together: {MAX_HEADER_BYTES} bytes"
_Headers = Annotated[
    dict[_Token, _FieldValue],
    _counted(MAX_HEADERS, f"no two names that differ in case only; {_TOGETHER}"),
]
_COOKIE_NAME: Final = r"[^\x00-\x20\x7f;=](?:[^\x00-\x1f\x7f;=]*[^\x00-\x20\x7f;=])?"
_COOKIE_TEXT: Final = r"(?:[^\x00-\x20\x7f;](?:[^\x00-\x08\x0a-\x1f\x7f;]*[^\x00-\x20\x7f;])?)?"
_COOKIE_PATH: Final = r"/[^\x00-\x1f\x7f;]*"
_PARTS: Final = {  # of a cookie in a list: what each may be, and the words for what it is not
    "name": (re.compile(_COOKIE_NAME), "not a cookie name: empty, or with a space around it, a "),
    "value": (re.compile(_COOKIE_TEXT), "not a cookie value: with a space around it, a "),
    "path": (re.compile(_COOKIE_PATH), "not a path: it begins with a slash, and has no "),
}


class Cookie(Struct, frozen=True, forbid_unknown_fields=True):
    """A cookie as a site set it (RFC 6265 section 5.3): as a result tells it, and a job gives it.

    A job's cookie without a domain goes to the origin of the job's `url` only. A flag that is
    absent is false; in a result none is.
    """

    name: Annotated[str, _said(_COOKIE_NAME, description="as the site wrote it")]
    value: Annotated[str, _said(_COOKIE_TEXT, description="as the site wrote it, quotes too")]
    domain: (
        Annotated[str, Meta(max_length=255, description="the host, or a domain above it")]
        | UnsetType
    ) = UNSET
    path: (
        Annotated[str, _said(_COOKIE_PATH, description="where it goes, with all below")] | UnsetType
    ) = UNSET
    expires: (
        Annotated[datetime, Meta(tz=True, description="absent: it ends with the session")]
        | UnsetType
    ) = UNSET
    secure: Annotated[bool, Meta(description="it goes over https only")] | UnsetType = UNSET
    http_only: (
        Annotated[bool, Meta(description="scripts of the page may not read it")] | UnsetType
    ) = UNSET
    host_only: (
        Annotated[bool, Meta(description="it goes to `domain`, and to no host below")] | UnsetType
    ) = UNSET


_Cookies = Annotated[dict[_Token, _CookieValue], _counted(MAX_COOKIES, _TOGETHER)]
_CookieList = Annotated[
    list[Cookie],
    Meta(
        extra_json_schema={"maxItems": MAX_COOKIES},
        description=f"as `cookies` of an earlier result; {_TOGETHER}",
    ),
]
_Form = Annotated[dict[str, str], _counted(MAX_FORM, "sent as application/x-www-form-urlencoded")]
_BATCH_ID = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._:-]{{0,{MAX_BATCH_ID - 1}}}")


class Batch(Struct, frozen=True, forbid_unknown_fields=True):
    """The batch that a job belongs to; all of its jobs say the same.

    Its callback gets the message at its end, as a job's gets the job's result.
    """

    id: Annotated[
        str,
        _said(_BATCH_ID.pattern, description="of the batch: never used for another batch"),
    ]
    size: Annotated[int, Meta(ge=1, le=MAX_BATCH_SIZE, description="how many jobs the batch has")]
    callback_url: _Url | UnsetType = UNSET
    callback: _CallbackName | UnsetType = UNSET

    @property
    def bare(self) -> Batch:
        """The batch as results tell it: without where its message goes."""
        return Batch(self.id, self.size)


class Job(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One page to scrape. Nothing but `url` is required; limits only tighten the configured ones.

    `timeout` is in seconds, `max_body_size` in bytes after decompression,
    `expires_at` an RFC 3339 date with its zone. `etag` and `last_modified` are
    a former result's; `proxy` is the name of a configured one, as is `callback`.
    """

    url: _Url
    id: Annotated[str, Meta(min_length=1, max_length=MAX_ID)] | UnsetType = UNSET
    method: Method | UnsetType = UNSET
    headers: _Headers | UnsetType = UNSET
    cookies: _Cookies | _CookieList | UnsetType = UNSET
    body: str | UnsetType = UNSET
    json: JsonValue | UnsetType = UNSET
    form: _Form | UnsetType = UNSET
    extract: Rules | UnsetType = UNSET
    include: Annotated[list[Include], Meta(max_length=MAX_INCLUDE)] | UnsetType = UNSET
    timeout: Seconds | UnsetType = UNSET
    max_retries: Annotated[int, Meta(ge=0)] | UnsetType = UNSET
    max_body_size: Annotated[int, Meta(ge=1)] | UnsetType = UNSET
    max_redirects: Annotated[int, Meta(ge=0)] | UnsetType = UNSET
    follow_redirects: (
        Annotated[bool, Meta(description="false: a redirect is itself the result, and ok")]
        | UnsetType
    ) = UNSET
    etag: _EntityTag | UnsetType = UNSET
    last_modified: _HttpDate | UnsetType = UNSET
    proxy: _ProxyName | UnsetType = UNSET
    expires_at: Annotated[datetime, Meta(tz=True)] | UnsetType = UNSET
    callback_url: _Url | UnsetType = UNSET
    callback: _CallbackName | UnsetType = UNSET
    batch: Batch | UnsetType = UNSET
    meta: _Passed | UnsetType = UNSET

    @property
    def verb(self) -> Method:
        """The request method: as given, else POST with a body and GET without."""
        if self.method is not UNSET:
            return self.method
        return "POST" if self.has_body else "GET"

    @property
    def has_body(self) -> bool:
        """Whether the request carries `body`, `json` or `form`."""
        return not (self.body is UNSET and self.json is UNSET and self.form is UNSET)

    def wants(self, what: Include) -> bool:
        """Whether the result carries `what`: as listed, else the body of a job without rules."""
        if self.include is UNSET:
            return what == "body" and self.extract is UNSET
        return what in self.include


class Failure(Struct, frozen=True, omit_defaults=True):
    """Why a job failed. A value, not an exception: expected failures travel in the Result.

    `retry_after` is what the site asked for, in seconds; `field` names what is
    wrong in an invalid job, empty where it can't be told.
    """

    kind: Kind
    message: str
    retryable: bool = False
    retry_after: float | UnsetType = UNSET
    field: str | UnsetType = UNSET

    def __bool__(self) -> Literal[True]:
        """A failure is always something."""
        return True


class Attempt(Struct, frozen=True, gc=False):
    """An attempt that failed, and after which the job was tried again."""

    kind: Annotated[str, Meta(description="of the failure")]
    at: Annotated[str, Meta(description="when it ended, as an RFC 3339 date")]
    worker: Annotated[str, Meta(description="the process that made it")]


class Redirect(Struct, frozen=True, omit_defaults=True):
    """One hop on the way: the status and the absolute URL it pointed to.

    `headers` are there if the job asked for `redirect_headers`.
    """

    status: int
    url: str
    headers: dict[str, list[str]] | UnsetType = UNSET


class Link(Struct, frozen=True, gc=False, omit_defaults=True):
    """A hyperlink of the page: absolute URL, its text, its `rel` if there is one."""

    url: str
    text: str
    rel: str | UnsetType = UNSET


class Refresh(Struct, frozen=True, gc=False):
    """What `<meta http-equiv="refresh">` wants of a browser; it is never followed."""

    delay: Annotated[int, Meta(ge=0, description="whole seconds")]
    url: Annotated[str, Meta(description="absolute; the page's own if it names none")]


class Metadata(Struct, frozen=True, omit_defaults=True):
    """What the page says of itself; absent where it says nothing."""

    title: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    canonical: str | UnsetType = UNSET
    refresh: (
        Annotated[Refresh, Meta(description="where a browser would go by itself")] | UnsetType
    ) = UNSET
    language: str | UnsetType = UNSET
    favicon: str | UnsetType = UNSET
    opengraph: dict[str, str] | UnsetType = UNSET
    twitter: dict[str, str] | UnsetType = UNSET
    json_ld: list[Any] | UnsetType = UNSET


class Timings(Struct, frozen=True, gc=False, omit_defaults=True):
    """Seconds. `wait` is for robots.txt, turns and slots, `fetch` for all hops to the last byte.

    The others are steps of all hops together. A step that did not happen is absent, as are `dns`,
    `connect` and `tls` on a kept connection.
    """

    total: Annotated[float, Meta(description="from the start to the result")]
    wait: (
        Annotated[float, Meta(description="robots.txt, the host's turn, memory, a slot")]
        | UnsetType
    ) = UNSET
    fetch: (
        Annotated[float, Meta(description="all hops, from dialling to the last byte")] | UnsetType
    ) = UNSET
    extract: Annotated[float, Meta(description="taking from the page")] | UnsetType = UNSET
    dns: Annotated[float, Meta(description="lookups that no cache answered")] | UnsetType = UNSET
    connect: Annotated[float, Meta(description="TCP connections, to a proxy too")] | UnsetType = (
        UNSET
    )
    tls: Annotated[float, Meta(description="TLS handshakes")] | UnsetType = UNSET
    first_byte: (
        Annotated[float, Meta(description="from each request to the first byte of its answer")]
        | UnsetType
    ) = UNSET
    transfer: (
        Annotated[float, Meta(description="from the first byte of each answer to its last")]
        | UnsetType
    ) = UNSET


class Result(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of a job. What was not asked for, or never came to be, is absent, not null.

    `body_truncated` is there only if the site's packed data ended early, in a message that is
    whole: all fields tell of what came before.

    `size` is the body in bytes after decompression, `content_hash` its SHA-256
    as `sha256:HEX`. `not_modified` is there only if true. `body` is text, or base64
    where `body_encoding` says so. `data` is what the extraction rules found.
    `id` and `run` together are what to drop duplicates by.
    """

    id: str
    run: Annotated[int, Meta(ge=1)] | UnsetType = UNSET
    url: str | UnsetType = UNSET
    status: Literal["ok", "failed"]
    error: Failure | UnsetType = UNSET
    final_url: str | UnsetType = UNSET
    http_status: int | UnsetType = UNSET
    redirects: list[Redirect] | UnsetType = UNSET
    redirect_url: (
        Annotated[str, Meta(description="where a redirect leads that was not followed")] | UnsetType
    ) = UNSET
    headers: dict[str, list[str]] | UnsetType = UNSET
    cookies: (
        Annotated[list[Cookie], Meta(description="those that were set, as a job can give them")]
        | UnsetType
    ) = UNSET
    content_type: str | UnsetType = UNSET
    charset: str | UnsetType = UNSET
    size: int | UnsetType = UNSET
    etag: str | UnsetType = UNSET
    last_modified: str | UnsetType = UNSET
    content_hash: str | UnsetType = UNSET
    not_modified: bool | UnsetType = UNSET
    body: str | UnsetType = UNSET
    body_encoding: Literal["base64"] | UnsetType = UNSET
    body_truncated: (
        Annotated[
            Literal["decode"],
            Meta(description="the content coding ended early; the body is what came before"),
        ]
        | UnsetType
    ) = UNSET
    data: dict[str, Any] | UnsetType = UNSET
    links: list[Link] | UnsetType = UNSET
    metadata: Metadata | UnsetType = UNSET
    text: str | UnsetType = UNSET
    feed: dict[str, Any] | UnsetType = UNSET
    attempt: Annotated[int, Meta(ge=1)]
    attempts: Annotated[list[Attempt], Meta(max_length=MAX_ATTEMPTS)] | UnsetType = UNSET
    dead_letter: bool | UnsetType = UNSET
    limited: dict[str, float] | UnsetType = UNSET
    timings: Timings | UnsetType = UNSET
    fetched_at: str | UnsetType = UNSET
    worker: str | UnsetType = UNSET
    contract_version: str | UnsetType = UNSET
    batch: Batch | UnsetType = UNSET
    meta: JsonValue | UnsetType = UNSET


class BatchEnd(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The one message that says that a batch has ended."""

    event: Annotated[
        Literal["batch.done", "batch.expired"],
        Meta(description="the routing key too; done: each job has its outcome"),
    ]
    batch: Batch
    counted: Annotated[int, Meta(ge=0, description="jobs that had an outcome, each once")]
    kinds: Annotated[
        dict[str, int], Meta(description="of these: how many were ok, and failed by kind")
    ]
    missing: Annotated[int, Meta(ge=0, description="jobs without an outcome")] = 0
    reason: Annotated[str, Meta(description="why it ended without them")] | UnsetType = UNSET
    started_at: Annotated[str, Meta(description="when the first outcome was there")]
    ended_at: Annotated[str, Meta(description="when the batch ended")]
    contract_version: str


class Invalid(Struct, frozen=True):
    """A body that is no job: which field, why, and what could be read of it.

    `newer` says that a later version may know what this one does not.
    """

    field: str
    reason: str
    id: str | UnsetType = UNSET
    url: str | UnsetType = UNSET
    meta: Raw | UnsetType = UNSET
    newer: bool = False
    callback_url: str | UnsetType = UNSET
    callback: str | UnsetType = UNSET
    batch: Batch | UnsetType = UNSET

    @property
    def message(self) -> str:
        """One line for a person: where, then what."""
        return f"{self.field}: {self.reason}" if self.field else self.reason


class Peeked(Struct, frozen=True):
    """What can still be told of a body that is no job, or must not be worked on."""

    id: str | UnsetType = UNSET
    url: str | UnsetType = UNSET
    meta: Raw | UnsetType = UNSET
    callback_url: str | UnsetType = UNSET
    callback: str | UnsetType = UNSET
    batch: Batch | UnsetType = UNSET


class _Peeked(Struct):
    """The same, before it is known to be of use: it may be of any size."""

    id: Raw | UnsetType = UNSET
    url: Raw | UnsetType = UNSET
    meta: Raw | UnsetType = UNSET
    callback_url: Raw | UnsetType = UNSET
    callback: Raw | UnsetType = UNSET
    batch: Raw | UnsetType = UNSET

    def text(self, raw: Raw | UnsetType, most: int) -> str | UnsetType:
        """A string of 1 to `most` characters; UNSET for anything else."""
        if raw is UNSET or len(bytes(raw)) > most * _ESCAPED:
            return UNSET
        found = msgspec.json.decode(raw)
        return found if isinstance(found, str) and 0 < len(found) <= most else UNSET


class _Maps(Struct):
    """The fields whose values must be texts, untouched."""

    headers: Raw | UnsetType = UNSET
    cookies: Raw | UnsetType = UNSET
    form: Raw | UnsetType = UNSET


_ESCAPED: Final = 12  # bytes that one character may take in JSON, as two escapes of six
_job_decoder = msgspec.json.Decoder(Job)
_result_decoder = msgspec.json.Decoder(Result)
_peeked_decoder = msgspec.json.Decoder(_Peeked)
_batch_decoder = msgspec.json.Decoder(Batch)
_maps_decoder = msgspec.json.Decoder(_Maps)
_values_decoder = msgspec.json.Decoder(dict[str, Raw])
_lists_decoder = msgspec.json.Decoder(list[dict[str, Raw]])
_encoder = msgspec.json.Encoder()

_ANYTHING: Final = frozenset({"json", "meta"})  # null is a value of these
_INTEGERS: Final = frozenset({"max_retries", "max_body_size", "max_redirects"})
_DECIMAL: Final = re.compile(rb"-?[0-9]{1,20}(?:\.[0-9]{1,20})?(?:[eE][+-]?[0-9]{1,2})?")
_EXACT: Final = 2**53  # above it not each whole number is a double
_AT: Final = " - at `$"
_UNKNOWN: Final = "unknown field"
_NAMED = re.compile(
    r"Object (?:contains )?(?P<what>unknown|missing required) field `(?P<field>.*?)`"
    r"(?: - at `\$\.(?P<path>cookies\[[0-9]+\]|batch)`)?",
    re.DOTALL,
)
_LONE_SURROGATE = re.compile(
    rb"(?<!\\)(?:\\\\)*\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
)
_TAIL: Final = 64  # bytes in which half a pair stands if the decoder finds no other half behind it
_SHOWN: Final = 300  # characters of the decoder's words; they may quote all of a job
_OURS = frozenset(  # framing and routing belong to the client; a stranger must not set them
    "host content-length transfer-encoding connection keep-alive te trailer upgrade expect "
    "proxy-authorization proxy-connection".split()
)


def decode_job(raw: bytes, max_size: int = MAX_JOB) -> Job | Invalid:
    """Read a job from UTF-8 JSON. Never raises: what is wrong comes back as Invalid.

    Of more than `max_size` bytes nothing is read, not even the id: looking for it would take
    as long as decoding all of it.
    """
    if len(raw) > max_size:
        return Invalid("", f"the job has {len(raw)} bytes, more than {max_size} (jobs.max_size)")
    return _decoded(raw)


def _decoded(raw: bytes) -> Job | Invalid:
    try:
        raw.decode()  # values passed through untouched are not checked by the decoder
        job = _job_decoder.decode(raw)
    except UnicodeDecodeError as error:
        return Invalid("", f"not UTF-8: {error.reason} at byte {error.start}")
    except RecursionError:
        return Invalid("", "nested too deeply")
    except msgspec.ValidationError as error:
        if (plain := _plainer(raw)) is not None:
            return _decoded(plain)
        return _unfit(raw, str(error))
    except msgspec.DecodeError as error:
        return Invalid("", f"not JSON: {_why_not(raw, str(error)) or error}")
    if job.extract is not UNSET and bytes(job.extract) == b"null":
        job = msgspec.structs.replace(job, extract=UNSET)
    fault = next(_faults(job), None)
    return job if fault is None else _invalid(raw, *fault)


def _unfit(raw: bytes, message: str) -> Invalid:
    """The Invalid for what msgspec's `message` is about."""
    field, reason = _where(raw, message)
    newer = reason.startswith(_UNKNOWN) or field.startswith("include")
    return msgspec.structs.replace(_invalid(raw, field, reason), newer=newer)


def _plainer(raw: bytes) -> bytes | None:
    """Return a job that was refused without what only its writer's JSON library put there.

    That is `null` for a field that it does not have, and `1.0` for a whole number, which JSON
    Schema calls an integer (2020-12, section 6.1.1). `json` and `meta` keep their `null`.
    None if there is neither.
    """
    try:
        fields = _values_decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    plain = {
        name: value
        for name, value in fields.items()
        if bytes(value) != b"null" or name in _ANYTHING
    }
    if bytes(plain.get("cookies", b"")).startswith(b"["):
        plain["cookies"] = _without_nulls(plain["cookies"])
    for name in _INTEGERS.intersection(plain):
        plain[name] = Raw(_whole(bytes(plain[name])))
    if "batch" in plain:
        plain["batch"] = _with_whole_size(plain["batch"])
    return _encoder.encode(plain) if plain != fields else None


def _without_nulls(cookies: Raw) -> Raw:
    try:
        found = _lists_decoder.decode(cookies)
    except (msgspec.DecodeError, RecursionError):
        return cookies
    if not any(bytes(value) == b"null" for one in found for value in one.values()):
        return cookies
    plain = [{k: v for k, v in one.items() if bytes(v) != b"null"} for one in found]
    return Raw(_encoder.encode(plain))


def _with_whole_size(batch: Raw) -> Raw:
    try:
        found = _values_decoder.decode(batch)
    except (msgspec.DecodeError, RecursionError):
        return batch
    size = bytes(found.get("size", b""))
    whole = _whole(size)
    return batch if whole == size else Raw(_encoder.encode({**found, "size": Raw(whole)}))


def _whole(text: bytes) -> bytes:
    """A number of JSON that is whole, as an integer; anything else as it is."""
    if not _DECIMAL.fullmatch(text):
        return text
    value = float(text)
    return b"%d" % value if value.is_integer() and abs(value) <= _EXACT else text


def refused(job: Job | Peeked, field: str, reason: str) -> Invalid:
    """The Invalid for a job, or for what could be read of one, with a field that is refused."""
    return Invalid(
        field,
        reason,
        id=job.id,
        url=job.url,
        meta=job.meta,
        callback_url=job.callback_url,
        callback=job.callback,
        batch=job.batch,
    )


def encode(value: Job | Result | BatchEnd) -> bytes:
    """The UTF-8 JSON of a job, a result or the end of a batch, on one line.

    Values that are passed through (`meta`, `json`, rules) keep their publisher's white space, but
    for line breaks and tabs. JSON has those between values only, where they mean nothing: in a
    string they are escaped (RFC 8259 sections 2 and 7). So nothing else changes.
    """
    text = _encoder.encode(value)
    if b"\n" in text or b"\r" in text or b"\t" in text:
        return text.translate(None, b"\t\n\r")
    return text


def decode_result(raw: bytes) -> Result:
    """Read a result back; raises msgspec.DecodeError where it is none."""
    return _result_decoder.decode(raw)


def schema(what: type[Struct]) -> dict[str, Any]:
    """The JSON Schema (2020-12) of `what`, made from the type itself."""
    made = msgspec.json.schema(what)
    for name, definition in made["$defs"].items():
        for field, told in definition["properties"].items():
            if words := _WORDS_OF.get(name, {}).get(field):
                told.setdefault("description", words)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:scraperd:contract:{VERSION}:{what.__name__.lower()}",
        "contract_version": VERSION,
        **made,
    }


_WORDS_OF: Final[dict[str, dict[str, str]]] = {  # of the fields that need no more than words
    "Job": {
        "id": "of the job; comes back in its result",
        "method": "default GET, or POST if there is a body",
        "headers": "replace the default headers",
        "cookies": "go to the origin of `url` only, unless they name a domain",
        "body": "of the request, in UTF-8; at most one of body, json and form",
        "json": "of the request; at most one of body, json and form",
        "form": "of the request; at most one of body, json and form",
        "include": "what else to return; without it and without `extract` the body",
        "timeout": "seconds for fetching, all redirects together",
        "max_retries": "attempts after the first one",
        "max_body_size": "bytes after decompression",
        "max_redirects": "that are followed; one more is a failure",
        "etag": "of an earlier result: fetch the page only if it has changed",
        "last_modified": "of an earlier result: fetch the page only if it has changed",
        "proxy": "the name of a proxy in the daemon's configuration",
        "expires_at": "the job is not begun after this time",
        "callback_url": "the result is POSTed there too, signed; not together with `callback`",
        "callback": "the name of an endpoint in the daemon's configuration, for the same",
        "batch": "the batch that the job belongs to; a job with it has an `id` too",
    },
    "Result": {
        "id": "of the job",
        "url": "of the job",
        "status": "ok or failed",
        "error": "why the job failed",
        "final_url": "the URL that answered last",
        "http_status": "of the last answer; a failure has it too, if a hop had answered",
        "redirects": "those that were followed",
        "headers": "lower-case names, each a list of values",
        "content_type": "as the site sent it",
        "charset": "the encoding that the page was read in",
        "size": "of the body, in bytes after decompression",
        "etag": "as the site sent it, if it is valid",
        "last_modified": "as the site sent it, if it is valid",
        "content_hash": "sha256: and the SHA-256 of the body after decompression",
        "not_modified": "true: the page has not changed",
        "body": "text, or base64 if `body_encoding` says so",
        "body_encoding": "base64: the body is no text",
        "data": "what the extraction rules found",
        "links": "the hyperlinks that lead to the web",
        "metadata": "what the page says of itself",
        "text": "the readable text of the main content",
        "feed": "a feed or a sitemap as data",
        "run": "from 1; another one begins when the job of a dead letter is published again",
        "attempt": "which attempt of the run this was, from 1",
        "attempts": "the attempts before it that failed; the newest 20",
        "dead_letter": "true: the job lies in the dead queue too",
        "limited": "limits of the job that were looser than configured: what counted instead",
        "contract_version": "of this result: major.minor",
        "timings": "how long all took, in seconds",
        "fetched_at": "when the first fetch started",
        "worker": "the process that made the result",
        "batch": "of the job",
    },
    "Failure": {
        "kind": "what went wrong, in one word",
        "message": "what went wrong, for a person",
        "retryable": "true: it may be better later",
        "retry_after": "seconds that the site asks to wait",
        "field": "of an invalid job: which field is wrong",
    },
    "Batch": {
        "callback": "an endpoint in the daemon's configuration, for the message at the end",
    },
    "Redirect": {
        "status": "of the redirect",
        "url": "where it leads, absolute",
        "headers": "if asked for: lower-case names, each a list of values",
    },
    "Link": {
        "url": "where it leads, absolute",
        "text": "of the link",
        "rel": "of the link, as written",
    },
    "Metadata": {
        "title": "of the page",
        "description": "of the page",
        "canonical": "the URL that the page has by its own account",
        "language": "of the page, as it says",
        "favicon": "the URL of its icon",
        "opengraph": "its properties without og:",
        "twitter": "its properties without twitter:",
        "json_ld": "its objects of JSON-LD",
    },
}


def _why_not(raw: bytes, words: str) -> str | None:
    """What is wrong with `raw` where the decoder's own words would not help."""
    if not raw.strip():
        return "the body is empty"
    if raw.startswith(b"\xef\xbb\xbf"):
        return "it starts with a byte order mark, leave that out (RFC 8259 section 8.1)"
    if "surrogate" in words or _LONE_SURROGATE.search(raw, max(0, len(raw) - _TAIL)):
        return "it holds half a surrogate pair, which is no character"
    return None


def _invalid(raw: bytes, field: str, reason: str) -> Invalid:
    return refused(peek(raw), field, reason)


def peek(raw: bytes) -> Peeked:
    """What can be read of a body that may be no job. Never raises."""
    try:
        seen = _peeked_decoder.decode(raw)
        ident, url = seen.text(seen.id, MAX_ID), seen.text(seen.url, MAX_URL)
        callback_url = seen.text(seen.callback_url, MAX_URL)
        callback = seen.text(seen.callback, MAX_ID)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Peeked()
    if ident is not UNSET and not is_ident(ident):
        ident = UNSET
    if url is not UNSET and "@" in url:
        url = UNSET  # it may hold a password, and a result may be logged by whoever reads it
    meta = UNSET if seen.meta is UNSET or len(bytes(seen.meta)) > MAX_META else seen.meta
    batch = UNSET if seen.batch is UNSET else read_batch(bytes(seen.batch))
    return Peeked(ident, url, meta, callback_url, callback, batch)


def is_batch_id(text: str) -> bool:
    """Whether it can be a batch's id."""
    return _BATCH_ID.fullmatch(text) is not None


def read_batch(raw: bytes) -> Batch | UnsetType:
    """Read a batch by itself; UNSET if it is not a valid one."""
    if len(raw) > (MAX_BATCH_ID + MAX_URL) * _ESCAPED:
        return UNSET
    try:
        found = _batch_decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return UNSET
    return found if is_batch_id(found.id) else UNSET


def is_ident(text: str) -> bool:
    """Whether it can be a job's id: it fits an AMQP short string, and JSON."""
    try:
        return 0 < len(text) <= MAX_ID and len(text.encode()) <= MAX_ID
    except UnicodeEncodeError:  # half a character
        return False


def _where(raw: bytes, message: str) -> tuple[str, str]:
    """The field's path and the reason, out of msgspec's message."""
    if named := _NAMED.fullmatch(message):
        field, path = printable(named["field"], 100), named["path"]
        where = f"{path}.{field}" if path else field
        if named["what"] == "missing required":
            return where, "is required"
        of = Job if not path else Batch if path == "batch" else Cookie
        return where, f"{_UNKNOWN}{_nearest(named['field'], of)}"
    reason, at, path = message.rpartition(_AT)
    if not at or path.find("`") != len(path) - 1:  # not where it is: words of the job itself
        reason, path = message, ""
    reason, path = printable(reason, _SHOWN), path.removesuffix("`").removeprefix(".")
    if not path and reason.startswith("Expected `object`"):
        return "", f"a job is a JSON object, not {reason.rpartition(' ')[2].strip('`')}"
    if path.startswith("include"):
        reason += f" (one of {', '.join(get_args(Include))})"
    if path == "method":
        reason += f" (one of {', '.join(get_args(Method))})"
    if path.endswith("[...]"):
        path = _named(raw, path.removesuffix("[...]"))
    return path, reason


def _named(raw: bytes, field: str) -> str:
    """`headers.X-Name` for the first value in `headers` that is no string."""
    try:
        values = getattr(_maps_decoder.decode(raw), field)
        if values is UNSET or len(bytes(values)) > MAX_HEADER_BYTES:  # too many to look through
            return field
        named = _values_decoder.decode(values)
    except (msgspec.DecodeError, RecursionError, AttributeError):
        return field  # broken further on, or given twice
    name = next((name for name, value in named.items() if bytes(value)[:1] != b'"'), None)
    return field if name is None else f"{field}.{printable(name, 100)}"


def _nearest(field: str, of: type[Struct]) -> str:
    close = difflib.get_close_matches(field[:100].lower(), of.__struct_fields__, n=1)
    return f"; did you mean {close[0]}?" if close else "; `scraperd schema job` lists them all"


def _faults(job: Job) -> Iterator[tuple[str, str]]:
    """What the types cannot say: pairs of field and reason, worst first."""
    if fault := check_url(job.url):
        yield "url", fault
    if job.id is not UNSET and len(job.id.encode()) > MAX_ID:
        yield "id", f"longer than {MAX_ID} bytes in UTF-8"
    if any(getattr(job, field) is not UNSET for field in _CHECKED):
        yield from _other_faults(job)


_CHECKED: Final = (  # most jobs have none of these
    *("headers", "cookies", "form", "body", "json", "meta"),
    *("etag", "last_modified", "proxy", "callback_url", "callback", "batch"),
)


def _other_faults(job: Job) -> Iterator[tuple[str, str]]:
    yield from _count_faults(job)
    for name, value in (job.headers or {}).items():
        if fault := _header_fault(name, value):
            yield f"headers.{printable(name)}", fault
    yield from _twins(job)
    if job.proxy is not UNSET and not _PROXY_NAME.fullmatch(job.proxy):
        yield "proxy", "not the name of a proxy (a-z, 0-9, _ and -); addresses are for the settings"
    yield from _cookie_faults(job)
    yield from _condition_faults(job)
    yield from _batch_faults(job)
    yield from _callback_faults(job, "")
    bodies = [name for name in ("body", "json", "form") if getattr(job, name) is not UNSET]
    if len(bodies) > 1:
        yield bodies[1], f"at most one of body, json and form; {bodies[0]} is given too"
    if bodies and job.verb in ("GET", "HEAD"):
        yield bodies[0], f"a {job.verb} request has no body"


def _count_faults(job: Job) -> Iterator[tuple[str, str]]:
    """What is too many or too much. First of all: the other checks take their time for each."""
    for field, most in (("headers", MAX_HEADERS), ("cookies", MAX_COOKIES), ("form", MAX_FORM)):
        entries = getattr(job, field)
        if entries is not UNSET and len(entries) > most:
            more = "; a longer one can be sent as `body`" if field == "form" else ""
            yield field, f"has {len(entries)} entries, more than {most}{more}"
    if (size := _header_bytes(job)) > MAX_HEADER_BYTES:
        what = f"{size} bytes in headers and cookies together, more than {MAX_HEADER_BYTES}"
        yield next(f for f in ("headers", "cookies", "etag") if getattr(job, f)), what
    if job.meta is not UNSET and (size := len(bytes(job.meta))) > MAX_META:
        yield "meta", f"has {size} bytes, more than {MAX_META}; keep a key to it instead"


def _header_bytes(job: Job) -> int:
    """Bytes of all that is sent in headers, in UTF-8; without what stands between."""
    pairs = [*(job.headers or {}).items()]
    if isinstance(job.cookies, dict):
        pairs += job.cookies.items()
    elif job.cookies:
        pairs += ((each.name + each.value, each.domain or "") for each in job.cookies)
        pairs += ((each.path or "", "") for each in job.cookies)
    own = (job.etag or "", job.last_modified or "")
    return sum(len(text.encode()) for pair in (*pairs, own) for text in pair)


def _twins(job: Job) -> Iterator[tuple[str, str]]:
    """Names that differ in case only are one header (RFC 9110 section 5.1).

    Of two spellings of it we would treat one, and send the other along to any origin.
    """
    seen: dict[str, str] = {}
    for name in job.headers or {}:
        twin = seen.setdefault(name.lower(), name)
        if twin is not name:
            why = f"given twice: as {printable(twin)} too, and case makes no difference (RFC 9110)"
            yield f"headers.{printable(name)}", why


def _condition_faults(job: Job) -> Iterator[tuple[str, str]]:
    named = {name.lower() for name in job.headers or {}}
    if job.etag is not UNSET:
        if not ENTITY_TAG.fullmatch(job.etag):
            yield "etag", 'not an entity tag: "..." or W/"...", with the quotes (RFC 9110 8.8.3)'
        if "if-none-match" in named:
            yield "etag", "given twice: as `etag` and as an If-None-Match header"
    if job.last_modified is not UNSET:
        if not _HTTP_DATE.fullmatch(job.last_modified):
            yield "last_modified", "not an HTTP date, like Sun, 06 Nov 1994 08:49:37 GMT (RFC 9110)"
        if "if-modified-since" in named:
            yield "last_modified", "given twice: as `last_modified` and as If-Modified-Since"
    for field in ("etag", "last_modified"):
        if getattr(job, field) is not UNSET and job.verb not in ("GET", "HEAD"):
            yield field, f"only a GET or HEAD can be conditional, not {job.verb}"


def _batch_faults(job: Job) -> Iterator[tuple[str, str]]:
    if job.batch is UNSET:
        return
    if not is_batch_id(job.batch.id):
        why = f"1 to {MAX_BATCH_ID} of A-Z, a-z, 0-9 and . _ : -, the first a letter or a digit"
        yield "batch.id", why
    if job.id is UNSET:
        yield "batch", "a job of a batch needs an `id` too, by which it is counted once"
    yield from _callback_faults(job.batch, "batch.")


def _callback_faults(whose: Job | Batch, where: str) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a callback; `where` stands before the names of its fields."""
    if whose.callback_url is not UNSET and (fault := check_url(whose.callback_url)):
        yield f"{where}callback_url", fault
    if whose.callback is not UNSET:
        if not _CALLBACK_NAME.fullmatch(whose.callback):
            yield f"{where}callback", "not the name of an endpoint (a-z, 0-9, _ and -)"
        if whose.callback_url is not UNSET:
            why = "at most one of callback_url and callback; callback_url is given too"
            yield f"{where}callback", why


def _cookie_faults(job: Job) -> Iterator[tuple[str, str]]:
    if job.cookies and any(name.lower() == "cookie" for name in job.headers or {}):
        yield "cookies", "given twice: as `cookies` and as a Cookie header"
    if isinstance(job.cookies, list):
        for place, cookie in enumerate(job.cookies):
            yield from _cookie_part_faults(f"cookies[{place}]", cookie)
        return
    for name, value in (job.cookies or {}).items():
        if not TOKEN.fullmatch(name):
            yield f"cookies.{printable(name)}", "not a cookie name (RFC 6265)"
        if not _COOKIE_VALUE.fullmatch(value):
            yield f"cookies.{printable(name)}", _BAD_COOKIE


def _cookie_part_faults(where: str, cookie: Cookie) -> Iterator[tuple[str, str]]:
    for part, (pattern, words) in _PARTS.items():
        text = getattr(cookie, part)
        if text is not UNSET and not pattern.fullmatch(text):
            yield f"{where}.{part}", words + "semicolon, an = or a control character"
    if cookie.domain is not UNSET and domain_of(cookie.domain) is None:
        yield f"{where}.domain", f"not a host: {printable(cookie.domain, 100)}"


_BAD_COOKIE: Final = (
    "holds a character no cookie value may (RFC 6265); a Cookie header takes what browsers send"
)


def _header_fault(name: str, value: str) -> str | None:
    if not TOKEN.fullmatch(name):
        return "not a header name (RFC 9110)"
    if not _FIELD_VALUE.fullmatch(value):
        return "holds a line break or another control character"
    if name.lower().replace("_", "-") in _OURS:  # behind CGI they are the same (RFC 3875 4.1.18)
        return "is set by the client itself and can't be given"
    if name.lower() == "cookie" and value.strip("; \t").count(";") >= MAX_COOKIES:
        return f"holds more than {MAX_COOKIES} cookies"
    return None
