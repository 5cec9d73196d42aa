"""docs/spec.md is what the tree says, and the tree says something about each field."""

import re

import pytest

from dapo.spec.reference import render
from dapo.spec.tree.fields import field_rows, locate, section_names
from dapo.spec.tree.training import MetricsSpec
from dapo.spec.yaml_text import read_yaml
from tests.support.paths import REPO

PAGE = REPO / "docs" / "spec.md"


def test_page_is_fresh() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run `make proto`"


def test_each_field_has_a_meaning_and_a_row() -> None:
    page = render()
    for path, row in field_rows().items():
        assert row.meaning, path
        shown = re.sub(r"\[.+\]", "", path)
        assert f"| `{shown}` |" in page


def test_only_the_model_is_required_and_in_each_source_the_path() -> None:
    required = [path for path, row in field_rows().items() if row.default is None]
    assert [path for path in required if "<name>" not in path] == ["model.path"]
    assert "data.sources.<name>.path" in required
    assert "reward.graders.<name>[type: regex].pattern" in required


def test_sections_by_name_are_shown_below_their_field() -> None:
    rows = field_rows()
    assert (rows["data.sources"].type, rows["data.sources"].default) == ("{name: section, …}", "{}")
    assert rows["data.sources.<name>.chat"].meaning == rows["data.chat"].meaning
    assert list(rows).index("data.shuffle") < list(rows).index("data.sources.<name>.path")
    page = render()
    assert "## `data.sources.<name>`\n" in page
    assert "## `reward.graders.<name>`, `type: code`\n\nThe last block of Python" in page
    assert section_names()["reward.graders.<name>[type: exact]"] == ("max_characters", "thinking_tags", "type")


@pytest.mark.parametrize(
    ("steps", "shown", "path"),
    [
        (("data", "sources", "a", "path"), "data.sources.a.path", "data.sources.<name>.path"),
        (("data", "sources", "a", "pat"), "data.sources.a.pat", "data.sources.<name>.pat"),
        (("data", "sources"), "data.sources", "data.sources"),
        (("data", "sources", "a"), "data.sources.a", "data.sources.<name>"),
        (("reward", "graders", "m", "code", "timeout_s"), "reward.graders.m.timeout_s",
         "reward.graders.<name>[type: code].timeout_s"),
        (("reward", "graders", "code"), "reward.graders.code", "reward.graders.<name>"),
        (("optimizer", "betas", 1), "optimizer.betas.1", "optimizer.betas.1"),
        (("nonsense", "x"), "nonsense.x", "nonsense.x"),
    ],
)  # fmt: skip
def test_where_an_error_lies(steps: tuple[str | int, ...], shown: str, path: str) -> None:
    assert locate(steps) == (shown, path)


def test_bounds_reach_into_optional_and_nested_values() -> None:
    rows = field_rows()
    assert rows["optimizer.betas"].bounds == "≥ 0, < 1"
    assert rows["metrics.reference_accuracy"].bounds == "≥ 0, ≤ 1"
    assert rows["algorithm.dual_clip"].type == "number or null"
    assert "redis" in rows["resources.redis.url"].bounds


def test_a_list_is_shown_as_it_is_written() -> None:
    row = field_rows()["metrics.reflection_patterns"]
    assert row.type == "[text, …]"
    assert row.default is not None
    assert read_yaml(row.default) == MetricsSpec().reflection_patterns


def test_every_row_lies_in_a_named_section() -> None:
    for row in field_rows().values():
        assert row.path.rpartition(".")[2] in section_names()[row.section]


def test_tables_are_whole() -> None:
    for line in render().splitlines():
        if line.startswith("|"):
            cells = line.replace("\\|", "").count("|") - 1
            assert cells in (4, 5), line
