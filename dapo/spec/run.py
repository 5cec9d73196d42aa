"""RunSpec: everything a run is made of, as one tree that YAML, REST and gRPC share."""

from typing import Any, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from dapo.spec.checks.consistency import find_problems
from dapo.spec.checks.graders import referenced_graders
from dapo.spec.tree.algorithm import GROUP_SIZES, AlgorithmSpec
from dapo.spec.tree.base import Section
from dapo.spec.tree.data import DataSpec, ModelSpec, SamplingSpec
from dapo.spec.tree.evaluation import FORM_FIELDS, EvaluationSpec, inherit
from dapo.spec.tree.graders import AnyGrader, find_grader
from dapo.spec.tree.resources import ENGINE_RESERVE_TOKENS, ResourcesSpec
from dapo.spec.tree.reward import RewardSpec
from dapo.spec.tree.training import (
    AsynchronySpec,
    CheckpointSpec,
    LoraSpec,
    MetricsSpec,
    OptimizerSpec,
    TrainingSpec,
    ValueSpec,
    WeightSyncSpec,
)


class RunSpec(Section):
    name: str = Field(default="run", pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")
    """Start of the run's id: lower-case letters, digits and dashes."""
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    """Seed of the data order, the mini-batch order and the learner."""
    model: ModelSpec
    data: DataSpec
    sampling: SamplingSpec = SamplingSpec()
    reward: RewardSpec = RewardSpec()
    algorithm: AlgorithmSpec = AlgorithmSpec()
    optimizer: OptimizerSpec = OptimizerSpec()
    value: ValueSpec = ValueSpec()
    training: TrainingSpec = TrainingSpec()
    lora: LoraSpec = LoraSpec()
    asynchrony: AsynchronySpec = AsynchronySpec()
    weight_sync: WeightSyncSpec = WeightSyncSpec()
    checkpoint: CheckpointSpec = CheckpointSpec()
    resources: ResourcesSpec = ResourcesSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    metrics: MetricsSpec = MetricsSpec()

    @property
    def longest_sequence(self) -> int:
        """Prompt and response tokens at most."""
        return self.data.max_prompt_tokens + self.sampling.max_response_tokens

    @property
    def smallest_pool(self) -> int:
        """Tokens that the engine's KV pool must hold: with less, SGLang would never admit the longest sequence."""
        return self.longest_sequence + ENGINE_RESERVE_TOKENS

    @property
    def generator_processes(self) -> int:
        return self.resources.generator.replicas + self.evaluation.dedicated_generator

    @property
    def named_graders(self) -> dict[str, AnyGrader]:
        """Every grader that the spec names, by name. Raises UnknownGrader; a validated spec has none."""
        graders = self.reward.graders
        return {name: find_grader(name, graders) for name in referenced_graders(self)} | graders

    @model_validator(mode="before")
    @classmethod
    def _group_size_from_preset(cls, value: Any) -> Any:
        algorithm = value.get("algorithm") if isinstance(value, dict) else None
        preset = algorithm.get("preset") if isinstance(algorithm, dict) else None
        if not isinstance(preset, str) or preset not in GROUP_SIZES:
            return value
        sampling = value.get("sampling", {})
        if not isinstance(sampling, dict):
            return value
        return {**value, "sampling": {"group_size": GROUP_SIZES[preset], **sampling}}

    @model_validator(mode="before")
    @classmethod
    def _sets_inherit_the_form_of_prompts(cls, value: Any) -> Any:
        """Evaluation sets ask as the training does, where neither they nor their protocol say how."""
        match value:
            case {"data": dict(data), "evaluation": {"sets": dict(sets), **rest}}:
                form = {name: data[name] for name in FORM_FIELDS if name in data}
                inherited = {name: inherit(form, one) for name, one in sets.items()}
                return {**value, "evaluation": {**rest, "sets": inherited}}
        return value

    @model_validator(mode="after")
    def _check_across_fields(self) -> Self:
        if problems := find_problems(self):
            text = "\n".join(map(str, problems))
            raise PydanticCustomError("spec_problems", "{text}", {"text": text, "problems": problems})
        return self
