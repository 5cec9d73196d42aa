"""What `dapo eval` makes of a run's spec."""

import json
from pathlib import Path

import pytest
from typer import Exit

from dapo.cli.evaluate import EvaluationOptions, _build, evaluate
from dapo.spec.load import parse_spec

NOTHING = EvaluationOptions(
    data=(),
    protocol=None,
    samples=None,
    grader=None,
    temperature=None,
    top_p=None,
    max_response_tokens=None,
    chat=None,
    prompt_template=None,
    limit_rows=None,
    overrides=(),
)


@pytest.mark.parametrize("data", [(), ("other.jsonl",)])
@pytest.mark.parametrize(
    "section",
    [
        {"checkpoint": {"keep_best": "exam", "every_steps": 5}},
        {"evaluation": {"early_stopping": {"set": "exam", "patience": 3}}},
        {"evaluation": {"dedicated_generator": True}},
    ],
)
def test_what_a_run_does_with_its_evaluations_on_the_way_is_no_matter(section: dict, data: tuple[str, ...]) -> None:
    evaluation = {"sets": {"exam": {"path": "exam.jsonl"}}, "every_steps": 10, **section.get("evaluation", {})}
    tree = {"model": {"path": "./m"}, "data": {"path": "d.jsonl"}, **section, "evaluation": evaluation}
    resolved = parse_spec(json.dumps(tree)).model_dump(mode="json")
    spec = _build(resolved, NOTHING._replace(data=data))
    assert spec.training.steps == 0
    assert list(spec.evaluation.sets) == (["other"] if data else ["exam"])


def test_what_lies_in_the_folder_of_an_evaluation_stays(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine").write_text("precious")
    with pytest.raises(Exit):
        evaluate([], NOTHING, base=False, out=tmp_path, json_path=None, picture=None)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["models", "models/mine"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    out, picture = tmp_path / "file" / "out", tmp_path / "p.png"
    with pytest.raises(Exit):
        evaluate([], NOTHING, base=False, out=out, json_path=None, picture=picture)
    assert f"--out {out}" in capsys.readouterr().err
