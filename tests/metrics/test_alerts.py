"""The alert rules in docs/alerts.yml: Debian's promtool takes them, and each fires when it should.

May touch: Debian's promtool, the folder of the test.
Must never: repeat an expression of the rules.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

from tests.rig.debs import debs, libraries

DOCS = Path(__file__).parents[2] / "docs"
ALERTS = DOCS / "alerts.yml"
METRICS = DOCS / "operations/metrics.md"


class Case(NamedTuple):
    """Series from minute 0 on, a time when the alert is quiet, and a time when it fires."""

    series: dict[str, str]
    quiet: str
    fires: str


CASES = {
    "ScraperdNotReady": Case({"scraperd_broker_consuming": "1 0x10"}, "2m", "4m"),
    "ScraperdBrokerBlocked": Case(
        {"scraperd_broker_blocked_seconds_total": "0 0 0+60x10"}, "2m", "6m"
    ),
    "ScraperdReloadFailed": Case({"scraperd_config_reload_success": "1 1 0x10"}, "2m", "4m"),
    "ScraperdDeadLettersGrow": Case(
        {'scraperd_jobs_total{outcome="dead",kind="dns"}': "0x5 0+5x30"}, "5m", "20m"
    ),
    "ScraperdQueueGrows": Case({"scraperd_demand": "0+100x120"}, "30m", "60m"),
    "ScraperdMemoryHigh": Case(
        {
            "scraperd_memory_budget_used_bytes": "50 99x30",
            "scraperd_memory_budget_limit_bytes": "100x40",
        },
        "8m",
        "15m",
    ),
    "ScraperdLogLinesLost": Case({"scraperd_log_lines_lost_total": "0x5 0+1x10"}, "4m", "9m"),
}


def promtool(*args: str) -> str:
    """Run Debian's promtool; return what it says, which must be a success."""
    root = debs("prometheus")
    done = subprocess.run(
        [str(root / "usr/bin/promtool"), *args],
        text=True,
        capture_output=True,
        env={"LD_LIBRARY_PATH": libraries(root)},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def names() -> list[str]:
    """The alerts of the file."""
    return re.findall(r"alert: (\w+)", ALERTS.read_text())


def test_each_alert_fires_in_time_and_not_before(tmp_path: Path) -> None:
    """By promtool's own clock: quiet while all is well or too fresh, then firing."""
    assert sorted(names()) == sorted(CASES)
    tests = []
    for name, case in CASES.items():
        times = []
        for at in (case.quiet, case.fires):
            count = f'count(ALERTS{{alertname="{name}",alertstate="firing"}}) or vector(0)'
            samples = [{"labels": "{}", "value": int(at == case.fires)}]
            times.append({"expr": count, "eval_time": at, "exp_samples": samples})
        series = [{"series": it, "values": values} for it, values in case.series.items()]
        tests.append({"interval": "1m", "input_series": series, "promql_expr_test": times})
    file = tmp_path / "tests.yml"
    file.write_text(json.dumps({"rule_files": [str(ALERTS)], "tests": tests}))
    promtool("check", "rules", str(ALERTS))
    assert "SUCCESS" in promtool("test", "rules", str(file))


def test_the_rules_name_metrics_that_there_are() -> None:
    """The page on metrics, which a test compares with /metrics, has each metric of the rules."""
    named = set(re.findall(r"\bscraperd_\w+", ALERTS.read_text()))
    assert named
    assert named <= set(re.findall(r"\bscraperd_\w+", METRICS.read_text()))
