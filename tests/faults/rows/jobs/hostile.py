"""Rows with jobs whose URLs are made to end whoever reads them, beside another tenant's.

May touch: the scene.
Must never: take a death of the daemon for anything but a fault.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from scraperd.broker.rabbitmq.topology import Topology
from tests.faults.ledger import Letter
from tests.faults.register import row

if TYPE_CHECKING:
    from tests.faults.scene import Scene

LONG_PORT = "http://h.example:" + "0" * 4300 + "80/"  # int() raises for so many digits
URLS = (
    LONG_PORT,
    "http://h.example:" + "9" * 5000 + "/",
    "http://[]@/",  # yarl raises IndexError
    "http://[::1]\u00e9@/",
    "http://" + "\ufdfa" * 4000 + "/",  # IDNA takes a second to find it too long
    "http://[::1%25eth0]/",
    "http://a..b/",
    "http://\u2100/",
)
RETURNS = 6  # past the delivery limit


@row(16, "hostile-urls")
def hostile_urls(scene: Scene) -> None:
    """Hostile URLs, fresh and past the delivery limit: they fail, all others are done."""
    scene.start()
    for number in range(scene.many(20, 2)):
        for n, url in enumerate(URLS):
            scene.load(5)
            scene.publisher.post(_letter(f"hostile-{number}-{n}", url, status="failed"))
    scene.quiet()
    scene.daemon.ended()
    _returned(scene, "returned", LONG_PORT)
    scene.start()
    scene.load(scene.many(200, 20))
    scene.quiet()
    scene.daemon.ended()


def _letter(ident: str, url: str, *, status: str) -> Letter:
    body = json.dumps({"url": url, "id": ident}).encode()
    return Letter(ident, body, status=status, dead=1)


def _returned(scene: Scene, ident: str, url: str) -> None:
    """A job that was alone and came back time and again, as if it had ended each process."""
    scene.publisher.post(_letter(ident, url, status="failed internal"))
    scene.accepted()
    names = Topology(scene.prefix)
    with scene.channel() as channel:
        _, properties, body = channel.basic_get(names.jobs, auto_ack=True)
        assert body is not None, "the job is not in its queue"
        channel.confirm_delivery()
        channel.basic_publish("", names.solo, body, properties, mandatory=True)
        for _ in range(RETURNS):
            got, _, _ = channel.basic_get(names.solo)
            assert got is not None, "the job is not in quarantine"
            channel.basic_nack(got.delivery_tag or 0, requeue=True)
