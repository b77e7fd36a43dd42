"""Every kind of failure, provoked by the real thing, and what becomes of a job that ends so.

May touch: a private broker, sites and a nameserver in a thread, the daemon as a subprocess.
Must never: leave a kind of the contract out.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, NamedTuple, Self, get_args

import pytest

from scraperd.contract import Kind
from tests.rig.daemon import Daemon, Dispatcher
from tests.rig.ports import free_port
from tests.rig.sites.certificates import Certificates
from tests.rig.sites.dns import Manner, Nameserver
from tests.rig.sites.site import Site, Visit, head, page, redirect

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from pathlib import Path

PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
CODED = ["Content-Encoding: gzip"]
AGAIN, FOR_GOOD = True, False


class Case(NamedTuple):
    """A job, and how it ends: each that may pass is tried twice and then a dead letter."""

    kind: Kind
    retryable: bool
    job: dict[str, Any]
    dead: bool = False


class Strangers:
    """Sites that do wrong, each in its way, and the nameserver that knows some of them."""

    def __init__(self, folder: Path) -> None:
        self.certificates = Certificates(folder)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._stack = AsyncExitStack()

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._stack.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    async def _open(self) -> None:
        enter = self._stack.enter_async_context
        self.site = await enter(Site(listen="0.0.0.0"))
        self.expired = await enter(Site(self.certificates.expired))
        self.plain = await enter(Site())
        self.troubled = await enter(Site())
        self.dns = await enter(Nameserver())
        self.dns.manners["broken.test"] = Manner.SERVFAIL
        self.plain.raw, self.troubled.raw = _not_tls, _in_trouble
        self._pages()

    def _pages(self) -> None:
        at = self.site.at
        body = b"<title>A page</title>" * 100
        at("/robots.txt", page(b"User-agent: *\nDisallow: /"))
        at("/404", page(status=404))
        at("/503", page(status=503))
        at("/hangs", Visit.gone)
        at("/resets", _reset)
        at("/short", _break_off)
        at("/malformed", b"HTTP/1.1 two hundred\r\n\r\n")
        at("/large", page(body))
        at("/loop", redirect("/loop"))
        at("/out", redirect("file:///etc/passwd"))
        at("/not-gzip", page(b"not gzip", headers=CODED))
        at("/half-gzip", _half_gzip)
        at("/html", page(body))
        at("/png", page(PNG, content_type="image/png"))

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.site.port}{path}"


async def _not_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await writer.drain()


async def _in_trouble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send the alert internal_error (RFC 8446 section 6) in place of a handshake."""
    await reader.read(65536)
    writer.write(b"\x15\x03\x03\x00\x02\x02\x50")
    await writer.drain()


async def _reset(visit: Visit) -> None:
    visit.reset()


async def _half_gzip(visit: Visit) -> None:
    """Only the end of the connection ends the body, and the page is not whole by then."""
    await visit.send(head(*CODED), gzip.compress(b"<title>A page</title>" * 100)[:-9])
    visit.hang_up()


async def _break_off(visit: Visit) -> None:
    await visit.send(head("Content-Length: 400"), b"half of it")
    visit.hang_up()


@pytest.fixture
def strangers(tmp_path: Path) -> Iterator[Strangers]:
    """All of them."""
    with Strangers(tmp_path) as strangers:
        yield strangers


def cases(at: Strangers) -> dict[str, Case]:
    """What is done to the daemon, by a name that is the job's id too."""
    rules = {"title": "title"}
    return {
        "no URL": Case("invalid_job", FOR_GOOD, {"url": "ftp://x/"}, dead=True),
        "no proxy": Case(
            "invalid_job", FOR_GOOD, {"url": at.url("/png"), "proxy": "none"}, dead=True
        ),
        "forbidden network": Case(
            "blocked_address", FOR_GOOD, {"url": at.url("/png", "127.0.0.3")}
        ),
        "robots.txt": Case("robots_denied", FOR_GOOD, {"url": at.url("/png", "127.0.0.2")}),
        "no such name": Case("dns", FOR_GOOD, {"url": "http://nowhere.test/"}),
        "no answer for a name": Case("dns", AGAIN, {"url": "http://broken.test/"}),
        "refused": Case("connect", AGAIN, {"url": f"http://127.0.0.1:{free_port()}/"}),
        "reset": Case("connect", AGAIN, {"url": at.url("/resets")}),
        "expired certificate": Case("tls", FOR_GOOD, {"url": at.expired.url()}),
        "not TLS": Case("tls", FOR_GOOD, {"url": f"https://127.0.0.1:{at.plain.port}/"}),
        "TLS in trouble": Case("tls", AGAIN, {"url": f"https://127.0.0.1:{at.troubled.port}/"}),
        "hangs": Case("timeout", AGAIN, {"url": at.url("/hangs"), "timeout": 0.3}),
        "not found": Case("http_status", FOR_GOOD, {"url": at.url("/404")}),
        "unavailable": Case("http_status", AGAIN, {"url": at.url("/503")}),
        "malformed": Case("protocol", FOR_GOOD, {"url": at.url("/malformed")}),
        "redirected to a file": Case("protocol", FOR_GOOD, {"url": at.url("/out")}),
        "breaks off": Case("protocol", AGAIN, {"url": at.url("/short")}),
        "large": Case("too_large", FOR_GOOD, {"url": at.url("/large"), "max_body_size": 100}),
        "loop": Case("too_many_redirects", FOR_GOOD, {"url": at.url("/loop")}),
        "not gzip": Case("decode", FOR_GOOD, {"url": at.url("/not-gzip")}),
        "half of a gzip": Case("decode", AGAIN, {"url": at.url("/half-gzip")}),
        "a required value": Case(
            "extract",
            FOR_GOOD,
            {
                "url": at.url("/html"),
                "extract": {"x": {"selector": "h6", "required": True}},
            },
        ),
        "no HTML": Case("extract", FOR_GOOD, {"url": at.url("/png"), "extract": rules}),
        "too late": Case(
            "expired", FOR_GOOD, {"url": at.url("/png"), "expires_at": "2020-01-01T00:00:00Z"}
        ),
        "proxy down": Case("proxy", AGAIN, {"url": at.url("/png"), "proxy": "down"}),
        "takes processes down": Case("internal", FOR_GOOD, {"url": at.url("/png")}, dead=True),
    }


def settings(at: Strangers) -> dict[str, Any]:
    return {
        "jobs__max_retries": 1,
        "jobs__delivery_limit": 3,
        "jobs__retry_backoff": 0.1,
        "fetch__max_redirects": 3,
        "fetch__allow_networks": ["127.0.0.1/32", "127.0.0.2/32"],
        "hosts": {"127.0.0.2": {"robotstxt_obey": True}},
        "fetch__nameservers": [at.dns.address],
        "fetch__ca_file": str(at.certificates.authority),
        "proxies": {"down": f"http://robot:hunter2@127.0.0.1:{free_port()}"},
    }


def taken_and_lost(dispatcher: Dispatcher) -> None:
    """Take the one job there is, as a process would that does not live to settle it."""
    channel = dispatcher.channel.connection.channel()
    for method, _, _ in channel.consume(
        f"{dispatcher.prefix}.quarantine.solo", inactivity_timeout=20
    ):
        assert method is not None
        break
    channel.close()


def test_every_kind_of_failure(
    broker_url: str, prefix: str, dispatcher: Dispatcher, strangers: Strangers
) -> None:
    """Each has its kind, whether it may pass, as many attempts as that is worth, one result, and
    a dead letter only where someone should look at the job.
    """
    table = cases(strangers)
    assert {case.kind for case in table.values()} == set(get_args(Kind)) - {
        "cancelled"
    }  # tests/e2e/control
    with Daemon(broker_url, prefix, **settings(strangers)).ready() as daemon:
        assert daemon.drain() == 0
    job = {**table["takes processes down"].job, "id": "takes processes down"}
    dispatcher.publish(job, queue="quarantine.solo")
    taken_and_lost(dispatcher)
    with Daemon(broker_url, prefix, **settings(strangers)).ready() as daemon:
        for ident, case in table.items():
            if case.kind != "internal":
                dispatcher.publish({**case.job, "id": ident})
        results = {result["id"]: result for result in dispatcher.results(len(table))}
        assert daemon.drain() == 0
    dead = {
        properties.headers["x-scraperd-job-id"]: properties.headers
        for properties in taken(
            dispatcher, sum(case.dead or case.retryable for case in table.values())
        )
    }
    for ident, case in table.items():
        error = results[ident]["error"]
        seen = (error["kind"], error.get("retryable", False), results[ident]["attempt"])
        assert seen == (case.kind, case.retryable, 2 if case.retryable else 1), (ident, error)
        assert (ident in dead) == (case.dead or case.retryable), ident
        if ident in dead:
            assert dead[ident]["x-scraperd-dead-kind"] == case.kind
    assert dispatcher.depth("dead") == dispatcher.depth("results") == dispatcher.depth("jobs") == 0
    assert "hunter2" not in daemon.stdout + daemon.stderr + json.dumps(results) + repr(dead)


def taken(dispatcher: Dispatcher, count: int) -> list[Any]:
    """The properties of the dead letters."""
    return [dispatcher.take("dead")[0] for _ in range(count)]
