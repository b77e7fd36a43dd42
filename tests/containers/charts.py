"""Renders the Helm chart as Helm would.

May touch: Go and its libraries of Debian, unpacked in .cache/.
Must never: render by other rules than Helm's own template engine and functions.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, Final

from tests.rig.debs import CACHE, debs, go_environment

CHART: Final = Path(__file__).parents[2] / "charts/scraperd"
_SOURCE: Final = Path(__file__).parent / "render.go"
_PACKAGES: Final = (
    *("golang-go", "golang-github-masterminds-sprig-dev", "golang-gopkg-yaml.v3-dev"),
)
EVERYTHING: Final[dict[str, Any]] = {
    "image": {"tag": "1.2.3", "pullSecrets": [{"name": "registry"}]},
    "jobs": {"signingKeySecret": "scraperd-key", "shutdownTimeout": 60},
    "config": "concurrency = 250\n\n[politeness]\nper_host_delay = 0.5\n",
    "env": [{"name": "SCRAPERD_LOG__LEVEL", "value": "warning"}],
    "volumes": [{"name": "authority", "secret": {"secretName": "broker-ca"}}],
    "volumeMounts": [{"name": "authority", "mountPath": "/etc/ca", "readOnly": True}],
    "metrics": {"serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}}},
    "autoscaling": {"enabled": True, "maxReplicas": 50},
    "podAnnotations": {"team": "crawl"},
    "nodeSelector": {"kubernetes.io/arch": "amd64"},
    "tolerations": [{"key": "spot", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {"podAntiAffinity": {}},
}
"""Values with which each part of the templates is used."""


def render(values: dict[str, Any], release: str = "scraperd") -> dict[str, Any]:
    """Return the manifests by their kind. Fails with what the template engine says."""
    found = _files(values, release)
    manifests = [found[name] for name in found if name not in {"NOTES.txt", "values.yaml"}]
    return {one["kind"]: one for one in manifests if one is not None}


def defaults() -> dict[str, Any]:
    """Return what values.yaml says."""
    found: dict[str, Any] = _files({}, "scraperd")["values.yaml"]
    return found


def _files(values: dict[str, Any], release: str) -> dict[str, Any]:
    """Return what each template gives, by the name of its file, and the values."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(values, file)
        file.flush()
        argv = [str(_renderer()), str(CHART), file.name, release, "crawl"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    files: dict[str, Any] = json.loads(done.stdout)
    return files


def pod(found: dict[str, Any]) -> Any:
    """Return the Deployment's pod."""
    return found["Deployment"]["spec"]["template"]["spec"]


def kinds(found: dict[str, Any]) -> set[str]:
    """Return the kinds of what was rendered."""
    return set(found)


@cache
def _renderer() -> Path:
    """Build it. Go caches what it has compiled."""
    root = debs(*_PACKAGES)
    unpacked = [str(path) for path in sorted(root.glob("usr/lib/go-*/bin/go"))]
    folder = CACHE / "charts"
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "render"
    env = {**os.environ, **go_environment(root, folder / "go-build")}
    argv = [shutil.which("go") or unpacked[0], "build", "-o", str(program), str(_SOURCE)]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return program
