"""The pod template of a role, filled for a workload of a run. Pure."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dapo.host.addresses import ADDRESS
from dapo.pod import DEFAULT_FOLDER
from dapo.pod import POD as POD_VARIABLE
from dapo.pod import WORKERS as WORKERS_VARIABLE
from dapo.pod import WORKLOAD as WORKLOAD_VARIABLE
from dapo.spec.workloads import Workload
from services.orchestrator.launch.kubernetes.names import (
    COMPONENT,
    CONTAINER,
    RUN_ID,
    TERM,
    WORKERS,
    WORKLOAD,
    run_labels,
)
from services.orchestrator.launch.kubernetes.pods.ranks import multiply, workers_per_pod
from services.orchestrator.launch.kubernetes.settings import RUNS_VOLUME, KubernetesSettings, Templates
from services.orchestrator.launch.launcher import LaunchError, RunTarget

Manifest = dict[str, Any]
RUN_FOLDER = "/var/lib/dapo/run"
"""Where a worker finds its run's folder."""
_POD_VOLUME = "dapo-pod"
_GRACE_S = 60


@dataclass(frozen=True)
class Place:
    """Where a run's workers find what belongs to it."""

    folder: str
    """The run's folder below the service's --state-dir, as `runs/<id>`."""
    redis_url: str
    """That of the service, which the settings' secret holds, too."""


def pod_template(
    run: RunTarget, workload: Workload, templates: Templates, place: Place, restarts: Literal["Always", "Never"]
) -> Manifest:
    """The role's template of the chart, with all that makes a pod one of this run's. Raises LaunchError."""
    workers = workers_per_pod(workload, templates.settings)
    template = copy.deepcopy(templates.pods[workload.role])
    metadata = template.setdefault("metadata", {})
    metadata["labels"] = {
        **(metadata.get("labels") or {}),
        **run_labels(templates.settings.instance, run.run_id),
        WORKLOAD: workload.name,
        COMPONENT: workload.role,
        TERM: str(run.term),
    }
    metadata["annotations"] = {**(metadata.get("annotations") or {}), RUN_ID: run.run_id}
    spec = template["spec"]
    spec["restartPolicy"] = restarts
    spec.setdefault("terminationGracePeriodSeconds", _GRACE_S)
    spec.setdefault("automountServiceAccountToken", False)
    spec.setdefault("enableServiceLinks", False)
    spec["volumes"] = [*(spec.get("volumes") or []), {"name": _POD_VOLUME, "emptyDir": {}}]
    container = next(one for one in spec["containers"] if one["name"] == CONTAINER)
    container["command"] = ["python", "-m", "dapo.pod", workload.module]
    if workers > 1:
        metadata["annotations"][WORKERS] = str(workers)
        multiply(spec, container, workers)
    gpus = _gpus(workload, container, templates.settings, workers)
    container["env"] = _environment(run, workload, templates, place, container.get("env") or [], gpus)
    container["volumeMounts"] = [
        *(container.get("volumeMounts") or []),
        {"name": RUNS_VOLUME, "mountPath": RUN_FOLDER, "subPath": place.folder},
        {"name": _POD_VOLUME, "mountPath": DEFAULT_FOLDER},
    ]
    return template


def _gpus(workload: Workload, container: Manifest, settings: KubernetesSettings, workers: int) -> int:
    """So many as its workers use stand in the container's limits from now on, unless the template claims devices."""
    needs = workload.resources
    count = needs.gpus * workers if needs.device == "cuda" or settings.gpus.auto else 0
    resources = container.setdefault("resources", {})
    if count and not resources.get("claims"):
        resources["limits"] = {**(resources.get("limits") or {}), settings.gpus.resource: count}
    return count


def _environment(
    run: RunTarget, workload: Workload, templates: Templates, place: Place, given: Sequence[Manifest], gpus: int
) -> list[Manifest]:
    """The template's own variables first. Raises LaunchError for a URL that would show its password in a pod."""
    secret = templates.settings.redis
    if run.redis_url == place.redis_url:
        redis: Manifest = {"valueFrom": {"secretKeyRef": {"name": secret.name, "key": secret.key}}}
    else:
        redis = {"value": _open_url("resources.redis.url", run.redis_url)}
    fixed = {
        **workload.environment,
        "DAPO_RUN_ID": run.run_id,
        "DAPO_RUN_DIR": RUN_FOLDER,
        "DAPO_TERM": str(run.term),
        WORKLOAD_VARIABLE: workload.name,
        "PYTHONUNBUFFERED": "1",
    }
    if workload.role == "learner":
        # Only its number is fixed: in the template of a workload that is scaled it would replace every pod.
        fixed["DAPO_REPLICAS"] = str(workload.replicas)
        if (workers := workers_per_pod(workload, templates.settings)) > 1:
            fixed[WORKERS_VARIABLE] = str(workers)
    if not gpus:
        fixed |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    if run.payload_url is not None:
        fixed["DAPO_PAYLOAD_URL"] = _open_url("resources.redis.payload_url", run.payload_url)
    names = {one["name"] for one in given}
    return [
        *given,
        *({"name": name, "value": value} for name, value in fixed.items() if name not in names),
        {"name": "DAPO_REDIS_URL", **redis},
        {"name": POD_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": ADDRESS, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
    ]


def _open_url(field: str, url: str) -> str:
    """Raises LaunchError where it holds a password."""
    if "@" in url:
        raise LaunchError(
            f"{field} holds a password, which everybody would see who may see pods. Leave the field out and give the "
            "service's own server in the secret of the chart (redis.existingSecret), or one without a password"
        )
    return url
