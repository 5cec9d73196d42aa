"""Each alert asks for what is exported, fires as it should, and leads to a runbook that says what to do."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from deploy.grafana.source.__main__ import DASHBOARDS
from tests.unit.sight.queries import wrong

REPO = Path(__file__).parents[3]
PROMETHEUS = REPO / "deploy/prometheus"
RUNBOOKS = REPO / "docs/runbooks"
RULES = [rule for group in yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"] for rule in group["rules"]]
_EACH = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])


@_EACH
def test_it_asks_for_what_is_exported(rule: dict) -> None:
    assert wrong(rule["expr"]) == []


@_EACH
def test_it_leads_to_its_runbook(rule: dict) -> None:
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{rule['alert']}.md"
    page = (RUNBOOKS / f"{rule['alert']}.md").read_text()
    assert page.startswith(f"# {rule['alert']}\n")
    assert "\n## Look\n" in page
    assert "\n## Do\n" in page


@_EACH
def test_it_is_tested(rule: dict) -> None:
    assert f'alertname="{rule["alert"]}"' in (PROMETHEUS / "rules_test.yml").read_text()


def test_no_runbook_is_left_without_an_alert() -> None:
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == {rule["alert"] for rule in RULES}


def test_runbooks_name_fields_of_the_spec() -> None:
    fields = set(re.findall(r"^\| `([^`]+)` \|", (REPO / "docs/spec.md").read_text(), re.MULTILINE))
    parts = {field.split(".")[0] for field in fields if "." in field}
    named = {
        (page.name, name)
        for page in RUNBOOKS.glob("*.md")
        for name in re.findall(r"`([a-z_]+\.[a-z_.]+)(?:: [^`]*)?`", page.read_text())
        if name.split(".")[0] in parts
    }
    assert len(named) > 20
    sections = {field[: match.start()] for field in fields for match in re.finditer(r"\.", field)}
    assert {one for one in named if one[1] not in fields | sections} == set()


def test_runbooks_name_panels_that_are_there() -> None:
    titles = {panel.title for board in DASHBOARDS for row in board.rows for panel in row.panels}
    named = {
        (page.name, title) for page in RUNBOOKS.glob("*.md") for title in re.findall("“([^”]+)”", page.read_text())
    }
    assert len(named) > 20
    assert {one for one in named if one[1] not in titles} == set()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="there is no promtool: apt-get install prometheus")
@pytest.mark.parametrize(
    "command",
    [
        "check rules rules.yml",
        "test rules rules_test.yml",
        "check config --syntax-only prometheus.yml",
        "check config --syntax-only ../docker/prometheus.yml",
    ],
)
def test_promtool_agrees(command: str) -> None:
    done = subprocess.run(["promtool", *command.split()], cwd=PROMETHEUS, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
