"""A selection of the fault bench (tests/faults), in its short form.

May touch: what the bench touches: private brokers, daemons, loopback.
Must never: call a row good that is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.bench import Bench
from tests.faults.register import every_row

if TYPE_CHECKING:
    from pathlib import Path

    from tests.rig.brokers.node import Node


@pytest.mark.parametrize(
    "name",
    [
        "kill9-between-confirm-and-ack",
        "sigterm-under-load",
        "broker-kill9",
        "network-reset",
        "results-queue-deleted",
        "invalid-bodies",
        "oversized-jobs",
        "poison",
        "poison-x-death",
        "forged-headers",
        "hostile-urls",
    ],
)
def test_a_fault_loses_nothing(name: str, node: Node, broker_url: str, tmp_path: Path) -> None:
    """Each accepted job comes to its end once, and what the daemon says of itself is true."""
    with Bench(tmp_path, short=True, shared=node) as bench:
        report = bench.play(every_row()[name])
    assert not report.complaints, report.text
