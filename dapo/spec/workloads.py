"""What a run is made of, as data: its workloads. A launcher places them; nothing here is a fact about a host."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from dapo.spec.paths import is_local_model
from dapo.spec.run import RunSpec
from dapo.spec.tree.resources import Device

Role = Literal["generator", "verifier", "learner"]
MODULES: Mapping[str, str] = {
    "generator": "services.generator",
    "verifier": "services.verifier",
    "learner": "services.learner",
}
"""By role, what a worker is started as."""
EVALUATES = "DAPO_EVALUATES"
"""Environment variable of a generator: `1` where it takes nothing but the prompts of evaluations."""
OUTAGE = "DAPO_REDIS_OUTAGE_S"
"""Environment variable of every worker: how long it waits for a Redis that is away."""


@dataclass(frozen=True)
class Resources:
    """Of one replica."""

    device: Device = "cpu"
    gpus: int = 0
    """GPUs that it uses where it runs on GPUs; with `device` auto it makes do without where there are none."""


@dataclass(frozen=True)
class Workload:
    """`replicas` processes alike, each `python -m <module>`, told apart by their index from 0."""

    role: Role
    name: str
    replicas: int
    module: str
    environment: Mapping[str, str] = field(default_factory=dict)
    """Beside what a launcher gives to every worker; see docs/architecture.md."""
    resources: Resources = Resources()
    fewest: int | None = None
    """A launcher that has no place for all may do with so many; None: it may not."""

    @property
    def worker_ids(self) -> list[str]:
        """Unique within the run."""
        return [f"{self.name}-{index}" for index in range(self.replicas)]


def gpus_of(workloads: Iterable[Workload]) -> int:
    """That all their replicas use together, where they run on GPUs."""
    return sum(one.replicas * one.resources.gpus for one in workloads)


def plan_workloads(spec: RunSpec) -> list[Workload]:
    """The workloads of a run, in the order in which to start them. Without training there is no learner."""
    common = {OUTAGE: f"{spec.resources.redis.outage_s:g}"}
    if is_local_model(spec.model.path):
        # The hub is not asked for what lies in a directory.
        common["HF_HUB_OFFLINE"] = "1"
    generator, learner = spec.resources.generator, spec.resources.learner
    engine = Resources(generator.device, 0 if generator.device == "cpu" else generator.tensor_parallel)
    fewest = None if generator.max_replicas is None else 1
    found = [Workload("generator", "generator", generator.replicas, MODULES["generator"], common, engine, fewest)]
    if spec.evaluation.dedicated_generator:
        evaluates = {**common, EVALUATES: "1"}
        found.append(Workload("generator", "evaluation-generator", 1, MODULES["generator"], evaluates, engine))
    found.append(Workload("verifier", "verifier", spec.resources.verifier.replicas, MODULES["verifier"], common))
    if spec.training.steps:
        rank = Resources(learner.device, 0 if learner.device == "cpu" else 1)
        found.append(Workload("learner", "learner", learner.ranks, MODULES["learner"], common, rank))
    return found
