"""The image, built and run as the chart runs it: `make test-containers` (not in `make test`).

May touch: podman's containers with a storage of their own, a private RabbitMQ, a site.
Must never: reach an image registry or a cluster.
"""

from __future__ import annotations

import json
import time
from base64 import b64encode
from typing import TYPE_CHECKING, Any, Final

import kubernetes_validate
import pytest
import yaml

from tests.containers.charts import CHART, EVERYTHING, pod, render
from tests.containers.podman import IMAGE, ROOT, ULIMITS, build, container, logs, podman
from tests.rig.daemon import LOOPBACK, variables

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.rig.daemon import Dispatcher
    from tests.rig.sites.hostel import Hostel

pytestmark = pytest.mark.timeout(1_800)
VERSIONS: Final = ("1.25", "1.29", "1.32", "1.35")  # of Kubernetes
DEADLINE: Final = 60.0


@pytest.fixture(scope="module")
def image() -> str:
    """The image of this checkout."""
    build()
    return IMAGE


@pytest.fixture
def as_in_a_pod(image: str, broker_url: str, prefix: str, tmp_path: Path) -> list[str]:
    """What podman needs to run the image as the chart's pod: arguments up to the image's name."""
    found = render({})
    spec = pod(found)
    (box,) = spec["containers"]
    assert image == IMAGE
    assert spec["securityContext"]["runAsUser"] == 10001
    assert box["securityContext"]["readOnlyRootFilesystem"] is True
    assert box["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    (tmp_path / "url").write_text(broker_url)
    (tmp_path / "config.toml").write_text(found["ConfigMap"]["data"]["config.toml"])
    given = [f"{one['name']}={one['value']}" for one in box["env"]]
    more = variables({**LOOPBACK, "broker__prefix": prefix})
    settings = [*given, *(f"{name}={value}" for name, value in more.items())]
    return [
        *("--network=host", "--cgroups=disabled", "--read-only", "--read-only-tmpfs=false"),
        *("--cap-drop=all", "--security-opt=no-new-privileges", "--user=10001:10001"),
        f"--volume={tmp_path / 'url'}:/run/secrets/scraperd/broker/url:ro",
        f"--volume={tmp_path / 'config.toml'}:/etc/scraperd/config.toml:ro",
        *(f"--env={one}" for one in settings),
    ]


def arguments() -> list[str]:
    """What the chart's pod runs."""
    return [str(one) for one in pod(render({}))["containers"][0]["args"]]


def until(what: Callable[[], bool], name: str) -> None:
    """Wait for something that a container does."""
    deadline = time.monotonic() + DEADLINE
    while not what():
        assert time.monotonic() < deadline, logs(name)
        time.sleep(0.1)


def events(name: str) -> list[Any]:
    """The lines of a container's log."""
    return [json.loads(line) for line in logs(name).splitlines() if line.startswith("{")]


def has(name: str, event: str) -> bool:
    """Whether a container has logged this."""
    return any(line["event"] == event for line in events(name))


def test_jobs_are_done_as_in_a_pod(
    as_in_a_pod: list[str], dispatcher: Dispatcher, hostel: Hostel
) -> None:
    """With the chart's arguments: a read-only root, no capability; it drains when stopped."""
    with container("pod", *as_in_a_pod, IMAGE, *arguments()) as name:
        until(lambda: has(name, "ready"), name)
        idents = dispatcher.publish_many(
            [hostel.url(f"/page/{n}") for n in range(50)], extract={"title": "title"}
        )
        results = {one["id"]: one["status"] for one in dispatcher.results(50)}
        assert results == dict.fromkeys(idents, "ok")
        assert "ready" in podman("exec", name, "scraperd", "health")
        dispatcher.publish({"url": hostel.url("/hold/1")})
        hostel.wait_for(lambda hits: hits["/hold/1"] == 1)
        stopping = podman("kill", "--signal", podman_stop_signal(), name)
        assert stopping
        until(lambda: has(name, "drain"), name)
        hostel.release()
        (held,) = dispatcher.results(1)
        assert held["status"] == "ok"
        assert podman("wait", name) == "0"
        assert not has(name, "helpers_unconfined")


def podman_stop_signal() -> str:
    """The signal that the image asks for."""
    return podman("image", "inspect", "--format", "{{.Config.StopSignal}}", IMAGE)


def test_no_shell_is_needed(as_in_a_pod: list[str]) -> None:
    """With nothing in the place of the shell it starts and is healthy."""
    empty = ["--mount=type=bind,src=/dev/null,dst=/usr/bin/dash,ro",
             "--mount=type=bind,src=/dev/null,dst=/usr/bin/bash,ro"]  # fmt: skip
    with container("bare", *as_in_a_pod, *empty, IMAGE, *arguments()) as name:
        until(lambda: has(name, "ready"), name)
        podman("exec", name, "scraperd", "health", "--live")


def test_a_wrong_configuration_ends_it(as_in_a_pod: list[str], tmp_path: Path) -> None:
    """Exit code 78 and one line: what Kubernetes shows as the reason."""
    (tmp_path / "config.toml").write_text("concurency = 7\n")
    with container("wrong", *as_in_a_pod, IMAGE, *arguments()) as name:
        assert podman("wait", name) == "78"
        assert "concurency" in logs(name)


def test_what_is_in_the_image(image: str) -> None:
    """The compiled extraction, what signs with Ed25519, and nothing that builds or installs."""
    run = ("run", "--rm", "--network=none", "--cgroups=disabled", "--read-only", *ULIMITS)
    script = "from scraperd.extract.compiled import engine; print(engine is not None)"
    python = ("--entrypoint=/opt/scraperd/bin/python", image, "-c")
    assert podman(*run, *python, script) == "True"
    secret = f"whsk_{b64encode(bytes(32)).decode()}"
    script = f"from scraperd.callbacks.signing import read_secrets; read_secrets({secret!r})"
    assert podman(*run, *python, script) == ""
    absent = "import shutil; print([n for n in ('gcc', 'pip', 'pip3', 'curl') if shutil.which(n)])"
    assert podman(*run, *python, absent) == "[]"
    assert podman(*run, *python, "import os; print(os.getuid())") == "10001"
    assert podman(*run, image, "--version").startswith("scraperd")
    size = int(podman("image", "inspect", "--format", "{{.Size}}", image))
    print(f"the image has {size / 1e6:.0f} MB")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_the_manifests_are_valid(values: dict[str, Any], version: str) -> None:
    """By the schemas of Kubernetes, which know no field that is not theirs."""
    found = render(values)
    job = yaml.safe_load((ROOT / "examples/kubernetes-cronjob.yaml").read_text())
    ours = {"ServiceMonitor", "ScaledObject"}  # of operators: their schemas are not Kubernetes's
    for manifest in [job, *(found[kind] for kind in found if kind not in ours)]:
        kubernetes_validate.validate(manifest, version, strict=True)


def test_the_chart_has_its_version() -> None:
    """The chart's appVersion is the package's: it is the default tag of the image."""
    import scraperd

    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == scraperd.__version__
