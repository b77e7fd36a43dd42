"""Job and Result: what a dispatcher sends and what it gets back, as JSON.

May touch: msgspec and yarl (a URL must mean here what it means where it is dialled).
Must never: do I/O, read a clock, know AMQP, or import anything of ours.
"""

from __future__ import annotations

import difflib
import re
from datetime import datetime  # noqa: TC003 - msgspec resolves the annotation at run time
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias, get_args

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType
from yarl import URL

if TYPE_CHECKING:
    from collections.abc import Iterator

Kind: TypeAlias = Literal[
    "invalid_job",
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
    "internal",
]
Method: TypeAlias = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
Include: TypeAlias = Literal["body", "headers", "links", "metadata"]

MAX_URL: Final = 8192
MAX_ID: Final = 255  # also an AMQP short string, so that it fits a correlation id

_RULE_SCHEMA: Final[dict[str, Any]] = {
    "description": "Extraction rules: a name maps to a CSS selector or to a rule object.",
    "type": "object",
    "additionalProperties": {
        "anyOf": [
            {"type": "string"},
            {
                "type": "object",
                "required": ["selector"],
                "additionalProperties": False,
                "properties": {
                    "selector": {"type": "string", "description": "a CSS selector"},
                    "output": {
                        "description": "text (default), html, @attribute, or nested rules",
                        "anyOf": [
                            {"type": "string", "pattern": "^(text|html|@.+)$"},
                            {"type": "object"},
                        ],
                    },
                    "type": {"enum": ["item", "list"]},
                },
            },
        ]
    },
}

JsonValue = Annotated[Raw, Meta(extra_json_schema={"description": "any JSON value"})]
Rules = Annotated[Raw, Meta(extra_json_schema=_RULE_SCHEMA)]
Seconds = Annotated[float, Meta(gt=0)]


class Job(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One page to scrape. Nothing but `url` is required; limits only tighten the configured ones.

    `timeout` is in seconds, `max_body_size` in bytes after decompression,
    `expires_at` an RFC 3339 date with its zone.
    """

    url: Annotated[str, Meta(max_length=MAX_URL, description="http or https, absolute")]
    id: Annotated[str, Meta(min_length=1, max_length=MAX_ID)] | UnsetType = UNSET
    method: Method | UnsetType = UNSET
    headers: dict[str, str] | UnsetType = UNSET
    cookies: dict[str, str] | UnsetType = UNSET
    body: str | UnsetType = UNSET
    json: JsonValue | UnsetType = UNSET
    form: dict[str, str] | UnsetType = UNSET
    extract: Rules | UnsetType = UNSET
    include: list[Include] | UnsetType = UNSET
    timeout: Seconds | UnsetType = UNSET
    max_retries: Annotated[int, Meta(ge=0)] | UnsetType = UNSET
    max_body_size: Annotated[int, Meta(ge=1)] | UnsetType = UNSET
    max_redirects: Annotated[int, Meta(ge=0)] | UnsetType = UNSET
    expires_at: Annotated[datetime, Meta(tz=True)] | UnsetType = UNSET
    meta: JsonValue | UnsetType = UNSET

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


class Redirect(Struct, frozen=True):
    """One hop on the way: the status and the absolute URL it pointed to."""

    status: int
    url: str


class Link(Struct, frozen=True, omit_defaults=True):
    """A hyperlink of the page: absolute URL, its text, its `rel` if there is one."""

    url: str
    text: str
    rel: str | UnsetType = UNSET


class Metadata(Struct, frozen=True, omit_defaults=True):
    """What the page says of itself; absent where it says nothing."""

    title: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    canonical: str | UnsetType = UNSET
    language: str | UnsetType = UNSET
    opengraph: dict[str, str] | UnsetType = UNSET


class Timings(Struct, frozen=True, omit_defaults=True):
    """Seconds. `wait` is for a slot here, `fetch` until the last body byte (redirects included)."""

    total: float
    wait: float | UnsetType = UNSET
    fetch: float | UnsetType = UNSET
    extract: float | UnsetType = UNSET


class Result(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of a job. What was not asked for, or never came to be, is absent, not null.

    `size` is the body in bytes after decompression. `body` is text, or base64
    where `body_encoding` says so. `data` is what the extraction rules found.
    """

    id: str
    url: str | UnsetType = UNSET
    status: Literal["ok", "failed"]
    error: Failure | UnsetType = UNSET
    final_url: str | UnsetType = UNSET
    http_status: int | UnsetType = UNSET
    redirects: list[Redirect] | UnsetType = UNSET
    headers: dict[str, list[str]] | UnsetType = UNSET
    content_type: str | UnsetType = UNSET
    charset: str | UnsetType = UNSET
    size: int | UnsetType = UNSET
    body: str | UnsetType = UNSET
    body_encoding: Literal["base64"] | UnsetType = UNSET
    data: dict[str, Any] | UnsetType = UNSET
    links: list[Link] | UnsetType = UNSET
    metadata: Metadata | UnsetType = UNSET
    attempt: Annotated[int, Meta(ge=1)]
    timings: Timings | UnsetType = UNSET
    fetched_at: str | UnsetType = UNSET
    worker: str | UnsetType = UNSET
    meta: JsonValue | UnsetType = UNSET


class Invalid(Struct, frozen=True):
    """A body that is no job: which field, why, and what could be read of it."""

    field: str
    reason: str
    id: str | UnsetType = UNSET
    url: str | UnsetType = UNSET
    meta: Raw | UnsetType = UNSET

    @property
    def message(self) -> str:
        """One line for a person: where, then what."""
        return f"{self.field}: {self.reason}" if self.field else self.reason


class _Glimpse(Struct):
    """What can still be told of a job that is not valid."""

    id: Any = UNSET
    url: Any = UNSET
    meta: Raw | UnsetType = UNSET


_job_decoder = msgspec.json.Decoder(Job)
_result_decoder = msgspec.json.Decoder(Result)
_glimpse_decoder = msgspec.json.Decoder(_Glimpse)
_encoder = msgspec.json.Encoder()

_PATH = re.compile(r"^(?P<reason>.*?) - at `\$\.?(?P<path>[^`]*)`$", re.DOTALL)
_NAMED = re.compile(
    r"Object (?:contains )?(?P<what>unknown|missing required) field `(?P<field>.*)`", re.DOTALL
)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_FIELD_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")  # RFC 9110 section 5.5, tab allowed
_COOKIE_VALUE = re.compile(r"[^\x00-\x20\x7f\",;\\]*")  # RFC 6265 section 4.1.1
_URL_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\]")
_OURS = frozenset(  # framing and routing belong to the client; a stranger must not set them
    "host content-length transfer-encoding connection keep-alive te trailer upgrade expect "
    "proxy-authorization proxy-connection".split()
)


def decode_job(raw: bytes) -> Job | Invalid:
    """Read a job from UTF-8 JSON. Never raises: what is wrong comes back as Invalid."""
    try:
        raw.decode()  # values passed through untouched are not checked by the decoder
        job = _job_decoder.decode(raw)
    except UnicodeDecodeError as error:
        return Invalid("", f"not UTF-8: {error.reason} at byte {error.start}")
    except RecursionError:
        return Invalid("", "nested too deeply")
    except msgspec.ValidationError as error:
        return _invalid(raw, *_where(str(error)))
    except msgspec.DecodeError as error:
        return Invalid("", f"not JSON: {error}")
    for field, reason in _faults(job):
        return _invalid(raw, field, reason)
    return job


def refused(job: Job, field: str, reason: str) -> Invalid:
    """The Invalid for a decoded job that a later check (a selector, say) refuses."""
    return Invalid(field, reason, id=job.id, url=job.url, meta=job.meta)


def encode(value: Job | Result) -> bytes:
    """The UTF-8 JSON of a job or a result."""
    return _encoder.encode(value)


def decode_result(raw: bytes) -> Result:
    """Read a result back; raises msgspec.DecodeError where it is none."""
    return _result_decoder.decode(raw)


def schema(what: type[Struct]) -> dict[str, Any]:
    """The JSON Schema (2020-12) of `what`, made from the type itself."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **msgspec.json.schema(what),
    }


def _invalid(raw: bytes, field: str, reason: str) -> Invalid:
    try:
        seen = _glimpse_decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return Invalid(field, reason)
    ident = seen.id if isinstance(seen.id, str) and 0 < len(seen.id) <= MAX_ID else UNSET
    url = seen.url if isinstance(seen.url, str) and len(seen.url) <= MAX_URL else UNSET
    if url is not UNSET and "@" in url:
        url = UNSET  # it may hold a password, and a result may be logged by whoever reads it
    return Invalid(field, reason, id=ident, url=url, meta=seen.meta)


def _where(message: str) -> tuple[str, str]:
    """Split msgspec's message into the field's path and the reason."""
    match = _PATH.match(message)
    path, reason = (match["path"], match["reason"]) if match else ("", message)
    path = path.replace("[...]", ".*")
    named = _NAMED.fullmatch(reason)
    if named and named["what"] == "missing required":
        return named["field"], "is required"
    if named:
        return named["field"], f"unknown field{_nearest(named['field'])}"
    if not path and reason.startswith("Expected `object`"):
        return "", f"a job is a JSON object, not {reason.rpartition(' ')[2].strip('`')}"
    if path.startswith("include"):
        reason += f" (one of {', '.join(get_args(Include))})"
    if path == "method":
        reason += f" (one of {', '.join(get_args(Method))})"
    return path, reason


def _nearest(field: str) -> str:
    close = difflib.get_close_matches(field, Job.__struct_fields__, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _faults(job: Job) -> Iterator[tuple[str, str]]:
    """What the types cannot say: pairs of field and reason, worst first."""
    if fault := check_url(job.url):
        yield "url", fault
    for name, value in (job.headers or {}).items():
        if fault := _header_fault(name, value):
            yield f"headers.{printable(name)}", fault
    yield from _cookie_faults(job)
    bodies = [name for name in ("body", "json", "form") if getattr(job, name) is not UNSET]
    if len(bodies) > 1:
        yield bodies[1], f"at most one of body, json and form; {bodies[0]} is given too"
    if bodies and job.verb in ("GET", "HEAD"):
        yield bodies[0], f"a {job.verb} request has no body"


def _cookie_faults(job: Job) -> Iterator[tuple[str, str]]:
    if job.cookies and any(name.lower() == "cookie" for name in job.headers or {}):
        yield "cookies", "given twice: as `cookies` and as a Cookie header"
    for name, value in (job.cookies or {}).items():
        if not _TOKEN.fullmatch(name):
            yield f"cookies.{printable(name)}", "not a cookie name (RFC 6265)"
        if not _COOKIE_VALUE.fullmatch(value):
            yield f"cookies.{printable(name)}", "holds a character no cookie value may (RFC 6265)"


_USERINFO: Final = "userinfo (user:password@) is refused; send an Authorization header instead"


def check_url(url: str) -> str | None:  # noqa: PLR0911 - one return a fault
    """Why `url` cannot be scraped, or None: http(s), a host, no userinfo, nothing to strip."""
    if _URL_FORBIDDEN.search(url):
        return "holds a space, a control character or a backslash; percent-encode it"
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        return "must start with http:// or https://"
    if "@" in re.split(r"[/?#]", rest, maxsplit=1)[0]:
        return _USERINFO
    try:
        parsed = URL(url)
        port = parsed.port
    except ValueError as error:
        return f"not a URL: {printable(str(error))}"
    if parsed.user is not None or parsed.password is not None:
        return _USERINFO
    if not parsed.raw_host:
        return "has no host"
    if port is None or not 0 < port < 65536:  # noqa: PLR2004 - TCP's range
        return "the port must be 1 to 65535"
    return None


def host_of(url: str | UnsetType) -> str | None:
    """The host a URL names, or None where there is no URL or it is none."""
    if url is UNSET:
        return None
    try:
        return URL(url).raw_host
    except ValueError:
        return None


def _header_fault(name: str, value: str) -> str | None:
    if not _TOKEN.fullmatch(name):
        return "not a header name (RFC 9110)"
    if not _FIELD_VALUE.fullmatch(value):
        return "holds a line break or another control character"
    if name.lower() in _OURS:
        return "is set by the client itself and can't be given"
    return None


def printable(text: str, limit: int = 200) -> str:
    """`text` fit for a message or an AMQP header: no control characters, bounded."""
    clean = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    return clean if len(clean) <= limit else clean[: limit - 1] + "\N{HORIZONTAL ELLIPSIS}"
