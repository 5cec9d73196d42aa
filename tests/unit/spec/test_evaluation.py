"""The section `evaluation`, and runs that only evaluate."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from dapo.spec import RunSpec, dump_yaml, parse_spec
from dapo.spec.load import missing_inputs
from dapo.spec.tree.evaluation import DAPO_TEMPLATE
from dapo.spec.workloads import plan_workloads
from tests.support.spec import spec, tree


def with_sets(**sets: dict[str, Any]) -> RunSpec:
    return spec(evaluation__sets=sets)


def refused(**settings: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        RunSpec.model_validate(tree(**settings))
    return str(caught.value)


def test_the_protocol_of_aime_is_the_papers_and_gives_way_to_what_is_written() -> None:
    made = with_sets(aime={"path": "aime.jsonl", "protocol": "aime-2024"})
    one = made.evaluation.sets["aime"]
    assert (one.samples, one.grader, one.chat, one.prompt_template) == (32, "math_dapo", True, DAPO_TEMPLATE)
    assert (made.evaluation.temperature, made.evaluation.top_p) == (1.0, 0.7)
    changed = with_sets(aime={"path": "aime.jsonl", "protocol": "aime-2024", "samples": 8, "grader": "math_verify"})
    assert (changed.evaluation.sets["aime"].samples, changed.evaluation.sets["aime"].grader) == (8, "math_verify")


@pytest.mark.parametrize("zero", [0, 0.0])
def test_temperature_0_is_greedy_and_asks_once(zero: float) -> None:
    made = spec(evaluation={"temperature": zero, "sets": {"exam": {"path": "a.jsonl"}}})
    assert (made.evaluation.temperature, made.evaluation.samples, made.evaluation.top_p) == (0.0, 1, 1.0)
    assert parse_spec(dump_yaml(made)).evaluation.samples == 1


def test_sets_ask_as_the_training_does_unless_they_or_their_protocol_say_otherwise() -> None:
    sets = {
        "plain": {"path": "a.jsonl"},
        "own": {"path": "b.jsonl", "prompt_template": "Q {prompt}"},
        "aime": {"path": "c.jsonl", "protocol": "aime-2024"},
    }
    made = spec(data__prompt_template="T {prompt}", data__chat=True, evaluation__sets=sets)
    templates = {name: one.prompt_template for name, one in made.evaluation.sets.items()}
    assert templates == {"plain": "T {prompt}", "own": "Q {prompt}", "aime": DAPO_TEMPLATE}
    assert made.evaluation.sets["plain"].chat


def test_a_resolved_spec_reads_back_the_same() -> None:
    made = with_sets(aime={"path": "aime.jsonl", "protocol": "aime-2024"}, other={"path": "b.jsonl", "samples": 2})
    text = dump_yaml(parse_spec(dump_yaml(made)))
    assert dump_yaml(parse_spec(text)) == text


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"evaluation__every_steps": 5}, "has no effect without prompts to evaluate on"),
        ({"evaluation__sets": {"a": {"path": "a.jsonl", "weight": 2.0}}}, "sets.a.weight = 2.0: has no effect"),
        ({"evaluation__sets": {"a": {"path": "a.jsonl", "prompt_template": "x"}}}, "holds no `{prompt}`"),
        ({"evaluation__sets": {"a": {"path": "a.jsonl", "grader": "math_very"}}}, "no grader is called 'math_very'"),
        ({"evaluation__sets": {"../a": {"path": "a.jsonl"}}}, "evaluation.sets"),
        (
            {"evaluation__sets": {"held-out": {"path": "a.jsonl"}}, "data__held_out_share": 0.1},
            "has the name of what data.held_out_share keeps back",
        ),
        ({"evaluation__max_response_tokens": 10**6}, "the generators hold sequences for sampling.max_response_tokens"),
        (
            {"evaluation": {"temperature": 0, "samples": 4}},
            "evaluation.samples = 4: evaluation.temperature = 0 takes the likeliest token each time, so all of",
        ),
        (
            {"evaluation": {"temperature": 0, "sets": {"aime": {"path": "a.jsonl", "protocol": "aime-2024"}}}},
            "evaluation.sets.aime.samples = 32: evaluation.temperature = 0 takes the likeliest token each time",
        ),
        ({"evaluation": {"temperature": 0, "top_p": 0.7}}, "evaluation.top_p = 0.7: has no effect"),
        ({"evaluation__dedicated_generator": True}, "has no effect without prompts to evaluate on"),
        ({"training__steps": 0}, "there is nothing to do: no training, and no evaluation.sets"),
    ],
)
def test_what_does_not_go_together_is_refused_in_words(settings: dict[str, Any], says: str) -> None:
    assert says in refused(**settings)


def test_a_run_without_steps_starts_no_learner() -> None:
    made = spec(training__steps=0, evaluation__sets={"a": {"path": "a.jsonl"}})
    assert {workload.role for workload in plan_workloads(made)} == {"generator", "verifier"}


def test_a_dedicated_generator_is_one_more_and_takes_a_share_of_gpus() -> None:
    made = spec(evaluation__dedicated_generator=True, evaluation__sets={"a": {"path": "a.jsonl"}})
    generators = [workload for workload in plan_workloads(made) if workload.role == "generator"]
    assert [workload.environment.get("DAPO_EVALUATES") for workload in generators] == [None, "1"]
    assert [(workload.replicas, workload.resources.gpus) for workload in generators] == [(1, 1), (1, 1)]


def test_a_set_that_is_not_there_is_named(tmp_path: Path) -> None:
    made = with_sets(exam={"path": str(tmp_path / "absent.jsonl")})
    assert "evaluation.sets.exam.path" in {problem.field for problem in missing_inputs(made)}


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"threshold": 0.5}, "evaluation.early_stopping.threshold = 0.5: has no effect without a set"),
        (
            {"set": "quiz", "patience": 3},
            "early_stopping.set = quiz: is no set that is evaluated. Those there are: exam",
        ),
        ({"set": "exam"}, "ends no run by itself. Give evaluation.early_stopping.threshold, .patience or both"),
        ({"set": "exam", "threshold": 0.5, "min_delta": 0.1}, "min_delta = 0.1: has no effect without patience"),
        ({"set": "exam", "patience": 0}, "evaluation.early_stopping.patience"),
    ],
)
def test_a_rule_for_an_early_end_that_would_do_nothing_is_refused(rule: dict[str, Any], says: str) -> None:
    sets = {"exam": {"path": "a.jsonl"}}
    assert says in refused(evaluation={"sets": sets, "every_steps": 10, "early_stopping": rule})


def test_a_rule_for_an_early_end_wants_evaluations_on_the_way() -> None:
    rule = {"set": "held-out", "threshold": 0.9}
    assert "Give evaluation.every_steps" in refused(evaluation={"early_stopping": rule}, data__held_out_share=0.1)
    spec(evaluation={"early_stopping": rule, "every_steps": 5}, data__held_out_share=0.1)


def test_the_best_checkpoint_is_chosen_by_a_set_that_is_evaluated_where_checkpoints_are() -> None:
    sets = {"exam": {"path": "a.jsonl"}}
    assert "is no set that is evaluated. Give evaluation.sets" in refused(checkpoint__keep_best="exam")
    assert "Those there are: exam, held-out" in refused(
        evaluation__sets=sets, data__held_out_share=0.1, checkpoint__keep_best="quiz"
    )
    for period in (None, 7):
        said = refused(evaluation__sets=sets, evaluation__every_steps=period, checkpoint__keep_best="exam")
        assert "Set evaluation.every_steps to checkpoint.every_steps = 5 or a multiple of it" in said
    spec(evaluation__sets=sets, evaluation__every_steps=10, checkpoint__keep_best="exam")
