"""What a run needs of a machine, as far as its spec tells. Pure."""

from collections.abc import Iterator, Mapping

from dapo.spec.budget import MIB, payload_budget
from dapo.spec.problem import Problem
from dapo.spec.run import RunSpec
from dapo.spec.workloads import Role, gpus_of, plan_workloads
from services.orchestrator.queue.rule import Amounts

WORKER_BYTES: Mapping[Role, int] = {"generator": 1536 * MIB, "verifier": 128 * MIB, "learner": 768 * MIB}
"""What a worker with its child processes takes in the host's memory beside a small model."""


def needs_of(spec: RunSpec, gpus: int) -> Amounts:
    """On a machine of so many GPUs, of which a run that wants more makes do with all.

    A core for each worker; memory: payloads at worst (dapo/spec/budget.py), and what workers take beside their model.
    """
    workloads = plan_workloads(spec)
    workers = sum(one.replicas * WORKER_BYTES[one.role] for one in workloads)
    cores = sum(one.replicas for one in workloads)
    return Amounts(min(gpus_of(workloads), gpus), cores, payload_budget(spec).needed + workers)


def misfits(spec: RunSpec, gpus: int) -> Iterator[Problem]:
    """Why a run could never start on a machine of so many GPUs."""
    generator, learner = spec.resources.generator, spec.resources.learner
    has = f"this machine has {gpus or 'no'} GPU{'s' * (gpus != 1)}"
    for role, section in (("generator", generator), ("learner", learner)):
        if section.device == "cuda" and not gpus and (role == "generator" or spec.training.steps):
            yield Problem(f"resources.{role}.device", "cuda", f"{has}. Set auto or cpu, or take another machine")
    split, ranks = generator.tensor_parallel, learner.ranks
    if generator.device != "cpu" and split > max(1, gpus):
        cure = f"a generator is split over {split}, and {has}. Set {max(1, gpus)} or less"
        yield Problem("resources.generator.tensor_parallel", str(split), cure)
    if learner.device != "cpu" and spec.training.steps and 0 < gpus < ranks:
        cure = f"each rank computes on a GPU of its own, and {has}. Set {gpus} or less"
        yield Problem("resources.learner.ranks", str(ranks), cure)
