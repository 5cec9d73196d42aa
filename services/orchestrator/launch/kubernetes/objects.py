"""The objects of a run in the cluster, as they are sent to its API server. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from dapo.bus.keys import COMPLETIONS, READERS, Keys
from dapo.spec.workloads import Workload
from services.orchestrator.launch.kubernetes.names import (
    COMPONENT,
    EPOCH,
    MANAGER,
    RUN,
    RUN_ID,
    WORKLOAD,
    base_name,
    object_name,
    run_label,
    run_labels,
    workers_in_each,
)
from services.orchestrator.launch.kubernetes.pods.ranks import pods_of
from services.orchestrator.launch.kubernetes.pods.template import Manifest, Place, pod_template
from services.orchestrator.launch.kubernetes.settings import (
    GeneratorKeda,
    KubernetesSettings,
    Templates,
    VerifierKeda,
)
from services.orchestrator.launch.launcher import RunTarget

Kind = Literal["StatefulSet", "Job", "JobSet"]
"""Of the object that holds a workload's pods."""
API_VERSIONS: Mapping[Kind, str] = {
    "StatefulSet": "apps/v1",
    "Job": "batch/v1",
    "JobSet": "jobset.x-k8s.io/v1alpha2",
}
SNAPSHOT = "templates.yaml"
TARGET = "run.json"
_QUEUE = "kueue.x-k8s.io/queue-name"
_SUSPENDED_BY = "kueue.x-k8s.io/pod-suspending-parent"
_INDEXED_JOBS = (1, 22)


@dataclass(frozen=True)
class Cluster:
    """What is to be known of a cluster to make objects for it."""

    namespace: str
    version: tuple[int, int] = (1, 30)
    """Of its API server: major, minor."""
    jobsets: bool = False
    """Whether it has the kind JobSet."""


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
    """Of a Job or a JobSet of ours."""
    spec = job["spec"]
    if job["kind"] == "JobSet":
        spec = spec["replicatedJobs"][0]["template"]["spec"]
    return int(spec["completions"]) * workers_in_each(spec["template"])


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
    template = pod_template(run, workload, templates, place, "Always" if kind == "StatefulSet" else "Never")
    metadata = _metadata(object_name(run.run_id, workload.name), run, settings.instance, cluster, owner)
    metadata["labels"] |= {WORKLOAD: workload.name, COMPONENT: workload.role}
    if settings.queue:
        _enqueue(settings.queue, kind, metadata, template["metadata"])
    return {
        "apiVersion": API_VERSIONS[kind],
        "kind": kind,
        "metadata": metadata,
        "spec": _SPECS[kind](pods_of(workload, settings), template, base_name(run.run_id)),
    }


def _enqueue(queue: str, kind: Kind, metadata: Manifest, pod: Manifest) -> None:
    """Ranks in a Job or a JobSet are admitted together. Kueue takes no StatefulSet whose number changes, so each pod of
    one is admitted by itself; the annotation has it look at pods that have an owner."""
    if kind != "StatefulSet":
        metadata["labels"][_QUEUE] = queue
        return
    pod["labels"][_QUEUE] = queue
    pod["annotations"][_SUSPENDED_BY] = MANAGER


def _stateful_set(pods: int, template: Manifest, service: str) -> Manifest:
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


def _job(pods: int, template: Manifest, service: str) -> Manifest:
    # One writer of restarts, and that is dapo: a rank that ends ends the Job, and all are started together.
    return {
        "completionMode": "Indexed",
        "completions": pods,
        "parallelism": pods,
        "backoffLimit": 0,
        "template": template,
    }


def _job_set(pods: int, template: Manifest, service: str) -> Manifest:
    return {
        "failurePolicy": {"maxRestarts": 0},
        "replicatedJobs": [
            {"name": "rank", "replicas": 1, "template": {"spec": _job(pods, template, service)}},
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
