"""Debian's Prometheus and promtool, and the alert rules as the documents have them.

May touch: Debian's package in .cache/, the folder it is given, a free port on 127.0.0.1, its child.
Must never: scrape anything but the target it is given.
"""

from __future__ import annotations

import json
import re
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from tests.rig import ports, process
from tests.rig.daemon import until
from tests.rig.debs import debs, libraries

CHECKOUT: Final = Path(__file__).parents[2]
RULES: Final = CHECKOUT / "docs/alerts.yml"
DASHBOARD: Final = CHECKOUT / "docs/grafana/scraperd.json"
_KEY: Final = re.compile(
    r"^ +(?:- )?(alert|expr|for|severity|summary|runbook): (.+)$", re.MULTILINE
)
PAUSE: Final = 0.1  # seconds between two looks at the alerts, which change twice a second
_CONF: Final = """
global: {{scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: scraperd
    static_configs: [{{targets: ["{target}"]}}]
"""


class Rule(NamedTuple):
    """One alert of the rules; each value stands on the line of its key."""

    alert: str
    expr: str
    wait: str
    severity: str
    summary: str
    runbook: str

    @property
    def minutes(self) -> int:
        """For how long it is so until it fires; all rules give it in minutes."""
        return int(self.wait.removesuffix("m"))


def rules() -> list[Rule]:
    """Return the alerts of docs/alerts.yml. Raises TypeError if a key is missing."""
    starts = re.split(r"^(?= +- alert:)", RULES.read_text(), flags=re.MULTILINE)[1:]
    return [Rule(*(value for _, value in _KEY.findall(text))) for text in starts]


def promtool(*args: str | Path) -> subprocess.CompletedProcess[str]:
    """Run Debian's promtool to its end."""
    argv, env = _program("promtool")
    return subprocess.run(
        [*argv, *map(str, args)], env=env, capture_output=True, text=True, check=False, timeout=120
    )


def _program(name: str) -> tuple[list[str], dict[str, str]]:
    root = debs("prometheus")
    return [str(root / "usr/bin" / name)], {"LD_LIBRARY_PATH": libraries(root), "GOMAXPROCS": "1"}


def hurried(text: str) -> str:
    """Return rules with a second for each minute that they look back over, and without waits."""
    return re.sub(r"\[(\d+)m\]", r"[\1s]", re.sub(r"\bfor: \w+", "for: 0s", text))


class Prometheus(process.Server):
    """A Prometheus that scrapes `target` twice a second, with our alerts `hurried`."""

    def __init__(self, directory: Path, target: str) -> None:
        self._directory = directory
        self._target = target
        self._port = ports.free_port()

    def start(self) -> Self:
        """Start it; it is there once it answers."""
        alerts = self._directory / "alerts.yml"
        alerts.write_text(hurried(RULES.read_text()))
        config = self._directory / "prometheus.yml"
        config.write_text(_CONF.format(rules=alerts, target=self._target))
        argv, env = _program("prometheus")
        argv += [f"--config.file={config}", f"--storage.tsdb.path={self._directory / 'data'}"]
        argv += [f"--web.listen-address=127.0.0.1:{self._port}", "--log.level=warn"]
        with (self._directory / "log").open("wb") as log:
            self._child = process.spawn(argv, env=env, stdout=log)
        until(self._answers, f"Prometheus did not start, see {self._directory}/log")
        return self

    def _answers(self) -> bool:
        try:
            return bool(self._get("/api/v1/status/buildinfo"))
        except OSError:
            return False

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=30) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series that the expression has now."""
        asked = urllib.parse.urlencode({"query": expression})
        found: list[dict[str, Any]] = self._get(f"/api/v1/query?{asked}")["result"]
        return found

    @property
    def firing(self) -> set[str]:
        """The names of the alerts that fire now."""
        alerts = self._get("/api/v1/alerts")["alerts"]
        return {it["labels"]["alertname"] for it in alerts if it["state"] == "firing"}

    def wait_for(self, *alerts: str) -> None:
        """Wait until each of these has fired from now on, also if at another time than others."""
        seen: set[str] = set()

        def all_seen() -> bool:
            seen.update(self.firing)
            return {*alerts} <= seen

        try:
            until(all_seen, pause=PAUSE)
        except AssertionError as error:
            raise AssertionError(f"{sorted({*alerts} - seen)} did not fire") from error

    def wait_for_end(self, *alerts: str) -> None:
        """Wait until no alert of these fires."""
        until(lambda: not {*alerts} & self.firing, f"{alerts} do not end", pause=PAUSE)
