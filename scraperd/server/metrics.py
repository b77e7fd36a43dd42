"""The gateway's metrics, as Prometheus asks for them: plain counts, made into families at a scrape.

May touch: the counts, the kept results, the door to the broker, to read.
Must never: label by path, token or job: a label has few values.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.core import Metric

    from scraperd.server.door import Door
    from scraperd.server.held import Held

PREFIX: Final = "scraperd_gateway_"


@dataclass(slots=True)
class Counts:
    """Counts since the start: requests by the status of their answer, and jobs published."""

    requests: Counter[int] = field(default_factory=Counter)
    jobs: int = 0
    in_flight: int = 0


class Metrics:
    """The families of one process. `connections` returns how many are open."""

    def __init__(
        self, counts: Counts, held: Held, door: Door, connections: Callable[[], int]
    ) -> None:
        self._counts = counts
        self._held = held
        self._door = door
        self._connections = connections
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def told(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics in the format that `accept` prefers, and its media type."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def collect(self) -> Iterator[Metric]:
        """Yield the families; called by prometheus_client."""
        requests = CounterMetricFamily(
            f"{PREFIX}requests", "Requests by the status of their answer.", labels=["status"]
        )
        for status, many in self._counts.requests.items():
            requests.add_metric([str(int(status))], many)
        yield requests
        jobs = CounterMetricFamily(f"{PREFIX}jobs", "Jobs that the broker has confirmed.")
        jobs.add_metric([], self._counts.jobs)
        yield jobs
        pending, kept, size = self._held.counts
        results = GaugeMetricFamily(
            f"{PREFIX}results", "Results that are waited for, or kept.", labels=["state"]
        )
        results.add_metric(["pending"], pending)
        results.add_metric(["kept"], kept)
        yield results
        for name, about, value in (
            ("results_bytes", "Bytes of the results that are kept.", size),
            ("requests_in_flight", "Requests that have no answer yet.", self._counts.in_flight),
            ("connections", "Connections of clients.", self._connections()),
            ("broker_up", "1 if the broker is reached, and jobs can be published.", self._up()),
        ):
            yield GaugeMetricFamily(f"{PREFIX}{name}", about, value=value)

    def _up(self) -> int:
        return int(self._door.ready)
