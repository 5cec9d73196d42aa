"""What a run's objects in the cluster are called, and how they are found again. Pure."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

MANAGER = "dapo"
"""Field manager of server-side apply, and the value of `app.kubernetes.io/managed-by`."""
INSTANCE = "app.kubernetes.io/instance"
MANAGED_BY = "app.kubernetes.io/managed-by"
COMPONENT = "app.kubernetes.io/component"
RUN = "dapo.dev/run"
WORKLOAD = "dapo.dev/workload"
TERM = "dapo.dev/term"
"""Label of a pod: under which term its worker writes (RunTarget.term)."""
WORKERS = "dapo.dev/workers"
"""Annotation of a pod with several workers: how many. Without it there is one."""
RUN_ID = "dapo.dev/run-id"
"""Annotation: the run's id, also where it is too long for a label."""
EPOCH = "dapo.dev/epoch"
"""Annotation of the run's ConfigMap: the newest orchestrator that changed the run's objects."""
COMPLETION_INDEX = "batch.kubernetes.io/job-completion-index"
CONTAINER = "worker"
"""Name of the container of a template in which the worker runs."""

_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_SLUG = 22
_HASH = 8


def base_name(run_id: str) -> str:
    """Of a run's ConfigMap and Service; what its other objects' names begin with. At most 31 characters, so that the
    names of pods, and the labels that their controllers make of names, stay within 63. Two runs never share one."""
    slug = re.sub(r"[^a-z0-9]+", "-", run_id.lower())[:_SLUG].strip("-")
    if not slug[:1].isalpha():
        slug = f"r-{slug}"[:_SLUG].strip("-")
    return f"{slug}-{_digest(run_id)}"


def object_name(run_id: str, workload: str) -> str:
    """Of a workload's StatefulSet, Job or JobSet."""
    return f"{base_name(run_id)}-{workload}"


def run_label(run_id: str) -> str:
    """The run's id where a label can hold it, else one of its own that begins alike."""
    return run_id if _LABEL.fullmatch(run_id) else base_name(run_id)


def common_labels(instance: str) -> dict[str, str]:
    """Of everything that this launcher makes, for one release of the chart."""
    return {"app.kubernetes.io/name": "dapo", INSTANCE: instance, MANAGED_BY: MANAGER}


def run_labels(instance: str, run_id: str) -> dict[str, str]:
    return {**common_labels(instance), RUN: run_label(run_id)}


def workers_in_each(pod: Mapping[str, Any]) -> int:
    """In a pod, or in each that is made of a template."""
    text = (pod["metadata"].get("annotations") or {}).get(WORKERS) or ""
    return max(1, int(text)) if text.isdecimal() else 1


def selector(labels: Mapping[str, str]) -> str:
    """For the query `labelSelector`: all of them."""
    return ",".join(f"{name}={value}" for name, value in sorted(labels.items()))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH]
