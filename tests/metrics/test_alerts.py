"""docs/alerts.yml by promtool: each alert fires after its `for`, not before, and has a runbook.

May touch: Debian's promtool, the documents, pytest's temporary folders.
Must never: start a daemon or a broker.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest

from tests.metrics.prometheus import CHECKOUT, RULES, Rule, promtool, rules
from tests.metrics.promql import named

if TYPE_CHECKING:
    from pathlib import Path

ONE: Final = {"job": "scraperd", "instance": "a:9469"}  # the labels of a process
ALL: Final = {"job": "scraperd"}  # those of all processes together
UP: Final = "up", "", "1+0x200"  # else ScraperdDown fires too


class Case(NamedTuple):
    """Series by name, further labels and values a minute; the alert holds from minute `since`."""

    bad: list[tuple[str, str, str]]
    good: list[tuple[str, str, str]]
    since: int = 0
    labels: dict[str, str] = ONE


def queue(name: str, values: str, what: str = "ready") -> tuple[str, str, str]:
    """The series of a queue."""
    return f"scraperd_queue_{what}", f'queue="{name}"', values


def ended(failed: int, ok: int) -> list[tuple[str, str, str]]:
    """The series of jobs that ended, so many a minute."""
    return [
        ("scraperd_jobs_total", 'outcome="failed",kind="connect"', f"0+{failed}x200"),
        ("scraperd_jobs_total", 'outcome="ok",kind="ok"', f"0+{ok}x200"),
    ]


def buckets(name: str, *counts: tuple[str, int]) -> list[tuple[str, str, str]]:
    """The series of a histogram, that grow by so much a minute."""
    return [(f"{name}_bucket", f'le="{le}"', f"0+{count}x200") for le, count in counts]


def gauge(name: str, value: float) -> tuple[str, str, str]:
    """A series that stays as it is."""
    return f"scraperd_{name}", "", f"{value}+0x200"


def lags(late: int) -> list[tuple[str, str, str]]:
    """A loop's lag, of 240 a minute so many late."""
    bounds = ("0.25", 240 - late), ("0.5", 240), ("+Inf", 240)
    return buckets("scraperd_loop_lag_seconds", *bounds)


def returns(late: int) -> list[tuple[str, str, str]]:
    """Snoozed or retried jobs that come back, of 100 a minute so many late."""
    bounds = ("60.0", 100 - late), ("300.0", 100), ("+Inf", 100)
    return buckets("scraperd_return_lateness_seconds", *bounds)


USED, LIMIT = "memory_budget_used_bytes", "memory_budget_limit_bytes"
WAITING = "memory_budget_waiting"
BLOCKED = "scraperd_broker_blocked_seconds_total"
LOST = "scraperd_log_lines_lost_total"
DELIVERED = "scraperd_broker_deliveries_total"
CASES: Final = {
    "ScraperdDown": Case([("up", "", "0+0x200")], [UP]),
    "ScraperdNotReady": Case([gauge("broker_consuming", 0)], [gauge("broker_consuming", 1)]),
    "ScraperdNothingConsumes": Case(
        [queue("jobs", "7+0x200"), (DELIVERED, "", "9+0x200")],
        [queue("jobs", "7+0x200"), (DELIVERED, "", "9+1x200")], 1, ALL,
    ),
    "ScraperdQueueGrows": Case(
        [queue("jobs", "2000+10x200")], [queue("jobs", "9000-10x200")], 1, ALL
    ),
    "ScraperdDeadLetters": Case([queue("dead", "5+1x200")], [queue("dead", "5+0x200")], 1, ALL),
    "ScraperdJobsFail": Case(ended(10, 5), ended(5, 10), 2, ALL),
    "ScraperdMemoryBudgetUsed": Case(
        [gauge(USED, 95), gauge(LIMIT, 100), gauge(WAITING, 0)],
        [gauge(USED, 85), gauge(LIMIT, 100), gauge(WAITING, 0)],
    ),
    "ScraperdBrokerBlocked": Case([(BLOCKED, "", "0+30x200")], [(BLOCKED, "", "90+0x200")], 1),
    "ScraperdReloadFailed": Case(
        [gauge("config_reload_success", 0)], [gauge("config_reload_success", 1)]
    ),
    "ScraperdLogLinesLost": Case([(LOST, "", "0+1x200")], [(LOST, "", "9+0x200")], 1),
    "ScraperdLoopLags": Case(lags(24), lags(1), 1),
    "ScraperdQuarantineNotEmpty": Case(
        [queue("quarantine.solo", "1+0x200")], [queue("quarantine.solo", "0+0x200")], 0,
        {**ALL, "queue": "quarantine.solo"},
    ),
    "ScraperdDelayedJobsLate": Case(returns(20), returns(5), 1, ALL),
    "ScraperdCallbacksWait": Case(
        [queue("callbacks", "50+0x200"), queue("callbacks.delay.300", "60+10x200")],
        [queue("callbacks", "50+0x200"), queue("callbacks.delay.300", "9000-10x200")], 1, ALL,
    ),
    "ScraperdDeadCallbacks": Case(
        [queue("callbacks.dead", "5+1x200")], [queue("callbacks.dead", "5+0x200")], 1, ALL
    ),
}  # fmt: skip


def test_promtool_takes_all_rules() -> None:
    """A check by promtool finds no fault, and counts the rules that these tests read and try."""
    done = promtool("check", "rules", RULES)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"SUCCESS: {len(CASES)} rules found" in done.stdout
    assert [rule.alert for rule in rules()] == [*CASES]


def test_each_fires_after_its_time_and_not_before(tmp_path: Path) -> None:
    """Each alert is silent a minute before its `for` is over, fires then, and not in health."""
    tests = [test for rule in rules() for test in unit_tests(rule, CASES[rule.alert])]
    done = run(tmp_path, tests)
    assert done[0] == 0, done[1]


@pytest.mark.parametrize("shift", [-1, 1])
def test_another_time_is_noticed(tmp_path: Path, shift: int) -> None:
    """The unit tests fail for each rule whose `for` is a minute shorter or longer."""
    for rule in rules():
        other = rule._replace(wait=f"{rule.minutes + shift}m")
        code, said = run(tmp_path, list(unit_tests(other, CASES[rule.alert])))
        assert (code, rule.alert in said) == (1, True), rule.alert


def test_a_process_that_is_unknown_is_down(tmp_path: Path) -> None:
    """Also without any series, as after a mistake in the scrape configuration, an alert fires."""
    down = rules()[0]
    expected = [alert(down, ALL)]
    asked = {"eval_time": down.wait, "alertname": down.alert, "exp_alerts": expected}
    assert run(tmp_path, [{"interval": "1m", "alert_rule_test": [asked]}])[0] == 0


def test_bodies_that_wait_for_memory_are_an_alert(tmp_path: Path) -> None:
    """Large bodies get half of the budget: they wait for memory while less than 90 % is used."""
    [rule] = [rule for rule in rules() if rule.alert == "ScraperdMemoryBudgetUsed"]
    bad = [gauge(USED, 70), gauge(LIMIT, 100), gauge(WAITING, 3)]
    code, said = run(tmp_path, list(unit_tests(rule, CASES[rule.alert]._replace(bad=bad))))
    assert code == 0, said


def unit_tests(rule: Rule, case: Case) -> list[dict[str, Any]]:
    """What promtool has to find for one alert: in trouble, and in health."""
    since = case.since + rule.minutes
    expected = [alert(rule, case.labels)]
    times = [(max(since - 1, 0), []), (since, expected), (since + 60, expected)]
    return [
        {
            "interval": "1m",
            "input_series": [series(*one) for one in found],
            "alert_rule_test": [
                {"eval_time": f"{at}m", "alertname": rule.alert, "exp_alerts": alerts}
                for at, alerts in asked
            ],
        }
        for found, asked in ((case.bad, times), (case.good, [(since + 60, [])]))
    ]


def alert(rule: Rule, labels: dict[str, str]) -> dict[str, Any]:
    """The alert as it fires."""
    about = {"summary": rule.summary, "runbook": rule.runbook}
    return {"exp_labels": {**labels, "severity": rule.severity}, "exp_annotations": about}


def series(name: str, labels: str, values: str) -> dict[str, str]:
    """A series with the labels that Prometheus adds."""
    own = ",".join(f'{key}="{value}"' for key, value in ONE.items())
    return {"series": f"{name}{{{own},{labels}}}".replace(",}", "}"), "values": values}


def run(folder: Path, tests: list[dict[str, Any]]) -> tuple[int, str]:
    """Give the tests to promtool: exit code, and what it said."""
    file = folder / "tests.json"  # JSON is YAML
    file.write_text(
        json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests})
    )
    done = promtool("test", "rules", file)
    return done.returncode, done.stdout + done.stderr


def test_each_says_what_to_do() -> None:
    """Each alert has a known severity, one plain sentence, and an existing entry as its runbook."""
    for rule in rules():
        assert rule.severity in {"critical", "warning"}
        assert re.fullmatch(r"[A-Z][^{}]{20,110}\.", rule.summary), rule.summary
        page, _, anchor = rule.runbook.partition("#")
        assert page == "docs/operations/troubleshooting.md"
        assert anchor in anchors((CHECKOUT / page).read_text()), rule.runbook


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_reader_finds_what_an_expression_names() -> None:
    """Metrics, their labels with values, and grouping; not functions, ranges or numbers."""
    found = named('sum by (a, le) (rate(x_total{b!="c",d=~"e|$f"}[5m])) / on (g) y > 1e3 and z')
    assert found.metrics == {"x_total": {"b": {"c"}, "d": {"e"}}, "y": {}, "z": {}}
    assert found.grouped == {"a", "le", "g"}
