"""RunSpec: everything a run is made of, as one tree that YAML, REST and gRPC share."""

from typing import Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from dapo.spec.algorithm import AlgorithmSpec
from dapo.spec.base import Section
from dapo.spec.checks import find_problems
from dapo.spec.data import DataSpec, ModelSpec, RewardSpec, SamplingSpec
from dapo.spec.resources import ResourcesSpec
from dapo.spec.training import (
    AsynchronySpec,
    CheckpointSpec,
    MetricsSpec,
    OptimizerSpec,
    TrainingSpec,
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
    training: TrainingSpec = TrainingSpec()
    asynchrony: AsynchronySpec = AsynchronySpec()
    weight_sync: WeightSyncSpec = WeightSyncSpec()
    checkpoint: CheckpointSpec = CheckpointSpec()
    resources: ResourcesSpec = ResourcesSpec()
    metrics: MetricsSpec = MetricsSpec()

    @model_validator(mode="after")
    def _check_across_fields(self) -> Self:
        if problems := find_problems(self):
            text = "\n".join(map(str, problems))
            raise PydanticCustomError("spec_problems", "{text}", {"text": text, "problems": problems})
        return self
