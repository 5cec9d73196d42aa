"""How the ranks of a learner are divided among pods, and what a pod with several of them asks for. Pure."""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from dapo.spec.problem import Problem
from dapo.spec.run import RunSpec
from dapo.spec.workloads import Workload, plan_workloads
from services.orchestrator.launch.kubernetes.settings import KubernetesSettings
from services.orchestrator.launch.launcher import LaunchError

_SHARED_MEMORY = "/dev/shm"


def pods_of(workload: Workload, settings: KubernetesSettings) -> int:
    """Of a learner as few as can hold its ranks, the same number each, since all pods of an object have one template.
    Raises LaunchError where there is no such number."""
    if workload.role != "learner":
        return workload.replicas
    if (problem := _problem(workload.replicas, settings.ranks_per_pod)) is not None:
        raise LaunchError(str(problem))
    return _fewest(workload.replicas, settings.ranks_per_pod)


def workers_per_pod(workload: Workload, settings: KubernetesSettings) -> int:
    """Raises LaunchError."""
    return workload.replicas // pods_of(workload, settings) if workload.role == "learner" else 1


def uneven_ranks(spec: RunSpec, settings: KubernetesSettings) -> list[Problem]:
    """Why a run could never be placed: its learner's ranks cannot be divided."""
    ranks = [one.replicas for one in plan_workloads(spec) if one.role == "learner"]
    return [found for one in ranks if (found := _problem(one, settings.ranks_per_pod)) is not None]


def _fewest(ranks: int, most: int) -> int:
    return -(-ranks // most)


def _problem(ranks: int, most: int) -> Problem | None:
    pods = _fewest(ranks, most)
    if ranks % pods == 0:
        return None
    message = (
        f"with learner.ranksPerPod = {most} in the chart's values they are in {pods} pods, which cannot have the same "
        f"number of them each. Set {ranks + pods - ranks % pods}, or a multiple of {most}"
    )
    return Problem("resources.learner.ranks", str(ranks), message)


def multiply(spec: dict[str, Any], container: dict[str, Any], workers: int) -> None:
    """In a pod's spec, and in the container of its workers: what is said of one worker becomes that of so many.

    That is what Kubernetes itself counts (cpu, memory, ephemeral-storage, huge pages), and the size of /dev/shm.
    Resources of other names (`rdma/hca`) are devices of the node, which workers share: they stay as they are.
    """
    resources = container.get("resources") or {}
    for kind in ("requests", "limits"):
        if amounts := resources.get(kind):
            resources[kind] = {
                name: amount if "/" in name else _times(amount, workers) for name, amount in amounts.items()
            }
    mounts: list[Mapping[str, Any]] = container.get("volumeMounts") or []
    shared = {one["name"] for one in mounts if one.get("mountPath") == _SHARED_MEMORY}
    for volume in spec.get("volumes") or []:
        of_memory = volume.get("emptyDir") or {}
        if volume["name"] in shared and of_memory.get("sizeLimit"):
            of_memory["sizeLimit"] = _times(of_memory["sizeLimit"], workers)


def _times(quantity: object, factor: int) -> str:
    """Of Kubernetes, as `32Gi`, `500m`, `1.5` or `2e3`; its unit stays. What is none is left to the API server."""
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)(\D.*)?", str(quantity))
    return f"{Decimal(found[1]) * factor}{found[2] or ''}" if found else str(quantity)
