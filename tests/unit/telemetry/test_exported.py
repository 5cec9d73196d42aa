"""The table of exported metrics: names that Prometheus takes, each exported by somebody, and the page of them."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

from dapo.telemetry.exported import BY_EXPORTED_NAME, EXPORTED, STEP_GAUGES, WORKER_LABELS, Exported, gauge_name
from dapo.telemetry.instruments import Undeclared, declared, family
from dapo.telemetry.metrics import METRICS, Metric
from dapo.telemetry.reference import render
from tests.support.paths import REPO

NAME = re.compile(r"dapo(_[a-z0-9]+)+")
LABEL = re.compile(r"[a-z]+")
RESERVED = {"le", "quantile", "job", "instance", *WORKER_LABELS}
SHORT_UNITS = {"s", "ms", "sec", "mib", "mb", "kb", "share", "pct", "percent"}
FOLDERS = {
    "orchestrator": "services/orchestrator",
    "generator": "services/generator",
    "verifier": "services/verifier",
    "learner": "services/learner",
}


@pytest.mark.parametrize("one", EXPORTED, ids=[one.name for one in EXPORTED])
def test_a_name_and_its_labels_are_as_prometheus_wants_them(one: Exported) -> None:
    assert NAME.fullmatch(one.name)
    assert one.name.endswith("_total") == (one.kind == "counter")
    assert not one.name.endswith(("_count", "_sum", "_bucket"))
    assert not SHORT_UNITS & set(one.name.split("_"))
    assert all(LABEL.fullmatch(label) for label in one.labels)
    reserved = RESERVED - {"run"} if one.exporter == "orchestrator" else RESERVED
    assert not reserved & set(one.labels)
    assert len(set(one.labels)) == len(one.labels)
    assert not {"prompt", "group", "caller", "address", "token"} & set(one.labels)
    assert list(one.buckets) == sorted(set(one.buckets))
    assert bool(one.buckets) == (one.kind == "histogram")
    assert one.meaning
    assert not one.meaning.endswith(".")


def test_every_name_is_single() -> None:
    assert [name for name, times in Counter(one.name for one in EXPORTED).items() if times > 1] == []
    assert len(BY_EXPORTED_NAME) == len(EXPORTED)


def test_every_metric_of_a_step_has_a_gauge_that_writes_its_unit_out() -> None:
    assert list(STEP_GAUGES) == [metric.name for metric in METRICS]
    for metric in METRICS:
        name = STEP_GAUGES[metric.name].name
        ends = {"s": "_seconds", "share": "_ratio", "tokens/s": "_tokens_per_second"}.get(metric.unit)
        assert ends is None or name.endswith(ends), name


@pytest.mark.parametrize(
    ("name", "unit", "exported"),
    [
        ("step_s", "s", "dapo_run_step_seconds"),
        ("truncated_share", "share", "dapo_run_truncated_ratio"),
        ("keep_rate", "share", "dapo_run_keep_rate_ratio"),
        ("generated_tokens_per_s", "tokens/s", "dapo_run_generated_tokens_per_second"),
        ("generated_tokens", "tokens", "dapo_run_generated_tokens"),
        ("response_length_mean", "tokens", "dapo_run_response_length_mean_tokens"),
        ("policy_version", "version", "dapo_run_policy_version"),
        ("entropy", "nats", "dapo_run_entropy_nats"),
        ("loss", "", "dapo_run_loss"),
    ],
)
def test_the_name_of_a_gauge_follows_from_the_unit(name: str, unit: str, exported: str) -> None:
    assert gauge_name(Metric(name, unit, "", "learner")) == exported


def named_in(folder: Path) -> set[str]:
    """Literals in the code of a service that are called as a metric is."""
    return {
        node.value
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in BY_EXPORTED_NAME
    }


@pytest.mark.parametrize("exporter", FOLDERS)
def test_each_is_exported_by_the_service_that_the_table_says_and_by_no_other(exporter: str) -> None:
    mine = {one.name for one in EXPORTED if one.exporter == exporter} - {one.name for one in STEP_GAUGES.values()}
    assert named_in(REPO / FOLDERS[exporter]) == mine


def test_what_is_not_declared_cannot_be_made() -> None:
    with pytest.raises(Undeclared, match="dapo_nonsense is to be a gauge and is not there: declare it"):
        declared("dapo_nonsense", "gauge")
    with pytest.raises(Undeclared, match="dapo_runs is to be a counter and is a gauge"):
        declared("dapo_runs", "counter")
    with pytest.raises(Undeclared, match="dapo_api_request_seconds is no gauge"):
        family("dapo_api_request_seconds", [])


def test_the_page_is_fresh() -> None:
    assert (REPO / "docs/metrics.md").read_text(encoding="utf-8") == render(), "run `make proto`"
