"""What services measure with: instruments of prometheus-client, each of a metric that exported.py declares.

A service makes its instruments when its module is imported, in REGISTRY, which is the process's own. Whoever measures
before, or without, a server that hands them out loses nothing: an instrument costs a microsecond.
"""

from collections.abc import Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.samples import Sample

from dapo.telemetry.exported import BY_EXPORTED_NAME, Exported, Kind

REGISTRY = CollectorRegistry()
_TOTAL = "_total"


class Undeclared(LookupError):
    """A metric is not in the table of exported.py, or is another there."""


def declared(name: str, kind: Kind) -> Exported:
    """Raises Undeclared."""
    found = BY_EXPORTED_NAME.get(name)
    if found is None or found.kind != kind:
        what = "not there" if found is None else f"a {found.kind}"
        raise Undeclared(f"{name} is to be a {kind} and is {what}: declare it in dapo/telemetry/exported.py")
    return found


def counter(name: str, *values: str) -> Counter:
    """`values` of its only label are exported as 0 from the beginning: `increase` does not see the first count of a
    series that is born with it. Raises Undeclared, as those below."""
    one = declared(name, "counter")
    made = Counter(one.name, one.meaning, one.labels, registry=REGISTRY)
    for value in values:
        made.labels(value)
    return made


def gauge(name: str) -> Gauge:
    one = declared(name, "gauge")
    return Gauge(one.name, one.meaning, one.labels, registry=REGISTRY)


def histogram(name: str) -> Histogram:
    one = declared(name, "histogram")
    return Histogram(one.name, one.meaning, one.labels, registry=REGISTRY, buckets=one.buckets)


Value = float | int | bool | None
Values = Mapping[tuple[str, ...], Value]
"""By the values of a metric's labels, in their order."""


def family(name: str, values: Iterable[tuple[Sequence[str], Value]]) -> Metric:
    """A gauge or a counter with values that were found out just now; None is left out. Raises Undeclared."""
    one = BY_EXPORTED_NAME.get(name)
    if one is None or one.kind == "histogram":
        raise Undeclared(f"{name} is no gauge and no counter of dapo/telemetry/exported.py")
    if one.kind == "gauge":
        found: Metric = GaugeMetricFamily(one.name, one.meaning)
    else:
        found = CounterMetricFamily(one.name.removesuffix(_TOTAL), one.meaning)
    names = one.labels
    found.samples = [
        Sample(one.name, dict(zip(names, labels, strict=True)), float(value), None, None)
        for labels, value in values
        if value is not None
    ]
    return found
