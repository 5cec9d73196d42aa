"""What is known of one run's workers in the cluster, and how that is read. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dapo.spec.workloads import Workload
from services.orchestrator.launch.kubernetes import objects, reading
from services.orchestrator.launch.kubernetes.objects import Manifest
from services.orchestrator.launch.kubernetes.settings import TemplateError, Templates, load_snapshot
from services.orchestrator.launch.launcher import LaunchError, RunTarget


@dataclass
class PlacedRun:
    target: RunTarget
    workloads: Sequence[Workload]
    templates: Templates
    seen_s: dict[str, float] = field(default_factory=dict)
    """Worker id → when its pod was seen last, or was asked for."""
    why: dict[str, str] = field(default_factory=dict)
    """Workload → why its controller makes no pods, as its events told last."""


def snapshot_of(owner: Manifest) -> Templates:
    """Of the templates with which a run began. Raises LaunchError where somebody has damaged it."""
    try:
        return load_snapshot(owner["data"][objects.SNAPSHOT])
    except (KeyError, TemplateError) as error:
        raise LaunchError(
            f"ConfigMap {owner['metadata']['name']} no longer holds the templates of its run ({error}). Stop the run, "
            "and resume it: it then takes those of the chart"
        ) from error


def check_scaling(placed: PlacedRun | None, workloads: Sequence[Workload]) -> None:
    """Raises LaunchError where a workload is to have another number of replicas, which somebody else writes."""
    if placed is None:
        return
    before = {one.name: one.replicas for one in placed.workloads}
    for one in workloads:
        if placed.templates.settings.others_scale(one.name) and one.replicas != before.get(one.name, one.replicas):
            raise LaunchError(
                f"an autoscaler of the cluster writes the number of {one.name}s (in the chart's values scaledByOthers, "
                "or keda): change its limits, or take that value away and start the run anew"
            )


def workers_of(state: PlacedRun, workload: Workload, pods: Mapping[str, Sequence[Manifest]]) -> list[str]:
    """Ids of all workers that a workload has now; others than this launcher may say how many there are."""
    if not state.templates.settings.others_scale(workload.name):
        return workload.worker_ids
    indexes = [reading.index_of(pod) or 0 for group in pods.values() for pod in group]
    return [f"{workload.name}-{index}" for index in range(max(indexes, default=0) + 1)]
