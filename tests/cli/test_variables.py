"""Variables that Kubernetes makes are let pass; any other that is no setting ends the start.

May touch: environments that are passed in, the `scraperd` command as a subprocess.
Must never: read or change the environment of the tests.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from scraperd.config.load import ConfigError, load
from scraperd.config.settings import Config
from tests.rig.ports import free_port
from tests.rig.settings import configured

# As kubelet makes them of a Service `scraperd` with the ports amqp (5672/TCP), health-check
# (8080/TCP), syslog (514/UDP) and sigtran (2905/SCTP), the last by an IPv6 address.
KUBERNETES = {
    "SCRAPERD_SERVICE_HOST": "10.0.171.239",
    "SCRAPERD_SERVICE_PORT": "5672",
    "SCRAPERD_SERVICE_PORT_AMQP": "5672",
    "SCRAPERD_SERVICE_PORT_HEALTH_CHECK": "8080",
    "SCRAPERD_SERVICE_PORT_SYSLOG": "514",
    "SCRAPERD_PORT": "tcp://10.0.171.239:5672",
    "SCRAPERD_PORT_5672_TCP": "tcp://10.0.171.239:5672",
    "SCRAPERD_PORT_5672_TCP_PROTO": "tcp",
    "SCRAPERD_PORT_5672_TCP_PORT": "5672",
    "SCRAPERD_PORT_5672_TCP_ADDR": "10.0.171.239",
    "SCRAPERD_PORT_8080_TCP": "tcp://10.0.171.239:8080",
    "SCRAPERD_PORT_8080_TCP_ADDR": "10.0.171.239",
    "SCRAPERD_PORT_514_UDP": "udp://10.0.171.239:514",
    "SCRAPERD_PORT_514_UDP_PROTO": "udp",
    "SCRAPERD_PORT_514_UDP_PORT": "514",
    "SCRAPERD_PORT_514_UDP_ADDR": "10.0.171.239",
    "SCRAPERD_PORT_2905_SCTP": "sctp://[fd00:10:96::9c0e]:2905",
    "SCRAPERD_PORT_2905_SCTP_PROTO": "sctp",
    "SCRAPERD_PORT_2905_SCTP_PORT": "2905",
    "SCRAPERD_PORT_2905_SCTP_ADDR": "fd00:10:96::9c0e",
}


def test_what_kubernetes_sets_is_ignored() -> None:
    """All of them together change nothing, and a setting beside them counts."""
    assert load(None, KUBERNETES) == Config()
    assert load(None, {**KUBERNETES, "SCRAPERD_CONCURRENCY": "7"}) == configured(concurrency=7)


@pytest.mark.parametrize("value", ["tcp://10.0.0.1:80", "udp://[::1]:53", "sctp://10.0.0.1:2905"])
def test_the_first_port_may_be_of_any_protocol(value: str) -> None:
    """SCRAPERD_PORT is the URL of the Service's first port."""
    assert load(None, {"SCRAPERD_PORT": value}) == Config()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SCRAPERD_PORT", "8080"),  # somebody who looks for a setting, not Kubernetes
        ("SCRAPERD_PORT", ""),
        ("SCRAPERD_PORT", "http://10.0.0.1:80"),
        ("SCRAPERD_PORTS", "[80]"),
        ("SCRAPERD_PORT_5672", "5672"),
        ("SCRAPERD_PORT_5672_HTTP", "tcp://10.0.0.1:5672"),
        ("SCRAPERD_PORT_5672_TCP_HOST", "10.0.0.1"),
        ("SCRAPERD_PORT_AMQP_TCP", "tcp://10.0.0.1:5672"),
        ("SCRAPERD_SERVICE", "x"),
        ("SCRAPERD_SERVICE_HOSTS", "10.0.0.1"),
        ("SCRAPERD_SERVICE_PORT_", "80"),
        ("SCRAPERD_SERVICE_PORT_http", "80"),
        ("SCRAPERD_SERVICE_HOST\n", "10.0.0.1"),
        ("SCRAPERD_METRICS_SERVICE_HOST", "10.0.0.1"),  # of a Service `scraperd-metrics`
    ],
)
def test_what_only_looks_like_it_is_an_unknown_setting(name: str, value: str) -> None:
    """The names are those of Kubernetes to the letter: a variable that is mistyped is told."""
    with pytest.raises(ConfigError) as caught:
        load(None, {**KUBERNETES, name: value})
    [fault] = caught.value.faults
    assert fault.startswith("environment: unknown setting ")


def test_a_typo_beside_them_ends_the_command_with_the_nearest_name() -> None:
    """By a real process: the start goes on beside Kubernetes' variables, and ends at the typo."""
    others = {k: v for k, v in os.environ.items() if not k.startswith("SCRAPERD_")}
    broker = f"amqp://127.0.0.1:{free_port()}/"

    def check(**env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "scraperd", "check", "--config", "/dev/null"],
            env={**others, **KUBERNETES, "SCRAPERD_BROKER_URL": broker, **env},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    good, typo = check(), check(SCRAPERD_CONCURENCY="7")
    assert "configuration: good" in good.stdout
    assert good.returncode == 1  # there is no broker
    assert typo.returncode == 78
    said = "environment: unknown setting 'concurency'; did you mean 'concurrency'?"
    assert typo.stderr == f"scraperd: {said}\n"
