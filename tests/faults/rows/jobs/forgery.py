"""Rows with a publisher who writes what only the daemon should, beside others who don't.

May touch: the scene.
Must never: let one of these jobs be late, or end otherwise, for what its headers say.
"""

from __future__ import annotations

import itertools
import json
import time
from typing import TYPE_CHECKING

from tests.faults.ledger import Letter
from tests.faults.register import row

if TYPE_CHECKING:
    from tests.faults.scene import Scene

MARKS = {
    "x-scraperd-strikes": (2, 1, 1000),
    "x-scraperd-attempt": (4, 1000),
    "x-scraperd-snoozes": (1000,),
    "x-scraperd-turn": (f"{time.time() + 900:.3f} 127.0.0.1", "9999999999.000 x 9000.000"),
    "x-scraperd-signature": ("1 1700000000 " + "0" * 64,),
    "x-delivery-count": (99,),
}
FORGED = [
    dict(zip(names, values, strict=True))
    for size in (1, 2, 3)
    for names in itertools.combinations(MARKS, size)
    for values in itertools.product(*(MARKS[name] for name in names))
]


@row(17, "forged-headers", says="signature_invalid")
def forged_headers(scene: Scene) -> None:
    """Forged headers of every kind, and a kill -9 among them: no job waits or ends by them."""
    half = scene.many(500, 60)
    scene.start(concurrency=20, log__level="debug")
    scene.load(half)
    for number, headers in enumerate(FORGED):
        ident = f"forged-{number}"
        body = json.dumps({"url": scene.site.url(f"/page/{ident}"), "id": ident}).encode()
        scene.publisher.post(Letter(ident, body, {"headers": headers}))
    scene.load(half)
    scene.more(half)
    scene.kill()
    scene.heal()
    scene.start()
    scene.quiet()
    lines = [line for daemon in scene.daemons for line in daemon.logged()]
    assert not [line for line in lines if line["event"] == "solo_begun"], "a job was to run alone"
    verdicts = {(line["verdict"], line["attempt"]) for line in lines if line["event"] == "job"}
    assert verdicts <= {("done", 1), ("requeue", 1)}, verdicts
    attempts = {result.attempt for result in scene.ledger.results}
    assert attempts == {1}, attempts
