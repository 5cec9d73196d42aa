"""What a spec would be, before it is a run."""

import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dapo.policy import Admission, Policy
from dapo.spec.load import parse_spec
from dapo.spec.preview import preview
from dapo.spec.tree.run import RunTree
from dapo.spec.yaml_text import read_yaml
from services.orchestrator.catalogue.examination import examine
from services.orchestrator.catalogue.presets import presets, spec_schema
from tests.support.paths import REPO

EXAMPLES = sorted((REPO / "examples").glob("*.yaml"))


@pytest.fixture
def text(tmp_path: Path) -> str:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text('{"model_type": "qwen2", "max_position_embeddings": 64}')
    (tmp_path / "d.jsonl").write_text("")
    return json.dumps(
        {
            "model": {"path": str(tmp_path / "model")},
            "data": {"path": str(tmp_path / "d.jsonl"), "max_prompt_tokens": 16},
            "sampling": {"max_response_tokens": 16},
            "reward": {"overlong_buffer_tokens": 4},
            "algorithm": {"preset": "grpo", "clip_low": 0.1},
            "training": {"steps": 3, "prompts_per_step": 4, "updates_per_step": 1},
        }
    )


def test_a_spec_that_could_be_started_shows_its_plan_and_what_differs(text: str, tmp_path: Path) -> None:
    found = examine(text, ["training.steps=7"], Admission(Policy(), tmp_path))
    assert (found.problems, found.spec is not None) == ([], True)
    changes = {change.field: (change.before, change.after) for change in found.changes}
    assert changes["training.steps"][1] == 7
    assert changes["algorithm.clip_low"] == (0.2, 0.1)
    assert changes["model.path"] == (None, str(tmp_path / "model"))
    # What the preset says is no difference.
    assert not {"algorithm.clip_high", "sampling.group_size", "algorithm.preset"} & changes.keys()
    assert found.plan is not None
    assert [one.role for one in found.plan.workloads] == ["generator", "verifier", "learner"]
    assert found.plan.gpus == 2
    assert found.plan.rows == preview(parse_spec(text, ["training.steps=7"]))
    assert found.plan.payloads.needed <= found.plan.payloads.limit


def test_problems_are_those_of_the_start(text: str, tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").unlink()
    missing = examine(text, [], None)
    assert [problem.field for problem in missing.problems] == ["data.path"]
    assert (missing.plan, missing.spec is not None) == (None, True)
    elsewhere = examine(text, [], Admission(Policy(), tmp_path / "other"))
    assert [problem.field for problem in elsewhere.problems] == ["model.path", "data.path"]
    assert "no file" not in "".join(problem.message for problem in elsewhere.problems)
    wrong = examine("model: 3", [], None)
    assert (wrong.spec, wrong.plan, wrong.changes) == (None, None, [])
    assert {problem.field for problem in wrong.problems} == {"model", "data"}


@given(st.text(max_size=200) | st.recursive(st.text(max_size=3) | st.none(), st.lists, max_leaves=9).map(json.dumps))
def test_no_text_is_too_odd(text: str) -> None:
    assert examine(text, [], None).problems


@pytest.mark.parametrize("overrides", [["a"], ["=1"], ["model=[*x]"], ["training.steps=*a"], ["..=1"]])
def test_no_change_is_too_odd(text: str, overrides: list[str]) -> None:
    assert examine(text, overrides, None).problems


def test_aliases_of_aliases_are_not_written_out() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    (problem,) = examine("\n".join([*lines, "data: {path: x, chat_template_kwargs: {a: *a11}}"]), [], None).problems
    assert "aliases" in problem.message
    assert examine("a: &a [*a]", [], None).problems


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.name for path in EXAMPLES])
def test_the_examples_fit_the_schema(path: Path) -> None:
    jsonschema.Draft202012Validator(spec_schema()).validate(read_yaml(path.read_text()))


def test_the_schema_tells_meanings_defaults_and_mistakes() -> None:
    schema = spec_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    training = schema["$defs"]["TrainingSpec"]["properties"]
    assert training["steps"]["description"]
    assert training["steps"]["default"] == RunTree.model_fields["training"].default.steps
    without = [
        f"{name}.{field}"
        for name, section in schema["$defs"].items()
        for field, one in section.get("properties", {}).items()
        if "description" not in one and "$ref" not in one and one.get("const") is None
    ]
    assert without == []
    for wrong in ({"model": {"path": "m"}}, {"model": {"path": "m"}, "data": {"path": "d"}, "x": 1}):
        assert list(jsonschema.Draft202012Validator(schema).iter_errors(wrong))


def test_a_preset_names_fields_of_a_spec() -> None:
    for preset in presets():
        overrides = [f"{field}={json.dumps(value)}" for field, value in preset["fields"].items()]
        tree = {"model": {"path": "a/b"}, "data": {"path": "a/b"}, "algorithm": {"preset": preset["name"]}}
        plain = parse_spec(json.dumps(tree))
        assert parse_spec(json.dumps(tree), overrides) == plain
