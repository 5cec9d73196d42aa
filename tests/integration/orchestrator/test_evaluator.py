"""Evaluations beside a run's training, over real Valkey with scripted services."""

import json
from pathlib import Path
from typing import Any

import pytest

from dapo.algo.evaluation import reason_to_stop
from dapo.bus import Bus
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.data import DatasetError
from dapo.records.evaluations import read_evaluations
from services.orchestrator.control.evaluator import VersionEvaluation
from services.orchestrator.records.recorder import Recorder
from services.orchestrator.runs.inputs import open_inputs
from tests.support.orchestrator.control import PROMPTS, STEPS, Seen, Workers, make_spec, run_scripted

PROBLEMS, SAMPLES = 6, 3


def evaluated(
    tmp_path: Path,
    prefix: str = "q",
    training: dict[str, Any] | None = None,
    algorithm: dict[str, Any] | None = None,
    **evaluation: Any,
):
    """Spec of a run with one set of six problems of its own."""
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{prefix}{i}", "answer": f"a{i}"}) + "\n" for i in range(PROBLEMS)))
    settings = {"sets": {"exam": {"path": str(path), "grader": "exact"}}, "samples": SAMPLES, **evaluation}
    tree = {"evaluation": settings, "training": training or {}}
    return make_spec(tmp_path, staleness=1, tree=tree, **(algorithm or {}))


def mixed(group_id: str, index: int) -> bool:
    """Half of a training group; of each second problem of an evaluation the first response, of the others all."""
    number = int(group_id[1:])
    return index % 2 == 0 if group_id[0] == "g" else index == 0 or number % 2 == 1


def finished(seen: Seen) -> list[dict]:
    return [data for kind, data in seen.events if kind == "evaluation" and data["state"] == "finished"]


def of_evaluations(workers: Workers) -> list[str]:
    return [group_id for group_id in workers.issued_at if group_id[0] == "e"]


def test_start_every_steps_and_end_are_evaluated_and_nothing_of_it_is_trained_on(valkey, tmp_path):
    spec = evaluated(tmp_path, every_steps=4)
    workers, seen = run_scripted(valkey, "evaluated", spec, mixed, learn_s=0.3)
    rows = read_evaluations(seen.run_dir)
    assert rows == [{name: row[name] for name in row if name != "state"} for row in finished(seen)]
    assert [row["step"] for row in rows] == [0, 4, 8, STEPS]
    for row in rows:
        assert (row["set"], row["problems"], row["samples"], row["failed_problems"]) == ("exam", PROBLEMS, SAMPLES, 0)
        assert row["avg_at_k"]["value"] == pytest.approx(2 / 3)
        assert row["pass_at_k"]["3"]["value"] == 1
        assert row["version_min"] >= row["step"]
    trained = {group.group_id for batch in workers.batches for group in batch.groups}
    assert not trained & set(of_evaluations(workers))
    assert seen.ledger["evaluated"] == len(rows) * PROBLEMS
    assert seen.ledger["trained"] == STEPS * PROMPTS
    assert sum(seen.ledger.values()) == seen.issued
    assert seen.open == []
    assert {name for row in seen.rows for name in row["evaluations"]} == {"exam"}


def test_the_base_model_is_evaluated_before_anything_is_issued_for_training(valkey, tmp_path):
    orders: list[str] = []

    async def react(bus: Bus, kind: str, data: dict) -> None:
        if kind == "evaluation" and data["state"] == "finished" and data["step"] == 0:
            orders.extend(await bus.groups.open_ids())

    _, seen = run_scripted(valkey, "base", evaluated(tmp_path), mixed, react)
    assert orders == [], "prompts for training were issued while version 0 was evaluated"
    base, last = read_evaluations(seen.run_dir)
    assert (base["version_min"], base["version_max"]) == (0, 0)
    assert (last["version_min"], last["version_max"]) == (STEPS, STEPS)


def test_each_problem_that_is_evaluated_is_progress(valkey, tmp_path, monkeypatch):
    noted: list[int] = []
    monkeypatch.setattr(Recorder, "note_progress", lambda recorder: noted.append(len(recorder.rows)))
    _, seen = run_scripted(valkey, "progress", evaluated(tmp_path), mixed)
    base, last = noted.count(0), noted.count(len(seen.rows))
    assert 1 <= base <= PROBLEMS
    assert last > 1, "that of the last step alone was noted"


def test_samples_lie_by_set_and_step_in_the_order_of_the_rows(valkey, tmp_path):
    _, seen = run_scripted(valkey, "kept", evaluated(tmp_path), mixed)
    lines = (seen.run_dir / "evaluations" / "exam" / "step-000000.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in lines]
    assert [sample["prompt"] for sample in samples] == [f"q{i}" for i in range(PROBLEMS)]
    assert [len(sample["responses"]) for sample in samples] == [SAMPLES] * PROBLEMS
    assert all(sample["grader"] == "exact" and sample["responses"][0]["text"] for sample in samples)
    training = [json.loads(line) for line in (seen.run_dir / "samples.jsonl").read_text().splitlines()]
    assert {sample["set"] for sample in training} == {None}


def test_problems_that_fail_are_counted_and_the_others_measured(valkey, tmp_path):
    spec = evaluated(tmp_path, at_end=False)
    _, seen = run_scripted(valkey, "some", spec, mixed, fail=lambda group_id: group_id == "e0000000001")
    (row,) = read_evaluations(seen.run_dir)
    assert (row["problems"], row["failed_problems"]) == (PROBLEMS - 1, 1)
    assert any("problem problems.jsonl:2 of exam failed: prompt_too_long" in data.get("message", "")
               for kind, data in seen.events if kind == "alert")  # fmt: skip
    assert seen.ledger["trained"] == STEPS * PROMPTS


def test_an_evaluation_whose_problems_all_fail_has_no_measures_and_the_run_goes_on(valkey, tmp_path):
    spec = evaluated(tmp_path, at_end=False)
    _, seen = run_scripted(valkey, "none", spec, mixed, fail=lambda group_id: group_id[0] == "e")
    (row,) = read_evaluations(seen.run_dir)
    assert (row["problems"], row["avg_at_k"], row["failed_problems"]) == (0, None, PROBLEMS)
    assert seen.ledger["trained"] == STEPS * PROMPTS


def test_an_evaluation_whose_last_problems_fail_together_ends_once_and_the_next_follows(valkey, tmp_path):
    """Groups are judged side by side, and the first failure of a set tells of itself before the others are done."""
    spec = evaluated(tmp_path, every_steps=1, prompts_in_flight=PROBLEMS)
    _, seen = run_scripted(valkey, "together", spec, mixed, fail=lambda group_id: group_id[0] == "e", learn_s=0.1)
    steps = [row["step"] for row in read_evaluations(seen.run_dir)]
    assert steps == sorted(set(steps))
    assert (steps[0], steps[-1]) == (0, STEPS)


def test_the_learner_is_there_until_the_last_evaluation_is_over(valkey, tmp_path):
    """A generator whose engine is lost then needs it for the weights."""
    ends: list[bool] = []

    async def react(bus: Bus, kind: str, data: dict) -> None:
        if kind == "evaluation" and data["step"] == STEPS:
            batches = await bus.batches.read(-1, block_s=0.1)
            ends.append(any(batch.end for batch in batches))

    run_scripted(valkey, "learner", evaluated(tmp_path), mixed, react)
    assert ends
    assert not any(ends)


def test_sets_take_turns(valkey, tmp_path):
    spec = evaluated(tmp_path)
    small = tmp_path / "small.jsonl"
    small.write_text('{"prompt": "s0", "answer": "a"}\n{"prompt": "s1", "answer": "a"}\n')
    sets = {**spec.evaluation.sets, "small": spec.evaluation.sets["exam"].model_copy(update={"path": str(small)})}
    spec = spec.model_copy(update={"evaluation": spec.evaluation.model_copy(update={"sets": sets})})
    evaluation = VersionEvaluation(0, open_inputs(spec).evaluation)
    assert "".join(problem.setting.name[0] for problem in evaluation.waiting) == "eeseeese"


def test_a_grader_that_extracts_no_answer_has_no_majority(valkey, tmp_path):
    spec = evaluated(tmp_path, at_end=False)
    code = spec.evaluation.sets["exam"].model_copy(update={"grader": "code"})
    spec = spec.model_copy(update={"evaluation": spec.evaluation.model_copy(update={"sets": {"exam": code}})})
    _, seen = run_scripted(valkey, "code", spec, mixed)
    (row,) = read_evaluations(seen.run_dir)
    assert row["maj_at_k"] is None
    assert row["pass_at_k"]["3"]["value"] == 1


def test_beside_training_only_so_many_prompts_are_in_flight(valkey, tmp_path):
    at_once: list[int] = []

    async def react(bus: Bus, kind: str, data: dict) -> None:
        if kind == "evaluation" and 0 < data["step"] < STEPS:
            at_once.append(sum(group_id[0] == "e" for group_id in await bus.groups.open_ids()))

    spec = evaluated(tmp_path, every_steps=5, prompts_in_flight=2)
    run_scripted(valkey, "few", spec, mixed, react, learn_s=0.3)
    assert at_once
    assert max(at_once) <= 2


def test_an_evaluation_that_falls_due_too_soon_waits_and_an_older_one_is_left_out_in_words(valkey, tmp_path):
    spec = evaluated(tmp_path, every_steps=1, prompts_in_flight=1)
    _, seen = run_scripted(valkey, "often", spec, mixed)
    rows = read_evaluations(seen.run_dir)
    assert rows[0]["step"] == 0
    assert rows[-1]["step"] == STEPS
    assert len(rows) < STEPS + 1
    left_out = [data["message"] for kind, data in seen.events if "is left out" in data.get("message", "")]
    assert len(left_out) == STEPS + 1 - len(rows)
    assert "raise evaluation.every_steps or prompts_in_flight" in left_out[0]


def test_prompts_of_an_evaluation_set_are_left_out_of_the_training(valkey, tmp_path):
    """The set asks p0 to p5, which the 23 rows of the training hold, too."""
    workers, _ = run_scripted(valkey, "excluded", evaluated(tmp_path, prefix="p"), mixed)
    epochs = {epoch for group_id, (epoch, _) in workers.rows_of.items() if group_id[0] == "g"}
    cursors = {cursor for group_id, (_, cursor) in workers.rows_of.items() if group_id[0] == "g"}
    assert max(cursors) < 23 - PROBLEMS
    assert len(epochs) > 1


def test_data_that_evaluation_sets_use_up_is_refused_in_words(valkey, tmp_path):
    spec = evaluated(tmp_path)
    spec = spec.model_copy(update={"data": spec.data.model_copy(update={"path": spec.evaluation.sets["exam"].path})})
    with pytest.raises(DatasetError, match=r"evaluation\.exclude_from_training to false"):
        run_scripted(valkey, "used-up", spec, mixed)


RULE = {"set": "exam", "patience": 1}


def test_evaluations_that_do_not_rise_end_the_run_as_on_its_last_step(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    spec = evaluated(tmp_path, every_steps=1, prompts_in_flight=6, early_stopping=RULE)
    workers, seen = run_scripted(valkey, "patience", spec, mixed, learn_s=0.5)
    ending = seen.ending
    assert ending is not None
    assert ending.state == "succeeded"
    assert ending.message.startswith("exam has not risen above avg@3 = 0.6667 of step 0 up to step ")
    # What was cut by then is trained, and its last version evaluated.
    assert 1 <= ending.steps < STEPS
    assert len(workers.batches) == ending.steps == len(seen.rows)
    rows = read_evaluations(seen.run_dir)
    assert rows[-1]["step"] == ending.steps
    assert (rows[-1]["version_min"], rows[-1]["version_max"]) == (ending.steps, ending.steps)
    assert seen.open == []
    assert sum(seen.ledger.values()) == seen.issued
    assert seen.states == ["running", "draining"]
    # Who goes on from the same evaluations, with nothing decided, decides the same.
    assert reason_to_stop(spec.evaluation.early_stopping, rows) == ending.message


def test_a_base_model_that_is_good_enough_is_not_trained(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    spec = evaluated(tmp_path, every_steps=5, early_stopping={"set": "exam", "threshold": 0.6})
    workers, seen = run_scripted(valkey, "good", spec, mixed)
    assert seen.ending is not None
    assert (seen.ending.state, seen.ending.steps) == ("succeeded", 0)
    assert "exam has reached avg@3 = 0.6667 at step 0" in seen.ending.message
    assert workers.batches == []
    assert [row["step"] for row in read_evaluations(seen.run_dir)] == [0]
    assert seen.open == []
