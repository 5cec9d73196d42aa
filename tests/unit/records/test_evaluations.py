"""Evaluations as files, lines, tables and pictures, and the specs of `dapo eval`."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console

from dapo.algo.evaluation import Judged, measure
from dapo.cli import evaluate
from dapo.cli.display.waiting import Waiting
from dapo.cli.display.words import evaluation_text
from dapo.contracts.events import EvaluationFinished, EvaluationProgress, ServiceChanged, StateChanged
from dapo.records.evaluations import best_step, points, read_evaluations
from dapo.records.model_comparison import compare, comparison_json, draw_comparison, gain, read_result
from dapo.records.samples import evaluation_path
from dapo.spec import dump_yaml
from tests.support.spec import spec

PNG = b"\x89PNG"
NOTHING = evaluate.EvaluationOptions((), None, None, None, None, None, None, None, None, None, ())


def write_run(folder: Path, right: list[int], samples: int = 4, name: str = "exam", step: int = 0) -> Path:
    """A run that evaluated one set: of problem i `right[i]` responses were correct."""
    problems = [[Judged(at < count, str(at < count), 5, False) for at in range(samples)] for count in right]
    row = {"step": step, "set": name, **measure(problems).as_json(), "failed_problems": 0}
    row |= {"version_min": step, "version_max": step, "temperature": 1.0, "top_p": 0.7, "elapsed_s": 1.0}
    folder.mkdir(exist_ok=True)
    with (folder / "evaluations.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    path = evaluation_path(folder, name, step)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(sample_line(at, problem, step, name) for at, problem in enumerate(problems)))
    return folder


def sample_line(row: int, problem: list[Judged], step: int, name: str) -> str:
    responses = [
        {"index": at, "text": "t", "correct": one.correct, "score": 1.0, "reason": "equal", "extracted": one.answer,
         "tokens": 5, "truncated": False, "reward": 1.0, "penalty": 0.0, "version_min": step, "version_max": step}
        for at, one in enumerate(problem)
    ]  # fmt: skip
    sample = {"step": step, "set": name, "group_id": f"e{row}", "row_id": f"r{row}", "prompt": "p", "gold": "g"}
    return json.dumps({**sample, "grader": "exact", "outcome": "evaluated", "responses": responses}) + "\n"


def printed(table: Any, width: int = 120) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    return console.export_text()


def test_points_are_read_back_by_set(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [4, 2, 0])
    write_run(run, [4, 4, 2], step=10)
    rows = read_evaluations(run)
    rows.append({"step": 20, "set": "exam", "avg_at_k": None})
    (found,) = points(rows).values()
    assert [(point.step, point.value) for point in found] == [(0, 0.5), (10, pytest.approx(10 / 12))]
    assert list(points(rows)) == ["exam avg@4"]
    assert read_evaluations(tmp_path) == []


def test_the_best_step_is_the_latest_of_the_highest_on_that_set_among_those_asked() -> None:
    values = {("exam", 0): 0.9, ("exam", 5): 0.5, ("exam", 10): 0.5, ("exam", 15): 0.4, ("other", 15): 1.0}
    rows: list[dict[str, Any]] = [
        {"set": name, "step": step, "avg_at_k": {"value": value}} for (name, step), value in values.items()
    ]
    rows.append({"set": "exam", "step": 20, "avg_at_k": None})
    assert best_step(rows, "exam", [5, 10, 15, 20]) == 10
    assert best_step(rows, "exam", [20, 25]) is None


def test_a_gain_is_that_on_the_same_problems(tmp_path: Path) -> None:
    base = read_result("base", write_run(tmp_path / "base", [0, 1, 2, 3]))
    trained = read_result("trained", write_run(tmp_path / "trained", [1, 2, 3, 4]))
    gained = gain(base.sets["exam"], trained.sets["exam"])
    assert gained is not None
    assert (gained.value, gained.low, gained.high) == pytest.approx((0.25, 0.25, 0.25))
    (table,) = compare([base, trained])
    text = printed(table)
    assert "exam: 4 problems × 4 samples" in text
    assert "+0.250 [+0.250, +0.250]" in text
    assert "[low, high]: 95 % bootstrap interval" in text
    report = comparison_json([base, trained])
    assert report["exam"]["trained"]["gain"]["value"] == pytest.approx(0.25)
    assert "gain" not in report["exam"]["base"]
    assert draw_comparison([base, trained], tmp_path / "a" / "b.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("width", [120, 80, 60, 40])
def test_no_number_of_a_comparison_is_cut(tmp_path: Path, width: int) -> None:
    results = [
        read_result(name, write_run(tmp_path / name, solved))
        for name, solved in (("Qwen2.5-32B-Instruct (base)", [0, 1, 2, 3]), ("trained-20261101-123456", [1, 2, 3, 4]))
    ]
    text = printed(compare(results)[0], width)
    for number in ("0.375 [0.125, 0.625]", "0.625 [0.375, 0.875]", "+0.250 [+0.250, +0.250]", "0.750", "1.000", "5.0"):
        assert number in text
    for heading in ("avg@4", "gain", "pass@4", "maj@4", "length", "truncated", "failed"):
        assert heading in text


def test_models_without_a_common_set_or_a_measure_are_shown_all_the_same(tmp_path: Path) -> None:
    one = read_result("one", write_run(tmp_path / "one", [1], name="a", samples=1))
    folder = tmp_path / "two"
    folder.mkdir()
    row = {"step": 0, "set": "b", "problems": 0, "avg_at_k": None, "failed_problems": 3}
    (folder / "evaluations.jsonl").write_text(json.dumps(row) + "\n")
    two = read_result("two", folder)
    texts = [printed(table) for table in compare([one, two])]
    assert "avg@1" in texts[0]
    assert "–" in texts[1]
    assert draw_comparison([one, two], tmp_path / "c.png").exists()


def test_a_finished_evaluation_in_a_line(tmp_path: Path) -> None:
    (row,) = read_evaluations(write_run(tmp_path / "run", [4, 0]))
    assert evaluation_text(row).startswith("evaluation of step 0, exam: avg@4 0.500 [0.000, 1.000]  pass@4 0.500")
    assert "version 0" in evaluation_text(row)
    mixed = {**row, "version_max": 3, "failed_problems": 2}
    assert "2 problems, 2 failed  versions 0–3" in evaluation_text(mixed)
    assert evaluation_text({**row, "avg_at_k": None, "failed_problems": 2}).endswith("all 2 problems failed")


def test_what_is_awaited_names_the_evaluation() -> None:
    waiting = Waiting(0)
    waiting.update(ServiceChanged(worker_id="generator-0", role="generator", state="ready"))
    assert waiting.text == "waiting for the generators…"
    waiting.update(StateChanged(state="running"))
    waiting.update(EvaluationProgress(step=0, done=3, problems=9))
    assert waiting.text == "evaluating step 0: 3 of 9 problems…"
    waiting.update(EvaluationFinished(row={"step": 0}))
    assert waiting.text == ""


def model_folder(tmp_path: Path, context: int = 4096) -> str:
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": context}))
    return str(folder)


def test_a_model_is_evaluated_without_training_within_its_context(tmp_path: Path) -> None:
    wanted = NOTHING._replace(data=("a.jsonl", "b/a.jsonl"), samples=8, grader="exact")
    ((label, made),) = evaluate._plans(model_folder(tmp_path), wanted, False, tmp_path)
    assert label == "model"
    assert made.training.steps == 0
    assert made.longest_sequence < 4096
    assert list(made.evaluation.sets) == ["a", "a-2"]
    assert made.evaluation.samples == 8
    assert {one.grader for one in made.evaluation.sets.values()} == {"exact"}


def test_temperature_0_asks_once_whatever_the_protocol_has(tmp_path: Path) -> None:
    wanted = NOTHING._replace(data=("aime.jsonl",), protocol="aime-2024", temperature=0.0)
    ((_, made),) = evaluate._plans(model_folder(tmp_path), wanted, False, tmp_path)
    assert (made.evaluation.temperature, made.evaluation.top_p) == (0.0, 1.0)
    assert [one.samples for one in made.evaluation.sets.values()] == [1]


def test_a_run_is_evaluated_greedily_though_it_was_sampled_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    sets = {"exam": {"path": str(tmp_path / "exam.jsonl"), "samples": 2}}
    (run / "spec.yaml").write_text(dump_yaml(spec(model__path=model_folder(tmp_path), evaluation__sets=sets)))
    monkeypatch.setattr(evaluate, "run_module", lambda *arguments: None)
    ((_, made),) = evaluate._plans(str(run), NOTHING._replace(temperature=0.0), False, tmp_path / "out")
    assert (made.evaluation.samples, made.evaluation.sets["exam"].samples, made.evaluation.top_p) == (1, 1, 1.0)


def test_a_run_is_evaluated_with_its_own_sets_and_its_base_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    sets = {"exam": {"path": str(tmp_path / "exam.jsonl"), "samples": 2}}
    base = model_folder(tmp_path)
    made = spec(model__path=base, data__held_out_share=0.1, evaluation__sets=sets, evaluation__every_steps=5)
    (run / "spec.yaml").write_text(dump_yaml(made))
    exported: list[tuple[str, ...]] = []
    monkeypatch.setattr(evaluate, "run_module", lambda *arguments: exported.append(arguments))
    plans = evaluate._plans(str(run), NOTHING._replace(samples=16), True, tmp_path / "out")
    assert [label for label, _ in plans] == ["model (base)", "run"]
    assert exported == [("services.learner.export", str(run), str(tmp_path / "out"))]
    (_, first), (_, second) = plans
    assert first.model.path == base
    assert second.model.path == str(tmp_path / "out")
    assert second.evaluation.sets["exam"].samples == 16
    assert second.data.held_out_share == 0.1


def test_other_prompts_are_asked_as_the_runs_own_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "run_module", lambda *arguments: None)
    run = tmp_path / "run"
    run.mkdir()
    asked = {"chat": True, "chat_template_kwargs": {"enable_thinking": False}, "system_prompt": "Be brief."}
    made = spec(model__path=model_folder(tmp_path), **{f"data__{name}": value for name, value in asked.items()})
    (run / "spec.yaml").write_text(dump_yaml(made))
    ((_, other),) = evaluate._plans(str(run), NOTHING._replace(data=("a.jsonl",)), False, tmp_path)
    assert {name: getattr(other.evaluation.sets["a"], name) for name in asked} == asked


def test_what_cannot_be_evaluated_is_refused_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for subject, base, says in (
        (model_folder(tmp_path), False, "--data is missing"),
        (model_folder(tmp_path), True, "--base wants the folder of a run"),
    ):
        with pytest.raises(typer.Exit):
            evaluate._plans(subject, NOTHING, base, tmp_path)
        assert says in capsys.readouterr().err
    run = tmp_path / "run"
    run.mkdir()
    (run / "spec.yaml").write_text(dump_yaml(spec()))
    with pytest.raises(typer.Exit):
        evaluate._plans(str(run), NOTHING._replace(grader="exact", limit_rows=3), False, tmp_path)
    assert "--grader, --limit-rows: a run's own sets are asked as its spec says" in capsys.readouterr().err
    (run / "spec.yaml").write_text("")
    with pytest.raises(typer.Exit):
        evaluate._plans(str(run), NOTHING, False, tmp_path)
    assert "is empty" in capsys.readouterr().err
    with pytest.raises(typer.Exit):
        evaluate._check_destinations(tmp_path, run, tmp_path / "a.png")
    assert "is a folder" in capsys.readouterr().err


def test_the_protocol_gives_way_to_options_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    run.mkdir()
    made = spec(model__path=model_folder(tmp_path), evaluation__temperature=0.3, evaluation__top_p=1.0)
    (run / "spec.yaml").write_text(dump_yaml(made))
    monkeypatch.setattr(evaluate, "run_module", lambda *arguments: None)
    wanted = NOTHING._replace(data=("aime.jsonl",), protocol="aime-2024")
    ((_, plain),) = evaluate._plans(str(run), wanted, False, tmp_path)
    assert (plain.evaluation.temperature, plain.evaluation.top_p) == (1.0, 0.7)
    assert plain.evaluation.sets["aime"].samples == 32
    assert plain.data.path == str(Path("aime.jsonl").resolve())
    ((_, own),) = evaluate._plans(str(run), wanted._replace(samples=4, top_p=0.9), False, tmp_path)
    assert (own.evaluation.sets["aime"].samples, own.evaluation.top_p) == (4, 0.9)


def test_names_are_told_apart(tmp_path: Path) -> None:
    assert evaluate._distinct(["x", "x", "x-2"]) == ["x", "x-2", "x-2-2"]


def test_models_of_unlike_k_or_unlike_problems_are_not_thrown_together(tmp_path: Path) -> None:
    few = read_result("few", write_run(tmp_path / "few", [1, 2], samples=4))
    many = read_result("many", write_run(tmp_path / "many", [8, 8], samples=16))
    (table,) = compare([few, many])
    assert "2 problems × 4 to 16 samples" in printed(table)
    assert "avg@k" in printed(table)
    path = evaluation_path(tmp_path / "many", "exam", 0)
    path.write_text(path.read_text().replace('"prompt": "p"', '"prompt": "another"'))
    assert gain(few.sets["exam"], read_result("many", tmp_path / "many").sets["exam"]) is None


def test_without_answers_there_is_no_majority(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [4, 0])
    (row,) = read_evaluations(run)
    (run / "evaluations.jsonl").write_text(json.dumps({**row, "maj_at_k": None}) + "\n")
    assert "maj" not in evaluation_text(read_evaluations(run)[0])
    result = read_result("run", run)
    assert "–" in printed(compare([result])[0])
    assert draw_comparison([result], tmp_path / "d.png").exists()
