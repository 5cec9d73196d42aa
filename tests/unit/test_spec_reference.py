"""docs/spec.md is what the tree says, and the tree says something about each field."""

from pathlib import Path

from dapo.spec.fields import field_rows, section_names
from dapo.spec.reference import render
from dapo.spec.training import MetricsSpec
from dapo.spec.yaml_text import read_yaml

PAGE = Path(__file__).resolve().parents[2] / "docs" / "spec.md"


def test_page_is_fresh() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run `make proto`"


def test_each_field_has_a_meaning_and_a_row() -> None:
    page = render()
    for path, row in field_rows().items():
        assert row.meaning, path
        assert f"| `{path}` |" in page


def test_only_the_paths_are_required() -> None:
    assert [path for path, row in field_rows().items() if row.default is None] == ["model.path", "data.path"]


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
