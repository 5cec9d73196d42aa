"""What a run needs, by hand."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dapo.sizing import Assumptions, NotMeasured, explain, group_keep_rate, measured, size
from dapo.spec.budget import payload_budget
from dapo.spec.preview import format_preview
from dapo.spec.run import RunSpec
from tests.support.spec import spec

ASSUMED = Assumptions(0.5, 5000.0, 2000.0, 1000.0, 32_000_000_000)


def large(**fields: Any) -> RunSpec:
    """8192 responses a step; 8 GPUs generate, 32 train."""
    shape = {
        "model__dtype": "bfloat16",
        "sampling__expected_response_tokens": 5000,
        "resources__generator": {"replicas": 4, "tensor_parallel": 2},
        "resources__learner": {"ranks": 32},
        "resources__redis": {"memory_mib": 10_000_000},
        "training__zero_stage": 3,
    }
    return spec(**(shape | fields))


def test_a_large_run_by_hand() -> None:
    """8192 · 5000 = 40.96 M tokens are trained on, twice as many generated. 32 ranks of 1000 tokens a second take
    1280 s, 8 GPUs of 2000 take 5120 s: 16 generators would keep up, 15 are so within a tenth of a step. 8 GPUs · 5120 s
    are as much work as 32 · 1280: half of the GPUs should generate. 32 · 10⁹ parameters are 2 bytes each on 2 GPUs,
    and in training 2 + 4 + 12 bytes on 32 ranks."""
    found = size(large(), ASSUMED)
    assert (found.gpus, found.responses) == (4 * 2 + 32, 8192)
    assert (found.generator_bytes, found.learner_bytes) == (32_000_000_000, 18_000_000_000)
    pace = found.pace
    assert pace is not None
    assert (pace.training_s, pace.generation_s, pace.step_s) == (1280, 5120, 5120)
    assert (pace.balance, pace.generators, pace.share) == (16, 15, 0.5)
    assert pace.limit == "generation: the learner waits 75 % of a step"


def test_what_limits_is_said_of_the_other_side_too() -> None:
    made = large(resources__generator={"replicas": 32, "tensor_parallel": 2})
    pace = size(made, ASSUMED).pace
    assert pace is not None
    assert (pace.step_s, pace.limit) == (1280, "training: generators are idle for 50 % of a step")
    in_turn = size(large(asynchrony__max_staleness=0), ASSUMED).pace
    assert in_turn is not None
    assert (in_turn.step_s, in_turn.balance) == (6400, 16)
    assert "the learner waits 80 % of a step" in in_turn.limit


@pytest.mark.parametrize(
    ("fields", "bytes_each"),
    [
        ({"training__zero_stage": 1}, 2 + 4 + 12 / 32),
        ({"training__zero_stage": 2}, 2 + 4 / 32 + 12 / 32),
        ({"training__zero_stage": 1, "training__offload": "optimizer"}, 2 + 4),
        ({"training__offload": "parameters"}, 4 / 32),
        ({"training__zero_stage": 0, "model__dtype": "float32"}, 4 + 4 + 8),
        ({"training__zero_stage": 1, "lora__rank": 16}, 2),
        ({"algorithm__measure_kl": True}, 18 / 32 + 2),
        ({"algorithm__preset": "ppo"}, 2 * 18 / 32),
    ],
)
def test_what_stays_on_a_learner_rank(fields: dict[str, Any], bytes_each: float) -> None:
    assert size(large(**fields), ASSUMED).learner_bytes == round(32_000_000_000 * bytes_each)


def test_redis_is_the_budget_with_what_is_assumed() -> None:
    found = size(large(), ASSUMED._replace(keep_rate=0.25, response_tokens=2500.5))
    same = large(sampling__expected_response_tokens=2501, asynchrony__expected_keep_rate=0.25)
    assert found.payloads == payload_budget(same)


def test_the_keep_rate_of_a_group() -> None:
    assert group_keep_rate(0.5, 2) == 0.5
    assert group_keep_rate(0.5, 16) == pytest.approx(1 - 2 / 2**16)
    assert group_keep_rate(0.1, 4) == pytest.approx(1 - 0.0001 - 0.6561)


@given(st.floats(0, 1), st.integers(2, 64))
def test_the_keep_rate_is_a_share_and_that_of_the_opposite_accuracy(accuracy: float, group: int) -> None:
    rate = group_keep_rate(accuracy, group)
    assert -1e-9 <= rate <= 1
    assert rate == pytest.approx(group_keep_rate(1 - accuracy, group), abs=1e-9)
    assert rate <= group_keep_rate(accuracy, group + 1) + 1e-9


def test_speeds_are_read_off_a_run() -> None:
    """Three generators of two GPUs, busy for half of the time, make 6000 tokens a second: 2000 a GPU. 32 ranks train on
    320000 tokens in 40 · (1 − 0.75) = 10 s: 1000 each."""
    row = {
        "keep_rate": 0.4,
        "response_length_mean": 900.0,
        "generated_tokens_per_s": 6000.0,
        "generators": 3,
        "generator_idle": 0.5,
        "trained_tokens": 320_000.0,
        "step_s": 40.0,
        "learner_idle": 0.75,
    }
    odd = row | {"generated_tokens_per_s": 60.0, "keep_rate": 0.9}
    assert measured([row, odd, row, row | {"generators": None}, row | {"step_s": math.nan}], large()) == Assumptions(
        0.4, 900.0, 2000.0, 1000.0
    )
    with pytest.raises(NotMeasured):
        measured([row | {"generators": None}], large())


def test_the_words_say_what_is_not_known() -> None:
    text = format_preview(explain(size(large(), Assumptions(0.5, 5000.0)), large()))
    assert "not known: give --parameters" in text
    assert "not known: give --generated-per-s and --trained-per-s, or --from" in text
    known = format_preview(explain(size(large(), ASSUMED), large()))
    assert "15 (n* = 16.0); the spec has 4" in known
    assert "29.8 GiB of weights; its KV pool" in known
