"""Rows of bodies and properties that nobody should send, and of results nobody can take.

May touch: the scene.
Must never: send two anonymous bodies that are the same: their dead letters are told apart by them.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from tests.faults.ledger import Letter
from tests.faults.register import row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.scene import Scene

MIB = 1024 * 1024
PROCESS = 150  # MiB of memory that a daemon may take beside its budget
INVALID = (
    b'{"url": "http://a/\xff"}',
    b'{"url": ',
    b'{"url": "http://a/", "meta": NaN}',
    b'{"url": "http://a/", "meta": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    b'["http://a/"]',
    b"",
    b"\x00\x01\x02",
    b'"a string"',
    b"{}",
    b'{"url": "http://a/", "ulr": 1}',
    b'{"url": 3}',
    b'{"url": null}',
    b'{"url": "http://user:secret@a/"}',
    b'{"url": "file:///etc/passwd"}',
    b'{"url": "//a/"}',
    b'{"url": "http://a/", "headers": {"x": "1\\r\\ny: 2"}}',
    b'{"url": "http://a/", "extract": {"t": ":x("}}',
    b'{"url": "http://a/", "extract": {"t": {"selector": "a", "regex": "("}}}',
)
STRANGE: tuple[dict[str, Any], ...] = (
    {"reply_to": "amq.rabbitmq.reply-to.%%%.k"},
    {"reply_to": "nobody.reads.this"},
    {"reply_to": "x" * 255},
    {"priority": 255},
    {"expiration": "600000"},
    {"type": "x" * 255, "app_id": "y" * 255, "content_type": "image/png", "content_encoding": "br"},
    {"timestamp": 2**62},
    {"correlation_id": "\u00fc" * 100, "delivery_mode": 1},
    {"headers": {"a": "x" * 131_000}},
    {"headers": {"n" * 200: 1, "m" * 255: 2}},
    {"headers": {"x-scraperd-job-id": ["a", {"b": None}], "x-scraperd-attempt": "many"}},
    {"headers": {"x-scraperd-attempt": -1, "x-delivery-count": 99}},
    {"headers": {"x-scraperd-turn": 7, "x-scraperd-snoozes": "1", "x-death": "never"}},
    {"headers": {"x-scraperd-turn": "9999999999.000 127.0.0.1", "x-scraperd-snoozes": -5}},
    {"headers": {"a": Decimal("1.5"), "b": datetime(9999, 1, 1, tzinfo=UTC), "c": [None, b"\xff"]}},
    {"headers": {"CC": [], "cc": 7, "traceparent": b"\xff\xfe"}},
)


@row(10, "invalid-bodies")
def invalid_bodies(scene: Scene) -> None:
    """Invalid bodies, 10 MB of rubbish and hostile properties, one to three good jobs each."""
    scene.start()
    for number in range(scene.many(10, 1)):
        for letter in _evil(scene, number):
            scene.publisher.post(letter)
            scene.load(3)


def _evil(scene: Scene, number: int) -> Iterator[Letter]:
    """Each kind once; `number` makes them differ from those of another call."""
    bodies = [body + b" " * number for body in INVALID]
    if number == 0:
        bodies.append(b"x" * 10_000_000)
    for n, body in enumerate(bodies):
        yield Letter("", body, {}, status="failed", dead=1)
        known = f"known-{number}-{n}"
        yield Letter(known, body, {"correlation_id": known}, status="failed", dead=1)
    for n, properties in enumerate(STRANGE):
        ident = f"strange-{number}-{n}"
        yield Letter(ident, _job(scene, ident), properties)
    ident = f"late-{number}"
    late = _job(scene, ident, expires_at="2020-01-01T00:00:00Z")
    yield Letter(ident, late, status="failed expired")
    ident = f"expired-{number}"
    yield Letter(ident, _job(scene, ident), {"expiration": "1"}, status="", dead=None)


def _job(scene: Scene, ident: str, **job: Any) -> bytes:
    return json.dumps({"url": scene.site.url(f"/page/{ident}"), "id": ident, **job}).encode()


@row(15, "oversized-jobs")
def oversized_jobs(scene: Scene) -> None:
    """Jobs of 10 MB, large and small ones between them: all end as they must, within memory."""
    budget = 16 * MIB
    if scene.short:
        scene.node.hurry(scene.prefix, 5)  # jobs for which there is no room wait for up to a minute
    scene.start(fetch__memory_budget=budget)
    huge = b'{"id": "not looked at", "meta": "%s"}' % (b"x" * 10_000_000)
    rules = {f"r{n}": {"selector": "h1", "default": "x" * 900} for n in range(250)}
    for n in range(scene.many(40, 6)):
        ident = f"huge-{n}"
        letter = Letter(ident, huge, {"correlation_id": ident}, status="failed", dead=1)
        scene.publisher.post(letter)
        scene.load(scene.many(10, 2), extract=rules)
        scene.load(3)
    scene.quiet()
    peak = scene.daemon.peak
    assert peak < budget / MIB + PROCESS, f"it took {peak:.0f} MiB of memory"


@row(11, "result-too-large", may="broker_limit broker_lost")  # RabbitMQ 4 takes 16 MiB
def result_too_large(scene: Scene) -> None:
    """Pages of 20 MiB: past jobs.max_result_size a job fails before its result is published."""
    size, count = 20 * MIB, scene.many(10, 1)
    scene.start(fetch__download_maxsize=30 * MIB, fetch__transfer_maxsize=30 * MIB)
    scene.load(count, f"/size/{size}/{{n}}", status="failed too_large")
    scene.load(scene.many(300, 20))
    scene.quiet()
    scene.daemon.ended()
    scene.start(jobs__max_result_size=40 * MIB)
    scene.cuts += 1
    raised = "ok" if scene.node.version < (4,) else "failed too_large"
    scene.load(count, f"/size/{size}/{{n}}", status=raised)
    scene.load(scene.many(300, 20))
