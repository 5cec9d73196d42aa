"""The objects of a run in the cluster, as they are sent to its API server. Pure."""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dapo.bus.keys import COMPLETIONS, READERS, Keys
from dapo.host.addresses import ADDRESS
from dapo.pod import DEFAULT_FOLDER
from dapo.pod import POD as POD_VARIABLE
from dapo.pod import WORKLOAD as WORKLOAD_VARIABLE
from dapo.spec.workloads import Workload
from services.orchestrator.launch.kubernetes.names import (
    COMPONENT,
    CONTAINER,
    EPOCH,
    MANAGER,
    RUN,
    RUN_ID,
    TERM,
    WORKLOAD,
    base_name,
    object_name,
    run_label,
    run_labels,
)
from services.orchestrator.launch.kubernetes.settings import (
    RUNS_VOLUME,
    GeneratorKeda,
    KubernetesSettings,
    Templates,
    VerifierKeda,
)
from services.orchestrator.launch.launcher import LaunchError, RunTarget

Manifest = dict[str, Any]
Kind = Literal["StatefulSet", "Job", "JobSet"]
"""Of the object that holds a workload's pods."""
API_VERSIONS: Mapping[Kind, str] = {
    "StatefulSet": "apps/v1",
    "Job": "batch/v1",
    "JobSet": "jobset.x-k8s.io/v1alpha2",
}
RUN_FOLDER = "/var/lib/dapo/run"
"""Where a worker finds its run's folder."""
SNAPSHOT = "templates.yaml"
TARGET = "run.json"
_POD_VOLUME = "dapo-pod"
_QUEUE = "kueue.x-k8s.io/queue-name"
_SUSPENDED_BY = "kueue.x-k8s.io/pod-suspending-parent"
_GRACE_S = 60
_INDEXED_JOBS = (1, 22)


@dataclass(frozen=True)
class Cluster:
    """What is to be known of a cluster to make objects for it."""

    namespace: str
    version: tuple[int, int] = (1, 30)
    """Of its API server: major, minor."""
    jobsets: bool = False
    """Whether it has the kind JobSet."""


@dataclass(frozen=True)
class Place:
    """Where a run's workers find what belongs to it."""

    folder: str
    """The run's folder below the service's --state-dir, as `runs/<id>`."""
    redis_url: str
    """That of the service, which the settings' secret holds, too."""


def kind_of(workload: Workload, settings: KubernetesSettings, cluster: Cluster) -> Kind:
    """A learner's ranks start and end together, and their number never changes: a JobSet or a Job says that to others
    who care for gangs, such as Kueue. Generators and verifiers are scaled one by one: a StatefulSet."""
    if workload.role != "learner":
        return "StatefulSet"
    if settings.learner != "auto":
        return settings.learner
    if cluster.jobsets:
        return "JobSet"
    return "Job" if cluster.version >= _INDEXED_JOBS else "StatefulSet"


def resolved(templates: Templates, cluster: Cluster) -> Templates:
    """With the kind that holds a learner's ranks in this cluster: a run keeps it, whatever the cluster learns later."""
    rank = Workload("learner", "learner", 1, "")
    settings = templates.settings.model_copy(update={"learner": kind_of(rank, templates.settings, cluster)})
    return templates.model_copy(update={"settings": settings})


def ranks_of(job: Manifest) -> int:
    """Pods of a Job or a JobSet of ours."""
    spec = job["spec"]
    if job["kind"] == "JobSet":
        spec = spec["replicatedJobs"][0]["template"]["spec"]
    return int(spec["completions"])


def owner_of(run: RunTarget, templates: Templates, cluster: Cluster, place: Place) -> Manifest:
    """The ConfigMap that everything else of the run is owned by: deleting it deletes them. It keeps the templates with
    which the run began, so that a later release of the chart changes nothing of it."""
    target = {"run_id": run.run_id, "term": run.term, "folder": place.folder}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": base_name(run.run_id),
            "namespace": cluster.namespace,
            "labels": run_labels(templates.settings.instance, run.run_id),
            "annotations": {RUN_ID: run.run_id, EPOCH: str(run.epoch)},
        },
        "data": {SNAPSHOT: templates.dump(), TARGET: json.dumps(target)},
    }


def service_of(run: RunTarget, templates: Templates, cluster: Cluster, owner: Manifest) -> Manifest:
    """The headless Service that gives the pods of the run's StatefulSets their names."""
    instance = templates.settings.instance
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(base_name(run.run_id), run, instance, cluster, owner),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {RUN: run_label(run.run_id), "app.kubernetes.io/instance": instance},
        },
    }


def workload_of(
    run: RunTarget, workload: Workload, templates: Templates, cluster: Cluster, place: Place, owner: Manifest
) -> Manifest:
    """The object that holds a workload's pods. A StatefulSet has no number of replicas: whoever writes that, this
    launcher or an autoscaler of the cluster, does so through its subresource `scale`. Raises LaunchError."""
    settings = templates.settings
    kind = kind_of(workload, settings, cluster)
    template = pod_template(run, workload, templates, place, kind)
    metadata = _metadata(object_name(run.run_id, workload.name), run, settings.instance, cluster, owner)
    metadata["labels"] |= {WORKLOAD: workload.name, COMPONENT: workload.role}
    if settings.queue:
        _enqueue(settings.queue, kind, metadata, template["metadata"])
    return {
        "apiVersion": API_VERSIONS[kind],
        "kind": kind,
        "metadata": metadata,
        "spec": _SPECS[kind](workload, template, base_name(run.run_id)),
    }


def _enqueue(queue: str, kind: Kind, metadata: Manifest, pod: Manifest) -> None:
    """Ranks in a Job or a JobSet are admitted together. Kueue takes no StatefulSet whose number changes, so each pod of
    one is admitted by itself; the annotation has it look at pods that have an owner."""
    if kind != "StatefulSet":
        metadata["labels"][_QUEUE] = queue
        return
    pod["labels"][_QUEUE] = queue
    pod["annotations"][_SUSPENDED_BY] = MANAGER


def _stateful_set(workload: Workload, template: Manifest, service: str) -> Manifest:
    labels = template["metadata"]["labels"]
    chosen = {name: labels[name] for name in (RUN, WORKLOAD, "app.kubernetes.io/instance")}
    return {
        "serviceName": service,
        "podManagementPolicy": "Parallel",
        # The pods that run keep their template: dapo says which of them are replaced, and when.
        "updateStrategy": {"type": "OnDelete"},
        "selector": {"matchLabels": chosen},
        "template": template,
    }


def _job(workload: Workload, template: Manifest, service: str) -> Manifest:
    # One writer of restarts, and that is dapo: a rank that ends ends the Job, and all are started together.
    return {
        "completionMode": "Indexed",
        "completions": workload.replicas,
        "parallelism": workload.replicas,
        "backoffLimit": 0,
        "template": template,
    }


def _job_set(workload: Workload, template: Manifest, service: str) -> Manifest:
    return {
        "failurePolicy": {"maxRestarts": 0},
        "replicatedJobs": [
            {"name": "rank", "replicas": 1, "template": {"spec": _job(workload, template, service)}},
        ],
    }


_SPECS = {"StatefulSet": _stateful_set, "Job": _job, "JobSet": _job_set}


def scaling_of(
    run: RunTarget, workload: Workload, templates: Templates, cluster: Cluster, owner: Manifest
) -> Manifest | None:
    """What has KEDA scale a workload; None where it does not."""
    keda = templates.settings.keda
    if workload.name == "generator" and keda.generator is not None:
        limits: GeneratorKeda | VerifierKeda = keda.generator
        trigger = _demand(run, keda.generator)
    elif workload.name == "verifier" and keda.verifier is not None:
        limits, trigger = keda.verifier, _lag(run, keda.verifier)
    else:
        return None
    name = object_name(run.run_id, workload.name)
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": _metadata(name, run, templates.settings.instance, cluster, owner),
        "spec": {
            "scaleTargetRef": {"apiVersion": API_VERSIONS["StatefulSet"], "kind": "StatefulSet", "name": name},
            "minReplicaCount": limits.min_replicas,
            "maxReplicaCount": limits.max_replicas,
            "triggers": [trigger],
        },
    }


def _lag(run: RunTarget, keda: VerifierKeda) -> Manifest:
    metadata = {
        "address": keda.address,
        "enableTLS": str(keda.tls).lower(),
        "databaseIndex": str(keda.database),
        "stream": Keys(run.run_id).stream(COMPLETIONS),
        "consumerGroup": READERS[COMPLETIONS],
        "lagCount": str(keda.lag),
        "activationLagCount": "0",
    }
    return {"type": "redis-streams", "metadata": metadata, "authenticationRef": {"name": keda.authentication}}


def _demand(run: RunTarget, keda: GeneratorKeda) -> Manifest:
    query = f'max(dapo_run_generators_demand{{run="{run.run_id}"}})'
    # Before the first step, and while the run service is away, nothing is published: that is no demand for none.
    metadata = {"serverAddress": keda.prometheus, "query": query, "threshold": "1", "ignoreNullValues": "false"}
    return {"type": "prometheus", "metadata": metadata}


def pod_template(run: RunTarget, workload: Workload, templates: Templates, place: Place, kind: Kind) -> Manifest:
    """The role's template of the chart, with all that makes a pod one of this run's workers. Raises LaunchError."""
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
    spec["restartPolicy"] = "Always" if kind == "StatefulSet" else "Never"
    spec.setdefault("terminationGracePeriodSeconds", _GRACE_S)
    spec.setdefault("automountServiceAccountToken", False)
    spec.setdefault("enableServiceLinks", False)
    spec["volumes"] = [*(spec.get("volumes") or []), {"name": _POD_VOLUME, "emptyDir": {}}]
    container = next(one for one in spec["containers"] if one["name"] == CONTAINER)
    container["command"] = ["python", "-m", "dapo.pod", workload.module]
    gpus = _gpus(workload, container, templates.settings)
    container["env"] = _environment(run, workload, templates, place, container.get("env") or [], gpus)
    container["volumeMounts"] = [
        *(container.get("volumeMounts") or []),
        {"name": RUNS_VOLUME, "mountPath": RUN_FOLDER, "subPath": place.folder},
        {"name": _POD_VOLUME, "mountPath": DEFAULT_FOLDER},
    ]
    return template


def _gpus(workload: Workload, container: Manifest, settings: KubernetesSettings) -> int:
    """So many as the worker uses stand in its limits from now on, unless the template claims devices itself."""
    needs = workload.resources
    count = needs.gpus if needs.device == "cuda" or settings.gpus.auto else 0
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


def _metadata(name: str, run: RunTarget, instance: str, cluster: Cluster, owner: Manifest) -> Manifest:
    reference = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
    }
    return {
        "name": name,
        "namespace": cluster.namespace,
        "labels": run_labels(instance, run.run_id),
        "annotations": {RUN_ID: run.run_id},
        "ownerReferences": [reference],
    }
