"""The Helm chart: what it renders is what a cluster takes, and what the daemon takes.

May touch: Go and its libraries of Debian, the daemon's own command line.
Must never: need a cluster or Helm.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any, Final

import jsonschema
import pytest

from scraperd.config.load import load
from scraperd.config.settings import Config
from tests.containers.charts import CHART, EVERYTHING, defaults, kinds, pod, render

SCHEMA: Final = json.loads((CHART / "values.schema.json").read_text())
GRACE: Final = 10.0  # seconds that a stop may take beyond jobs.shutdown_timeout


def variables(container: Any) -> dict[str, str]:
    """The environment that a container is given."""
    return {one["name"]: one["value"] for one in container["env"]}


def test_the_default_values_are_valid() -> None:
    """values.yaml keeps to values.schema.json, and the schema names each value."""
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.validate(defaults(), SCHEMA)
    jsonschema.validate(EVERYTHING, SCHEMA)

    def compare(values: Any, schema: Any, where: str) -> None:
        if "properties" not in schema:
            return
        assert set(values) == set(schema["properties"]) - {"global"}, where
        for name, value in values.items():
            compare(value, schema["properties"][name], f"{where}.{name}")

    compare(defaults(), SCHEMA, "values")


@pytest.mark.parametrize(
    "wrong",
    [
        *({"replica": 2}, {"replicas": -1}),
        *({"metrics": {"port": 80}}, {"broker": {"existingSecret": ""}}),
    ],
    ids=str,
)
def test_a_wrong_value_is_refused(wrong: dict[str, Any]) -> None:
    """Helm holds values against the schema before it renders: a typing error ends it."""
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(defaults() | wrong, SCHEMA)


def test_what_is_there_by_default() -> None:
    """Without the operators of Prometheus and KEDA nothing of theirs is made."""
    assert kinds(render({})) == {
        *("ConfigMap", "Deployment", "Service", "PodDisruptionBudget"),
    }
    assert kinds(render(EVERYTHING)) == {
        *("ConfigMap", "Deployment", "Service", "PodDisruptionBudget"),
        *("ServiceMonitor", "ScaledObject"),
    }


def test_the_pod_has_no_privilege() -> None:
    """Not root, a read-only root, no capability, no token of the cluster, the runtime's seccomp."""
    spec = pod(render({}))
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@pytest.mark.parametrize("seconds", [30, 300])
def test_a_pod_may_drain(seconds: int) -> None:
    """Kubernetes waits longer than the daemon does, whatever `shutdownTimeout` is."""
    spec = pod(render({"jobs": {"shutdownTimeout": seconds}}))
    (container,) = spec["containers"]
    assert variables(container)["SCRAPERD_JOBS__SHUTDOWN_TIMEOUT"] == str(seconds)
    assert spec["terminationGracePeriodSeconds"] >= seconds + GRACE


def test_the_daemon_takes_what_the_chart_gives_it(tmp_path: Path) -> None:
    """The file and the variables are a valid configuration; credentials are files only."""
    found = render(EVERYTHING)
    (container,) = pod(found)["containers"]
    given = variables(container)
    assert "amqp://" not in json.dumps(found)
    mounts = {one["mountPath"] for one in container["volumeMounts"]}
    for name in ("SCRAPERD_BROKER_URL_FILE", "SCRAPERD_JOBS__SIGNING_KEY_FILE"):
        path = Path(given[name])
        assert str(path.parent) in mounts
        given[name] = str(tmp_path / path.name)
    (tmp_path / "url").write_text("amqp://broker.example:5672/\n")
    (tmp_path / "key").write_text("0123456789abcdef" * 4 + "\n")
    file = tmp_path / "config.toml"
    file.write_text(found["ConfigMap"]["data"]["config.toml"])
    config = load(file, given)
    assert config.concurrency == 250
    assert config.metrics.address == ("0.0.0.0", 9469)
    assert config.jobs.shutdown_timeout == 60
    assert container["args"] == ["run", "--config", "/etc/scraperd/config.toml"]
    assert container["ports"] == [{"name": "metrics", "containerPort": 9469}]


def test_the_default_configuration_is_valid() -> None:
    """`config` of values.yaml changes nothing that it does not name."""
    text = render({})["ConfigMap"]["data"]["config.toml"]
    assert tomllib.loads(text) == {"concurrency": Config().concurrency}


def test_a_changed_configuration_replaces_the_pods() -> None:
    """The pod carries a checksum of the file."""

    def mark(values: dict[str, Any]) -> str:
        template = render(values)["Deployment"]["spec"]["template"]
        return str(template["metadata"]["annotations"]["checksum/config"])

    assert mark({}) == mark({"replicas": 5})
    assert mark({}) != mark({"config": "concurrency = 7\n"})


def test_selectors_find_the_pods() -> None:
    """Service, budget, monitor and scaler select what the Deployment makes."""
    found = render(EVERYTHING)
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for selector in (
        found["Deployment"]["spec"]["selector"]["matchLabels"],
        found["Service"]["spec"]["selector"],
        found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    monitor, service = found["ServiceMonitor"]["spec"], found["Service"]["metadata"]
    assert monitor["selector"]["matchLabels"].items() <= service["labels"].items()
    assert monitor["endpoints"][0]["port"] == found["Service"]["spec"]["ports"][0]["name"]
    name = found["ScaledObject"]["spec"]["scaleTargetRef"]["name"]
    assert name == found["Deployment"]["metadata"]["name"]
    assert "replicas" not in found["Deployment"]["spec"]  # or each upgrade would undo the scaler


def test_a_missing_secret_is_said() -> None:
    """Helm ends with the value's name."""
    with pytest.raises(AssertionError, match=r"broker\.existingSecret"):
        render({"broker": {"existingSecret": ""}})


@pytest.mark.parametrize("release", ["scraperd", "news", "a" * 53])
def test_names_fit(release: str) -> None:
    """A name has at most 63 characters, and says what it is."""
    name = render({}, release=release)["Deployment"]["metadata"]["name"]
    assert len(name) <= 63
    assert "scraperd" in name
