"""The tree itself: defaults, presets, frozen values, and that it stays light."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from dapo.spec import PRESETS, AlgorithmSpec, RunSpec
from dapo.spec.tree.algorithm import GROUP_SIZES
from dapo.spec.tree.graders import MathDapoGrader
from tests.support.spec import MINIMAL, spec


def test_defaults_alone_make_a_valid_spec() -> None:
    defaults = RunSpec.model_validate(MINIMAL)
    assert defaults.algorithm == AlgorithmSpec()
    assert (defaults.training.prompts_per_step, defaults.sampling.group_size) == (512, 16)


def test_what_is_compared_with_verl_is_graded_by_the_papers_exact_rule() -> None:
    parity = {**MINIMAL, "algorithm": {"preset": "verl-parity"}}
    own = {"graders": {"math_dapo": {"type": "math_dapo"}}}
    assert RunSpec.model_validate(parity).named_graders["math_dapo"] == MathDapoGrader(literal=True)
    assert RunSpec.model_validate({**parity, "reward": own}).named_graders["math_dapo"] == MathDapoGrader()
    assert RunSpec.model_validate(MINIMAL).named_graders["math_dapo"] == MathDapoGrader()


def test_preset_dapo_is_the_paper() -> None:
    dapo = AlgorithmSpec()
    assert (dapo.clip_low, dapo.clip_high, dapo.dual_clip) == (0.2, 0.28, None)
    assert (dapo.loss_aggregation, dapo.kl_coefficient, dapo.entropy_coefficient) == ("token-mean", 0, 0)
    assert dapo.dynamic_sampling
    assert dapo.soft_overlong_punishment
    assert not dapo.overlong_filtering


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_sets_its_fields_and_no_other(preset: str) -> None:
    changed = AlgorithmSpec.model_validate({"preset": preset}).model_dump(exclude={"preset"})
    plain = AlgorithmSpec().model_dump(exclude={"preset"})
    assert changed == {**plain, **PRESETS[preset]}


@pytest.mark.parametrize(("preset", "size"), GROUP_SIZES.items())
def test_the_group_size_follows_the_preset_unless_it_is_written(preset: str, size: int) -> None:
    assert spec(algorithm__preset=preset).sampling.group_size == size
    assert spec(algorithm__preset=preset, sampling__group_size=4).sampling.group_size == 4


def test_written_field_wins_over_its_preset() -> None:
    algorithm = AlgorithmSpec.model_validate({"preset": "grpo", "clip_high": 0.3})
    assert algorithm.clip_high == 0.3
    assert algorithm.loss_aggregation == "seq-mean-token-mean"


def test_resolved_preset_survives_json() -> None:
    grpo = spec(algorithm__preset="grpo", algorithm__clip_high=0.28)
    assert RunSpec.model_validate_json(grpo.model_dump_json()) == grpo


def test_values_do_not_change_after_validation() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        spec().training.steps = 3  # type: ignore[misc]


def test_empty_section_takes_its_defaults() -> None:
    assert spec(sampling=None, algorithm=None) == spec()


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_must_be_finite(number: float) -> None:
    with pytest.raises(ValidationError):
        spec(reward__correct=number)
    with pytest.raises(ValidationError):
        spec(optimizer__learning_rate=number)


def test_importing_the_spec_loads_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "sglang", "deepspeed", "redis", "grpc", "numpy", "fastapi", "services"}
    program = "import sys, dapo.spec, dapo.spec.preview, dapo.spec.reference; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "dapo.spec.run" in loaded
    assert heavy.isdisjoint(loaded)
