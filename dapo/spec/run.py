"""RunSpec: everything a run is made of, as one tree that YAML, REST and gRPC share."""

from pydantic import Field

from dapo.spec.algorithm import AlgorithmSpec
from dapo.spec.base import Section
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
    name: str = Field("run", pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")
    """Start of the run's id: lower-case letters, digits and dashes."""
    seed: int = Field(0, ge=0)
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
