"""Values that do not go together are refused with the field, its value and the cure."""

import dataclasses
import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dapo.algo.text_statistics import has_reflection
from dapo.spec import RunSpec, SpecError, parse_spec
from dapo.spec.budget import MIB, format_bytes, payload_budget
from dapo.spec.checks.all import find_warnings
from dapo.spec.yaml_text import write_yaml
from tests.support.spec import spec, tree

REFUSED: list[tuple[dict[str, Any], str, list[str]]] = [
    ({"sampling__top_p": 0.7}, "sampling.top_p = 0.7", ["renormalises", "Set 1"]),
    ({"sampling__top_p": 1.5}, "sampling.top_p = 1.5", ["Set 1"]),
    ({"sampling__top_k": 50}, "sampling.top_k = 50", ["renormalises", "Set -1"]),
    (
        {"sampling__expected_response_tokens": 30000, "resources__redis__memory_mib": 100000},
        "sampling.expected_response_tokens = 30000",
        ["at most 20480"],
    ),
    ({"sampling__group_size": 1}, "sampling.group_size = 1", ["dynamic_sampling", "advantage_std", "at least 2"]),
    (
        {"resources__generator": {"replicas": 3, "autoscale": {"min": 3, "max": 2}}},
        "resources.generator.autoscale.min = 3",
        ["Set at most 2"],
    ),
    (
        {"resources__generator": {"autoscale": {"min": 2, "max": 4}}},
        "resources.generator.replicas = 1",
        ["min = 2 and max = 4", "Set 2"],
    ),
    (
        {"resources__generator": {"replicas": 9, "autoscale": {"min": 2, "max": 4}}},
        "resources.generator.replicas = 9",
        ["Set 4"],
    ),
    ({"resources__generator": {"autoscale": {"min": 2}}}, "resources.generator.autoscale.min = 2", ["max = null"]),
    (
        {"resources__generator": {"replicas": 3, "max_replicas": 2}},
        "resources.generator.max_replicas = 2",
        ["resources.generator.replicas", "at least 3"],
    ),
    (
        {"resources__generator": {"max_replicas": 2, "autoscale": {"max": 4}}},
        "resources.generator.max_replicas = 2",
        ["autoscale.max"],
    ),
    (
        {"sampling__group_size": 1, "algorithm__dynamic_sampling": False, "algorithm__advantage_std": False},
        "sampling.group_size = 1",
        ["group of one", "at least 2"],
    ),
    (
        {"training__prompts_per_step": 5, "sampling__group_size": 2, "training__updates_per_step": 4},
        "training.updates_per_step = 4",
        ["5 × 2 = 10", "Set 2"],
    ),
    ({"training__prompts_per_step": 1, "sampling__group_size": 2}, "training.updates_per_step = 16", ["Set 2"]),
    (
        {"sampling__max_response_tokens": 1000, "reward__overlong_buffer_tokens": 1000},
        "reward.overlong_buffer_tokens = 1000",
        ["max_response_tokens = 1000", "soft_overlong_punishment off"],
    ),
    ({"reward__correct": 0.0, "reward__incorrect": 0.0}, "reward.correct = 0.0", ["reward.incorrect = 0.0"]),
    ({"algorithm__importance_cap": 5.0}, "algorithm.importance_cap = 5.0", ["decoupled"]),
    ({"algorithm__importance_mode": "mask"}, "algorithm.importance_mode = mask", ["decoupled"]),
    (
        {
            "algorithm__importance_mode": "mask",
            "algorithm__proximal_policy": "decoupled",
            "algorithm__importance_cap": None,
        },
        "algorithm.importance_mode = mask",
        ["importance_cap = null"],
    ),
    (
        {"algorithm__dynamic_sampling": False, "asynchrony__expected_keep_rate": 0.25},
        "asynchrony.expected_keep_rate = 0.25",
        ["dynamic_sampling = false", "no effect"],
    ),
    ({"algorithm__gae_gamma": 0.9}, "algorithm.gae_gamma = 0.9", ["advantage_estimator = group", "gae"]),
    ({"algorithm__gae_lambda": 0.9}, "algorithm.gae_lambda = 0.9", ["advantage_estimator = group"]),
    ({"algorithm__advantage_whitening": True}, "algorithm.advantage_whitening = true", ["preset: ppo"]),
    ({"algorithm__kl_placement": "reward"}, "algorithm.kl_placement = reward", ["advantage_estimator = group"]),
    ({"algorithm__reference_refresh_steps": 5}, "algorithm.reference_refresh_steps = 5", ["measure_kl"]),
    ({"model__head_dtype": "float32"}, "model.head_dtype = float32", ["model.dtype: bfloat16"]),
    (
        {"weight_sync__sender_share": 0.5},
        "weight_sync.sender_share = 0.5",
        ["resources.learner.ranks = 1", "resources.learner.ranks: 2 or more"],
    ),
    ({"weight_sync__drain_s": 60.0}, "weight_sync.drain_s = 60.0", ["in_flight = continue", "in_flight: drain"]),
    ({"optimizer__final_rate": 0.1}, "optimizer.final_rate = 0.1", ["schedule: linear or cosine"]),
    ({"value__clip": None}, "value.clip = null", ["advantage_estimator = group"]),
    ({"value__learning_rate": 1e-3}, "value.learning_rate = 0.001", ["no value network"]),
    ({"algorithm__preset": "ppo", "algorithm__advantage_std": False}, "algorithm.advantage_std = false", ["its group"]),
    (
        {"algorithm__preset": "ppo", "algorithm__kl_placement": "reward", "algorithm__measure_kl": True},
        "algorithm.kl_placement = reward",
        ["kl_coefficient = 0"],
    ),
    (
        {
            "algorithm__preset": "ppo",
            "algorithm__overlong_filtering": True,
            "algorithm__truncated_reward": "incorrect",
        },
        "algorithm.truncated_reward = incorrect",
        ["overlong_filtering: false"],
    ),
    (
        {"algorithm__preset": "grpo", "algorithm__reference_refresh_steps": 100},
        "algorithm.reference_refresh_steps = 100",
        ["training.steps = 100"],
    ),
    (
        {"optimizer__schedule": "cosine", "optimizer__warmup_steps": 100},
        "optimizer.schedule = cosine",
        ["warmup_steps = 100"],
    ),
    ({"lora__alpha": 8.0}, "lora.alpha = 8.0", ["lora.rank = null"]),
    ({"lora__rank": 4, "lora__target_modules": "q_proj,"}, "lora.target_modules = q_proj,", ["an empty name"]),
    (
        {"algorithm__preset": "ppo", "value__warmup_steps": 100},
        "value.warmup_steps = 100",
        ["training.steps = 100", "Set fewer than 100"],
    ),
    (
        {"algorithm__preset": "ppo", "algorithm__dynamic_sampling": True},
        "sampling.group_size = 1",
        ["dynamic_sampling would filter every group"],
    ),
    (
        {"weight_sync__backend": "nccl", "resources__learner__device": "cpu"},
        "weight_sync.backend = nccl",
        ["resources.learner.device = cpu", "gloo"],
    ),
    (
        {"resources__generator__device": "cpu", "resources__generator__tensor_parallel": 2},
        "resources.generator.tensor_parallel = 2",
        ["device = cpu", "Set 1"],
    ),
    (
        {"resources__generator__max_total_tokens": 22543},
        "resources.generator.max_total_tokens = 22543",
        ["2048 + 20480 + 16", "Set at least 22544"],
    ),
    ({"data__prompt_template": "Solve it."}, "data.prompt_template = Solve it.", ["{prompt}"]),
    ({"data__path": "/data/d.csv"}, "data.path = /data/d.csv", [".jsonl or .parquet", "folder", "Convert"]),
    ({"data__path": "data/d.json"}, "data.path = data/d.json", [".jsonl or .parquet"]),
    ({"data__path": "a\0b.jsonl"}, "data.path = a\\0b.jsonl", ["NUL"]),
    ({"data__path": None}, "data.path", ["is required, or data.sources"]),
    ({"data__sources": {"a": {"path": "d.jsonl"}}}, "data.path = /data/d.jsonl", ["beside data.sources"]),
    (
        {"data__path": None, "data__sources": {"a": {"path": "d.txt"}}},
        "data.sources.a.path = d.txt",
        [".jsonl or .parquet"],
    ),
    (
        {"data__path": None, "data__prompt_template": "x", "data__sources": {"a": {"path": "d", "chat": True}}},
        "data.sources.a.prompt_template = x",
        ["{prompt}"],
    ),
    ({"model__path": "a\0b"}, "model.path = a\\0b", ["NUL"]),
    (
        {"metrics__reflection_patterns": ["wait", "hm(m"]},
        "metrics.reflection_patterns = hm(m",
        ["no regular expression", "position 2", "hm\\(m"],
    ),
    ({"metrics__reflection_patterns": ["(wait)?"]}, "metrics.reflection_patterns = (wait)?", ["matches every", "out"]),
    (
        {"metrics__reflection_patterns": ["a{99999999999}"]},
        "metrics.reflection_patterns = a{99999999999}",
        ["no regular expression"],
    ),
]


@pytest.mark.parametrize(("fields", "names", "says"), REFUSED, ids=[names for _, names, _ in REFUSED])
def test_refused_with_field_value_and_cure(fields: dict[str, Any], names: str, says: list[str]) -> None:
    with pytest.raises(SpecError) as refusal:
        parse_spec(write_yaml(tree(**fields)))
    [line] = str(refusal.value).splitlines()
    assert line.startswith(f"{names}: ")
    assert all(part in line for part in says), line


@pytest.mark.parametrize(
    "fields",
    [
        {"reward__overlong_buffer_tokens": 20480, "algorithm__soft_overlong_punishment": False},
        {"algorithm__importance_cap": 5.0, "algorithm__proximal_policy": "decoupled"},
        {"algorithm__importance_cap": None},
        {"algorithm__preset": "ppo"},
        {"algorithm__preset": "grpo", "algorithm__reference_refresh_steps": 5},
        {"weight_sync__backend": "nccl"},
        {"resources__generator__max_total_tokens": 22544},
        {"data__path": "/data/D.PARQUET"},
        {"training__updates_per_step": 8192},
        {"metrics__reflection_patterns": []},
        {"metrics__reflection_patterns": [r"(?s)so.*wait", r"(a)\1", r"hm\(m"]},
    ],
)
def test_their_neighbours_pass(fields: dict[str, Any]) -> None:
    spec(**fields)


@given(st.lists(st.text(), max_size=3))
def test_any_reflection_patterns_are_refused_by_name_or_can_be_searched_for(patterns: list[str]) -> None:
    refusal = ""
    try:
        spec(metrics__reflection_patterns=patterns)
    except ValidationError as error:
        refusal = str(error)
    assert "metrics.reflection_patterns" in refusal or not has_reflection("", patterns)


def test_all_problems_come_at_once_and_in_machine_form() -> None:
    with pytest.raises(SpecError) as refusal:
        parse_spec(write_yaml(tree(sampling__top_p=0.7, sampling__top_k=5, data__prompt_template="x")))
    problems = refusal.value.problems
    fields = [problem.field for problem in problems]
    assert fields == ["data.prompt_template", "sampling.top_p", "sampling.top_k"]
    assert set(dataclasses.asdict(problems[0])) == {"field", "value", "message"}


def test_pydantic_error_names_the_field_too() -> None:
    with pytest.raises(ValidationError, match=r"sampling\.top_p = 0\.7"):
        RunSpec.model_validate(tree(sampling__top_p=0.7))


def test_budget_of_the_default_spec_by_hand() -> None:
    budget = payload_budget(spec())
    completion = (2048 + 20480) * 4 + 20480 * 4 + 20480 * 5
    assert budget.completion == completion
    assert budget.needed == completion * 512 * 16 * (2 * 5 + (1 + 1) * 2)
    plain = payload_budget(spec(algorithm__dynamic_sampling=False))
    assert plain.needed == completion * 512 * 16 * (2 * 5 + 1 + 1)


def test_the_budget_has_room_for_an_evaluation_beside_the_training() -> None:
    """A quarter of a batch's prompts, each as often as the set that samples most; base model and last version alone do
    not count."""
    alone = payload_budget(spec())
    sets = {"few": {"path": "a.jsonl"}, "many": {"path": "b.jsonl", "samples": 32}}
    assert payload_budget(spec(evaluation__sets=sets)) == alone
    fields = {"evaluation__sets": sets, "evaluation__every_steps": 5}
    budget = payload_budget(spec(**fields))
    assert (budget.evaluated, budget.needed - alone.needed) == (128 * 32, 128 * 32 * alone.completion)
    assert f"+ {format_bytes(budget.evaluation)} (4096 responses of an evaluation in flight" in budget.explain()
    fewer = payload_budget(spec(**fields, evaluation__prompts_in_flight=3, evaluation__max_response_tokens=100))
    assert fewer.evaluation == 3 * 32 * (2048 * 4 + 100 * 13)
    apart = payload_budget(spec(**fields, evaluation__dedicated_generator=True))
    assert apart.evaluated == 1024, "as many responses as one generator keeps in flight"
    held_out = payload_budget(spec(data__held_out_share=0.1, evaluation__every_steps=5))
    assert held_out.evaluated == 128 * 4

    enough = -(-budget.needed // MIB)
    assert payload_budget(spec(**fields, resources__redis__memory_mib=enough)).fits
    with pytest.raises(ValidationError, match=rf"Set at least {enough}\b"):
        spec(**fields, resources__redis__memory_mib=enough - 1)


def test_budget_uses_the_expected_length() -> None:
    assert payload_budget(spec(sampling__expected_response_tokens=1000)).response_tokens == 1000


@given(
    prompts=st.integers(1, 600),
    every=st.integers(1, 40),
    keep=st.integers(1, 4),
    stale=st.integers(0, 8),
    length=st.integers(2, 20000),
    memory=st.integers(16, 60000),
    keep_rate=st.fractions(min_value=Fraction(1, 20), max_value=1, max_denominator=20),
)
def test_a_spec_passes_exactly_when_its_payloads_fit(
    prompts: int, every: int, keep: int, stale: int, length: int, memory: int, keep_rate: Fraction
) -> None:
    fields = {
        "training__prompts_per_step": prompts,
        "training__updates_per_step": 1,
        "checkpoint__every_steps": every,
        "checkpoint__keep_last": keep,
        "asynchrony__max_staleness": stale,
        "asynchrony__expected_keep_rate": float(keep_rate),
        "sampling__max_response_tokens": length,
        "reward__overlong_buffer_tokens": 1,
    }
    ahead = (stale + 1) / Fraction(float(keep_rate))
    needed = math.ceil((2048 * 4 + length * 13) * prompts * 16 * (min(2, keep) * every + ahead))
    enough = -(-needed // MIB)
    if needed <= memory * MIB:
        spec(**fields, resources__redis__memory_mib=memory)
    else:
        with pytest.raises(ValidationError, match=rf"(?s)memory_mib = {memory}: .*Set at least {enough}\b"):
            spec(**fields, resources__redis__memory_mib=memory)
        assert payload_budget(spec(**fields, resources__redis__memory_mib=enough)).fits


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"algorithm__clip_low": 0.3}, "algorithm.clip_low"),
        ({"algorithm__overlong_filtering": True}, "algorithm.overlong_filtering"),
        ({"optimizer__warmup_steps": 101}, "optimizer.warmup_steps"),
        ({"resources__learner__ranks": 513}, "resources.learner.ranks"),
        ({"training__zero_stage": 2}, "training.zero_stage"),
        ({"model__dtype": "bfloat16", "resources__learner__device": "cpu"}, "model.dtype"),
    ],
)
def test_warnings_are_not_fatal(fields: dict[str, Any], field: str) -> None:
    assert [warning.field for warning in find_warnings(spec(**fields))] == [field]


def test_default_spec_has_no_warnings() -> None:
    assert find_warnings(spec()) == []


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (2**20, "1.0 MiB"), (2**33, "8.0 GiB")]
)
def test_format_bytes(count: int, text: str) -> None:
    assert format_bytes(count) == text
