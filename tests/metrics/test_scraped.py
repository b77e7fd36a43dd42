"""What the alerts and the dashboard name exists: each metric, label and value, in a real /metrics.

May touch: a private broker, a site in a thread, the daemon as a subprocess.
Must never: sleep for luck; each wait is for something that is seen.
"""

from __future__ import annotations

import json
import re
import urllib.request
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.metrics.prometheus import DASHBOARD, rules
from tests.metrics.promql import named
from tests.rig.daemon import Daemon, Dispatcher, until
from tests.rig.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.sites.hostel import Hostel

    Labels = dict[str, set[str]]


@pytest.mark.usefixtures("callback_queues")
def test_all_that_is_named_exists(
    broker_url: str, prefix: str, dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """Each metric, label and value in the rules and on the dashboard is in a real /metrics."""
    listen = f"127.0.0.1:{free_port()}"
    settings = {
        "metrics__listen": listen,
        "jobs__max_retries": 0,
        "callbacks__concurrency": 0,
        "callback_endpoints": {"billing": {"url": "https://billing.example/"}},
    }
    with Daemon(broker_url, prefix, **settings).ready() as daemon:
        dispatcher.publish_many([hostel.url("/page/1"), hostel.url("/status/404")])
        dispatcher.publish(b"no job", message_id="bad")
        dispatcher.results(3)
        until(lambda: 'queue="callbacks.delay.3600"' in read(listen))  # the last that is counted
        until(lambda: 'outcome="ok"' in read(listen))
        real = series(read(listen))
        assert daemon.drain() == 0
    panels = json.loads(DASHBOARD.read_text())
    expressions = [rule.expr for rule in rules()]
    expressions += [text for key, text in texts(panels) if key == "expr"]
    assert len(expressions) > 13
    assert not [fault for text in expressions for fault in faults(text, real)]
    legends = [label for _, text in texts(panels) for label in re.findall(r"{{(\w+)}}", text)]
    assert {*legends} <= {label for labels in real.values() for label in labels}
    asked = {metric for text in variables(panels) for metric in named(text).metrics}
    assert asked == {"scraperd_build_info"}
    assert asked <= {*real}


@pytest.mark.parametrize(
    "wrong",
    ["scraperd_wrong", 'scraperd_jobs_total{wrong="x"}', 'scraperd_jobs_total{outcome="wrong"}',
     "sum by (wrong) (scraperd_jobs_total)", "sum(scraperd_jobs)", "max by (kind) (up)"],
)  # fmt: skip
def test_a_wrong_name_is_noticed(wrong: str) -> None:
    """A metric, a label, a value or a grouping that does not exist is a fault."""
    real = series('# TYPE scraperd_jobs counter\nscraperd_jobs_total{outcome="ok",kind="ok"} 1\n')
    assert faults('scraperd_jobs_total{outcome="ok"} / on (job) up', real) == []
    assert len(faults(wrong, real)) == 1


def read(listen: str) -> str:
    """What the daemon answers to Prometheus."""
    with urllib.request.urlopen(f"http://{listen}/metrics", timeout=30) as answer:
        return str(answer.read().decode())


def series(text: str) -> dict[str, Labels]:
    """The samples of a scrape: each name with its labels and their values, and Prometheus's own."""
    found: dict[str, Labels] = {"up": {"job": {"scraperd"}, "instance": set()}}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = found.setdefault(sample.name, defaultdict(set, job=set(), instance=set()))
            for label, value in sample.labels.items():
                labels[label].add(value)
    return found


def faults(expression: str, real: dict[str, Labels]) -> list[str]:
    """What the expression names and the daemon does not have."""
    names = named(expression)
    wrong = [f"{metric} in {expression}" for metric in names.metrics if metric not in real]
    known: set[str] = set()
    for metric, labels in names.metrics.items():
        has = real.get(metric, {})
        known |= {*has}
        for label, values in labels.items():
            if has and (label not in has or not values <= has[label]):
                wrong.append(f"{metric}: {label} in {expression}")
    lacking = names.grouped - known
    return wrong + [f"{label} in {expression}" for label in lacking if known]


def texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Each text in a JSON value, with the key that it has."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from texts(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner, key)


def variables(panels: Any) -> list[str]:
    """The selectors by which Grafana finds the values of the dashboard's variables."""
    queries = [text for key, text in texts(panels["templating"]) if key == "query"]
    return [match[1] for text in queries if (match := re.match(r"label_values\((.+), \w+\)", text))]
