"""Rules by real daemons, commands and a real broker: who has them, and who is believed.

May touch: a private broker, daemons and the commands as subprocesses.
Must never: wait for luck.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from itertools import pairwise
from typing import TYPE_CHECKING

from tests.rig.daemon import LOOPBACK, environment
from tests.rig.sites.hostel import Hostel

if TYPE_CHECKING:
    from tests.e2e.control.conftest import Fleet
    from tests.rig.daemon import Dispatcher

CHANGED = '"event":"rules_changed"'
REFUSED = '"event":"rules_refused"'
PUT_OFF = '"verdict":"snooze"'


def test_a_pause_holds_in_processes_of_now_and_of_later_and_ends(
    fleet: Fleet, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """Set while one daemon runs, and no rule was ever set; a second starts; robots.txt waits too.

    The jobs come back in their first attempt when the pause has ended.
    """
    with fleet.daemon(politeness__robotstxt_obey=True).ready() as one:
        set_at = time.time()
        fleet.set("pause", "host=127.0.0.1", "--until", "8s")
        one.wait_for_line(CHANGED)
        dispatcher.publish({"url": hostel.url("/page/1"), "id": "a"})
        one.wait_for_line(PUT_OFF)
        with fleet.daemon(politeness__robotstxt_obey=True).ready() as two:
            assert one.drain() == 0
            dispatcher.publish({"url": hostel.url("/page/2"), "id": "b"})
            two.wait_for_line(PUT_OFF)
            rule = fleet.rules()["host=127.0.0.1"]
            assert (rule["do"], rule["touched"]) == ("pause", 1)
            assert not hostel.hits
            results = dispatcher.results(2)
            assert time.time() >= set_at + 8
            assert fleet.rules() == {}
            assert two.drain() == 0
    assert {(it["status"], it["attempt"]) for it in results} == {("ok", 1)}


def test_a_pause_stops_what_waits_and_lets_what_runs_finish(
    fleet: Fleet, dispatcher: Dispatcher
) -> None:
    """What waits here for its host is put off; so is a job that is redirected to a paused host."""
    with (
        Hostel("0.0.0.0") as site,
        fleet.daemon(politeness__per_host_concurrency=1).ready() as daemon,
    ):
        dispatcher.publish({"url": site.url("/hold/1", "127.0.0.1"), "id": "runs"})
        site.wait_for(lambda hits: hits["/hold/1"] == 1)
        page = site.url("/page/2", "127.0.0.1")
        dispatcher.publish({"url": page, "id": "waits"})
        not_before = time.monotonic() + 8
        fleet.set("pause", "host=127.0.0.1", "--until", "8s")
        daemon.wait_for_line(PUT_OFF)
        dispatcher.publish({"url": site.url(f"/to/{page}", "127.0.0.2"), "id": "redirected"})
        daemon.wait_for_line(lambda line: PUT_OFF in line and '"redirected"' in line)
        assert site.hits["/page/2"] == 0
        site.release()
        found = {it["id"]: it for it in dispatcher.results(3)}
        assert min(site.times("/page/2")) >= not_before
        assert daemon.drain() == 0
    assert {(it["status"], it["attempt"]) for it in found.values()} == {("ok", 1)}
    assert found["runs"]["final_url"].endswith("/hold/1")


def test_a_limit_holds_for_hosts_that_are_in_use(
    fleet: Fleet, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """The next pages come one by one, a second apart; and as before when it has ended."""
    with fleet.daemon().ready() as daemon:
        dispatcher.publish_many([hostel.url(f"/page/{n}") for n in range(10)])
        assert {it["status"] for it in dispatcher.results(10)} == {"ok"}
        fleet.set("limit", "host=127.0.0.1", "delay=1", "concurrency=1")
        assert fleet.rules()["host=127.0.0.1"]["sets"] == "concurrency=1 delay=1"
        dispatcher.publish_many([hostel.url(f"/slow/{n}") for n in range(4)])
        dispatcher.results(4)
        times = hostel.times("/slow")
        assert min(b - a for a, b in pairwise(times)) > 0.45  # the delay is random, by a half
        fleet.set("rules", "--remove", fleet.rules()["host=127.0.0.1"]["id"])
        dispatcher.publish_many([hostel.url(f"/fast/{n}") for n in range(10)])
        dispatcher.results(10)
        assert min(b - a for a, b in pairwise(hostel.times("/fast"))) < 0.45
        assert daemon.drain() == 0


def test_commands_at_once_lose_no_rule(fleet: Fleet) -> None:
    """Six commands begin together; all their rules are in force, and a seventh removes one."""
    given = {**environment(LOOPBACK), **fleet.env}
    words = [sys.executable, "-m", "scraperd", "cancel"]
    running = [
        subprocess.Popen([*words, f"id={n}"], env=given, stderr=subprocess.DEVNULL, text=True)
        for n in range(6)
    ]
    assert [it.wait(60) for it in running] == [0] * 6
    rules = fleet.rules()
    assert set(rules) == {f"id={n}" for n in range(6)}
    fleet.set("rules", "--remove", rules["id=3"]["id"], processes=0)
    assert set(fleet.rules()) == {f"id={n}" for n in range(6) if n != 3}
    assert fleet.run("resume", "id=4").returncode == 1


def test_forged_rules_are_refused(fleet: Fleet, dispatcher: Dispatcher, hostel: Hostel) -> None:
    """By a daemon that runs and by one that starts: what was sealed before holds on."""
    fleet.set("cancel", "id=x", processes=0)
    forged = {"id": "1", "do": "cancel", "what": "host", "value": "*", "by": "", "at": 1}
    body = json.dumps({"version": 2**52, "rules": [{**forged, "until": 2**40}]}).encode()
    with fleet.daemon().ready() as one:
        one.wait_for_line(CHANGED)
        fleet.publish(body, queue="rules")
        one.wait_for_line(REFUSED)
        with fleet.daemon().ready() as two:
            two.wait_for_line(REFUSED)
            two.wait_for_line(CHANGED)
            for ident in ("x", "y"):
                dispatcher.publish({"url": hostel.url("/page/1"), "id": ident})
            results = {it["id"]: it for it in dispatcher.results(2)}
            assert [one.drain(), two.drain()] == [0, 0]
    assert results["x"]["error"]["kind"] == "cancelled"
    assert results["y"]["status"] == "ok"


def test_a_command_with_another_key_says_so(fleet: Fleet) -> None:
    """Where no rule was set before: no process takes it. Where one was: it is not even set."""
    with fleet.daemon().ready() as daemon:
        done = fleet.run("cancel", "id=x", SCRAPERD_JOBS__SIGNING_KEY_FILE=fleet.key)
        assert done.returncode == 1
        assert "not in force in" in done.stderr
        assert "the same jobs.signing_key_file" in done.stderr
        assert len(daemon.logged("rules_refused")) == 1
        done = fleet.run("cancel", "id=y")
        assert done.returncode == 1
        assert "not sealed by a key of this configuration" in done.stderr
        fleet.set("rules", "--forget")
        fleet.set("cancel", "id=y")
        assert daemon.drain() == 0
