"""Reads queries of PromQL: which metrics they ask for, and by which labels."""

import re
from typing import NamedTuple

import promql_parser

from dapo.telemetry.exported import BY_EXPORTED_NAME, WORKER_LABELS

ELSEWHERE = {
    "up",
    "sglang:num_running_reqs",
    "sglang:num_queue_reqs",
    "sglang:token_usage",
    "sglang:cached_tokens_total",
    "sglang:prompt_tokens_total",
    "sglang:gen_throughput",
    "sglang:num_retracted_requests_total",
    "DCGM_FI_DEV_GPU_UTIL",
    "DCGM_FI_DEV_FB_USED",
    "DCGM_FI_DEV_POWER_USAGE",
    "DCGM_FI_DEV_XID_ERRORS",
    "ALERTS",
}
"""Metrics that others export: Prometheus, SGLang (srt/observability), NVIDIA's DCGM exporter."""
_OF_PROMETHEUS = {"instance", "job"}
_BUILT_IN = {"$__rate_interval": "1m", "$__interval": "15s", "$__range": "1h"}


class Selector(NamedTuple):
    metric: str
    labels: frozenset[str]


def plain(query: str) -> str:
    """The query with Grafana's variables put in."""
    for variable, value in _BUILT_IN.items():
        query = query.replace(variable, value)
    return re.sub(r"\$\w+", "x", query)


def selectors(query: str) -> list[Selector]:
    """Raises ValueError where it does not parse."""
    found: list[Selector] = []

    def walk(node: object) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(Selector(node.name, frozenset(one.name for one in node.matchers.matchers)))
        for name in ("expr", "lhs", "rhs", "vector_selector", "param"):
            if (inner := getattr(node, name, None)) is not None:
                walk(inner)
        for inner in getattr(node, "args", None) or ():
            walk(inner)

    walk(promql_parser.parse(plain(query)))
    return found


def own(metric: str) -> str | None:
    """The declared name of a metric of ours, of which a histogram has several; None: it is not ours."""
    if metric in BY_EXPORTED_NAME:
        return metric
    base = re.sub(r"_(bucket|count|sum)$", "", metric)
    return base if base in BY_EXPORTED_NAME and BY_EXPORTED_NAME[base].kind == "histogram" else None


def wrong(query: str) -> list[str]:
    """What a query asks for that nobody exports."""
    found = []
    for metric, labels in selectors(query):
        name = own(metric)
        if name is None:
            if metric not in ELSEWHERE:
                found.append(f"{metric} is exported by nobody")
            continue
        declared = BY_EXPORTED_NAME[name]
        known = {*declared.labels, *_OF_PROMETHEUS}
        if declared.exporter != "orchestrator":
            known.update(WORKER_LABELS)
        if unknown := labels - known:
            found.append(f"{metric} has no label {', '.join(sorted(unknown))}")
    return found
