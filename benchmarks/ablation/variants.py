"""What is compared: tasks, variants of the algorithm and the specs that they make."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dapo.spec import RunSpec, load_spec
from dapo.spec.tree.algorithm import GROUP_SIZES

_EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
RUNGS: dict[str, Path] = {path.stem: path for path in sorted((_EXAMPLES / "ladder").glob("*.yaml"))}
_DAPO = list(RUNGS)[-1]
ALGORITHMS = "algorithms"
_RESPONSES = 512
"""Responses in a train batch, whatever the group size."""
_UPDATES = 4
"""Optimizer updates of a step."""
MEMORY_STEPS, MEMORY_RESPONSES = 3, 64

_TAKEN_AWAY = {
    "clip-higher": "algorithm.clip_high=0.2",
    "soft-overlong": "algorithm.soft_overlong_punishment=false",
    "token-level-loss": "algorithm.loss_aggregation=seq-mean-token-mean",
    "dynamic-sampling": "algorithm.dynamic_sampling=false",
}
"""What leaves DAPO without one of its techniques."""


class Task(NamedTuple):
    toy: tuple[str, ...]
    """Arguments of `python -m services.learner.starters.toy` for its base model."""
    settings: tuple[str, ...]
    step_s: float
    """Rough duration of a step on two cores, for the estimate."""


TASKS = {
    # Five letters reversed: 6 tokens of at most 8, so next to nothing is truncated.
    "reverse": Task((), (), 1.0),
    # The same after six pauses in the mean, which the policy is free to drop: at first 18 % would need over 16 tokens.
    "pauses": Task(
        ("--pauses", "6", "--limit", "16"), ("sampling.max_response_tokens=16", "reward.overlong_buffer_tokens=4"), 1.5
    ),
}


class Variant(NamedTuple):
    key: str
    """Its folder's name; variants with the same key share their runs."""
    base: Path
    settings: tuple[str, ...]


class Comparison(NamedTuple):
    title: str
    variants: dict[str, Variant]
    """By the label that tables and pictures show."""


def rung(name: str) -> Variant:
    return Variant(name, RUNGS[name], ())


def without(technique: str) -> Variant:
    return Variant(f"without-{technique}", RUNGS[_DAPO], (_TAKEN_AWAY[technique],))


def algorithm(preset: str) -> Variant:
    """A preset with its own group size; `dapo` is the ladder's last rung."""
    if preset == "dapo":
        return rung(_DAPO)
    settings = (f"algorithm.preset={preset}", f"sampling.group_size={GROUP_SIZES[preset]}")
    # The value network starts with a random head, and reaches useful values within a short run at this rate.
    critic = ("value.learning_rate=3e-4",) if preset == "ppo" else ()
    return Variant(preset, _EXAMPLES / "reverse.yaml", settings + critic)


def comparisons(rungs: Sequence[str], leave_one_out: bool, algorithms: Sequence[str]) -> list[Comparison]:
    found = []
    if rungs:
        found.append(Comparison("ladder", {name: rung(name) for name in rungs}))
    if leave_one_out:
        left = {f"without {name}": without(name) for name in _TAKEN_AWAY}
        found.append(Comparison("leave-one-out", {"dapo": rung(_DAPO), **left}))
    if algorithms:
        found.append(Comparison(ALGORITHMS, {name: algorithm(name) for name in algorithms}))
    return found


def make_spec(variant: Variant, task: str, *, inputs: Path, seed: int, steps: int) -> RunSpec:
    """`inputs` holds the task's model/ and train.jsonl."""
    base = (*variant.settings, *TASKS[task].settings, *_inputs(inputs), f"seed={seed}")
    return _with_batch(variant.base, base, steps=steps, responses=_RESPONSES)


def make_memory_spec(preset: str, *, inputs: Path) -> RunSpec:
    """A few steps of a wider, random model. It answers nothing right, so dynamic sampling would keep no group."""
    variant = algorithm(preset)
    base = (*variant.settings, "algorithm.dynamic_sampling=false", *_inputs(inputs), "seed=1")
    return _with_batch(variant.base, base, steps=MEMORY_STEPS, responses=MEMORY_RESPONSES)


def _inputs(inputs: Path) -> tuple[str, ...]:
    return f"model.path={inputs / 'model'}", f"data.path={inputs / 'train.jsonl'}"


def _with_batch(base: Path, settings: tuple[str, ...], *, steps: int, responses: int) -> RunSpec:
    group_size = load_spec(base, settings).sampling.group_size
    batch = (
        f"training.prompts_per_step={responses // group_size}",
        f"training.updates_per_step={_UPDATES}",
        f"training.steps={steps}",
        # One checkpoint, at the end, so that none lies between two steps.
        f"checkpoint.every_steps={steps}",
    )
    return load_spec(base, settings + batch)
