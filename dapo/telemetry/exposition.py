"""Metrics as Prometheus reads them."""

import gzip
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from prometheus_client import disable_created_metrics
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest, gzip_accepted
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry

from dapo.telemetry.exported import BY_EXPORTED_NAME
from dapo.telemetry.instruments import REGISTRY

# A series more for each counter and histogram, which tells when the process began as process_start_time_seconds does.
disable_created_metrics()  # type: ignore[no-untyped-call]


class _Found(Collector):
    """What was found out just now."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


class Answer(NamedTuple):
    headers: Mapping[str, str]
    body: bytes


def process_registry() -> CollectorRegistry:
    """What any process tells of itself: CPU time, memory, open files, garbage collections."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


_PROCESS = process_registry()


def families(labels: Mapping[str, str] | None = None) -> list[Metric]:
    """A worker's instruments, whose samples get these labels, or without labels the run service's; and what the
    process tells of itself. Those of another kind are only there because their module was imported."""
    own = [one for one in REGISTRY.collect() if _is_of_service(one) == (not labels)]
    found = [*own, *_PROCESS.collect()]
    if labels:
        for one in found:
            one.samples = [sample._replace(labels={**labels, **sample.labels}) for sample in one.samples]
    return found


def _is_of_service(metric: Metric) -> bool:
    name = f"{metric.name}_total" if metric.type == "counter" else metric.name
    return BY_EXPORTED_NAME[name].exporter == "orchestrator"


def answer(found: Iterable[Metric], accept_encoding: str = "") -> Answer:
    """As text, which every Prometheus takes and which costs half of OpenMetrics; packed where the request allows it."""
    headers = {"Content-Type": CONTENT_TYPE_PLAIN_0_0_4, "Cache-Control": "no-store", "Vary": "Accept-Encoding"}
    body = generate_latest(_Found(found))
    if gzip_accepted(accept_encoding):
        # The quickest: it makes a tenth of it, and more would cost twice the time.
        return Answer({**headers, "Content-Encoding": "gzip"}, gzip.compress(body, compresslevel=1))
    return Answer(headers, body)
