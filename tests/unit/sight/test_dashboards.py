"""Each dashboard is as its source says, asks only for what is exported, and explains itself."""

import ast
import json
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from dapo.telemetry.exported import EXPORTED
from deploy.grafana.source.__main__ import DASHBOARDS, FOLDER, text
from deploy.grafana.source.panels import Dashboard
from tests.unit.sight.queries import ELSEWHERE, own, selectors, wrong

NOT_SHOWN = {
    "dapo_run_time_seconds": "the time axis says it",
}
"""Metrics of ours that are on no dashboard, and why."""
_EACH = pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda one: one.uid)


def _queries(dashboard: Dashboard) -> Iterator[tuple[str, str]]:
    """By where they stand: of panels, of variables, of annotations."""
    made = json.loads(text(dashboard))
    for row in dashboard.rows:
        for panel in row.panels:
            for query in panel.queries.values():
                yield f"{row.title} / {panel.title}", query
    for variable in made["templating"]["list"]:
        if variable["type"] == "query":
            yield f"variable {variable['name']}", re.fullmatch(r"label_values\((.*), \w+\)", variable["query"])[1]
    for annotation in made["annotations"].get("list", []):
        yield f"annotation {annotation['name']}", annotation["expr"]


@_EACH
def test_it_is_as_make_dashboards_writes_it(dashboard: Dashboard) -> None:
    assert (FOLDER / f"{dashboard.uid}.json").read_text() == text(dashboard), "run `make dashboards`"


def test_no_dashboard_is_left_that_has_no_source() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == {one.uid for one in DASHBOARDS}


@_EACH
def test_it_asks_for_what_is_exported(dashboard: Dashboard) -> None:
    assert {where: found for where, query in _queries(dashboard) if (found := wrong(query))} == {}


def test_sglang_exports_what_is_asked_of_it() -> None:
    if (package := find_spec("sglang")) is None or package.origin is None:
        pytest.skip("SGLang is not installed")
    source = (Path(package.origin).parent / "srt/observability/metrics_collector.py").read_text(encoding="utf-8")
    names = {
        ast.literal_eval(word.value)
        for call in ast.walk(ast.parse(source))
        if isinstance(call, ast.Call)
        for word in call.keywords
        if word.arg == "name" and isinstance(word.value, ast.Constant)
    }
    asked = {name for name in ELSEWHERE if name.startswith("sglang:")}
    assert len(asked) > 5
    assert asked <= names


@_EACH
def test_each_panel_says_what_it_shows(dashboard: Dashboard) -> None:
    panels = [panel for row in dashboard.rows for panel in row.panels]
    assert [panel.title for panel in panels if len(panel.meaning) < 10 or not panel.queries] == []
    assert len({panel.title for panel in panels}) == len(panels)


@_EACH
def test_legends_name_labels_that_the_answer_has(dashboard: Dashboard) -> None:
    for row in dashboard.rows:
        for panel in row.panels:
            for legend, query in panel.queries.items():
                for label in re.findall(r"\{\{(\w+)\}\}", legend):
                    by = re.search(r"by \(([^)]*)\)", query)
                    if by is not None:
                        assert label in by[1], f"{panel.title}: {legend}"


def test_each_metric_is_on_a_dashboard_or_said_not_to_be() -> None:
    shown = {own(one.metric) for board in DASHBOARDS for _, query in _queries(board) for one in selectors(query)}
    missing = {one.name for one in EXPORTED} - shown
    assert missing == set(NOT_SHOWN)


@_EACH
def test_each_panel_has_a_number_of_its_own(dashboard: Dashboard) -> None:
    panels = json.loads(text(dashboard))["panels"]
    numbers = [one.get("id") for panel in panels for one in (panel, *panel.get("panels", ()))]
    assert len(set(numbers)) == len(numbers)
    assert all(numbers)


def test_panels_do_not_overlap() -> None:
    for path in sorted(FOLDER.glob("*.json")):
        taken: dict[tuple[int, int], str] = {}
        for panel in json.loads(path.read_text())["panels"]:
            at = panel["gridPos"]
            assert at["x"] + at["w"] <= 24
            for x in range(at["x"], at["x"] + at["w"]):
                for y in range(at["y"], at["y"] + at["h"]):
                    assert (x, y) not in taken, f"{path.name}: {panel['title']} lies on {taken[x, y]}"
                    taken[x, y] = panel["title"]


def test_a_wrong_query_is_found() -> None:
    assert wrong("dapo_run_nowhere") == ["dapo_run_nowhere is exported by nobody"]
    assert wrong('rate(dapo_run_step{worker="a"}[5m])') == ["dapo_run_step has no label worker"]
    with pytest.raises(ValueError, match="unclosed"):
        wrong("sum by (run")


def test_provisioning_points_at_the_dashboards() -> None:
    provisioned = Path("deploy/grafana/provisioning")
    assert (FOLDER.parent / "provisioning").resolve() == provisioned.resolve()
