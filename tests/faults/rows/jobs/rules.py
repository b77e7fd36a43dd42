"""A row with rules: daemons, the broker and the commands that set rules are killed.

May touch: the scene, commands as subprocesses.
Must never: let one page of a cancelled job be fetched.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.faults.register import row
from tests.rig.daemon import LOOPBACK, environment

if TYPE_CHECKING:
    from tests.faults.scene import Scene

MATCH = "meta.customer=gone"
GONE = "/page/gone-"


@row(20, "rules-killed", nodes=1, says="broker_lost", may="broker_unreachable")
def rules_killed(scene: Scene) -> None:
    """Kill -9 of daemons, commands and the broker under a rule: it holds, and no other is lost."""
    rounds, part = scene.many(8, 3), scene.many(200, 60)
    scene.start()
    scene.start()
    _command(scene, "cancel", MATCH).wait(60)
    scene.node.settle()
    for number in range(rounds):
        scene.load(part)
        scene.load(part, f"{GONE}{{n}}", status="failed", meta={"customer": "gone"})
        setting = _command(scene, "cancel", f"id=never-{number}")
        scene.lasts(0.1 * number)  # another step of the command each time
        setting.kill()
        setting.wait(60)
        scene.more(part // 2)
        alive = [daemon for daemon in scene.daemons if daemon.returncode is None]
        scene.cuts += 1
        alive[0].killed()
        scene.heal()
        scene.start()
    with scene.broker_away():
        scene.node.kill()
        scene.daemon.wait_for_line("broker_lost")
        scene.node.start()
    scene.load(part, f"{GONE}{{n}}", status="failed", meta={"customer": "gone"})
    scene.quiet()
    _command(scene, "cancel", "id=last").wait(60)
    told = _command(scene, "rules", "--json").communicate()[0]
    matches = {json.loads(line)["match"] for line in told.splitlines()}
    assert {MATCH, "id=last"} <= matches, matches
    fetched = [path for path in scene.site.hits if path.startswith(GONE)]
    assert not fetched, f"pages of cancelled jobs were fetched: {fetched[:5]}"
    for daemon in scene.daemons[:-1]:
        if daemon.returncode is None:
            daemon.ended()


def _command(scene: Scene, *words: str) -> subprocess.Popen[str]:
    """Start a command on the scene's broker and prefix."""
    values = {**LOOPBACK, "broker_url": scene.node.url, "broker__prefix": scene.prefix}
    return subprocess.Popen(
        [sys.executable, "-m", "scraperd", *words],
        env=environment(values),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
