"""What a run's pods mean: the state of each worker, and what is the matter in words. Pure, but for a Look."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from dapo.pod import read_ends, replicas_of
from dapo.spec.workloads import Role
from services.orchestrator.launch.kubernetes.names import COMPLETION_INDEX, CONTAINER, WORKLOAD, workers_in_each
from services.orchestrator.launch.kubernetes.settings import KubernetesSettings
from services.orchestrator.launch.launcher import WorkerState, WorkerStatus

Pod = Mapping[str, Any]
"""As the API server gives it."""
KILLED = -9
"""Code of a worker that was taken away: another may do better."""
ASKED = -15
NOT_MADE = "its pod has not been made yet"
_LONGEST = 240
_IMAGE = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    }
)
_CONFIGURATION = frozenset(
    {"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "CreatePodSandboxError"}
)
_VOLUMES = frozenset({"FailedMount", "FailedAttachVolume", "FailedMapVolume"})
_BEING_MADE = frozenset({"", "ContainerCreating", "PodInitializing"})
_NOT_STARTED = frozenset({"StartError", "ContainerCannotRun", "ContainerStatusUnknown"})
_PREEMPTED = "a pod of a higher priority took its place. Raise the priorityClassName of the run's pods, or add nodes"
_DISRUPTIONS = {
    "PreemptionByScheduler": _PREEMPTED,
    "PreemptionByKubeScheduler": _PREEMPTED,
    "DeletionByTaintManager": "its node is out of reach or was tainted, as a spot node is that is taken back",
    "EvictionByEvictionAPI": "it was evicted, as when its node is drained",
    "DeletionByPodGC": "its node is gone",
    "TerminationByKubelet": "its node was shut down or ran short of resources",
}
_POD_REASONS = {
    "Evicted": "its node ran short of resources ({}). Give its container requests of memory and ephemeral-storage that "
    "it keeps within",
    "Preempting": "its node needed the place for a pod of a higher priority ({})",
    "Preempted": "its node needed the place for a pod of a higher priority ({})",
    "NodeLost": "its node does not answer ({})",
    "NodeShutdown": "its node was shut down ({})",
    "Terminated": "its node was shut down ({})",
    "NodeAffinity": "its node no longer fits its nodeSelector or affinity ({})",
    "UnexpectedAdmissionError": "its node refused it ({}): most often a GPU that has just gone. Look at the device "
    "plugin there",
    "DeadlineExceeded": "its activeDeadlineSeconds are over ({}). Take that field out of the template: dapo ends runs",
}


Trouble = Literal["image", "node", "making", "kept"]
"""What a pod waits for: its image or configuration, a node, its node to make it, or what keeps that from it."""


@dataclass(frozen=True)
class Look:
    """How pods are looked at."""

    settings: KubernetesSettings
    now_s: float
    """Of a clock that never goes back."""
    since_s: dict[tuple[str, Trouble], float] = field(default_factory=dict)
    """Uid of a pod and its trouble → when that was first seen: a pod may have waited for other things before."""
    told: Mapping[str, str] = field(default_factory=dict)
    """Uid of a pod → what its events say, as `what_keeps_it`."""

    def waited_s(self, pod: Pod, trouble: Trouble) -> float:
        return self.now_s - self.since_s.setdefault((uid_of(pod), trouble), self.now_s)


def uid_of(pod: Pod) -> str:
    return pod["metadata"].get("uid") or ""


def index_of(pod: Pod) -> int | None:
    """Which replica of its workload a pod is; None where it tells none."""
    metadata = pod["metadata"]
    marks = {**(metadata.get("labels") or {}), **(metadata.get("annotations") or {})}
    text = marks.get(COMPLETION_INDEX)
    if text is None and (found := re.search(r"-(\d+)$", metadata["name"])):
        text = found[1]
    return int(text) if text is not None and text.isdecimal() else None


def workers_in(pod: Pod) -> list[str]:
    """Ids of the workers in a pod; none of a pod that is none of a run's."""
    workload = (pod["metadata"].get("labels") or {}).get(WORKLOAD)
    index = index_of(pod)
    if workload is None or index is None:
        return []
    return [f"{workload}-{replica}" for replica in replicas_of(index, workers_in_each(pod))]


def is_shared(pod: Pod) -> bool:
    """Whether several workers write its log."""
    return workers_in_each(pod) > 1


def newest(pods: Sequence[Pod]) -> Pod:
    """Of pods of one worker: a Job's predecessor may still be there."""
    return max(pods, key=lambda pod: (pod["metadata"].get("creationTimestamp") or "", uid_of(pod)))


def read_pod(pod: Pod, worker_id: str, role: Role, look: Look) -> WorkerStatus:
    """A worker as its pod shows it. Its `instance` is the pod: a container that is started again in the same pod runs
    no worker a second time (dapo/pod.py)."""
    state, code, reason = _read(pod, worker_id, look)
    return WorkerStatus(worker_id, role, state, code, reason, instance=uid_of(pod))


def missing(worker_id: str, role: Role, why: str = "") -> WorkerStatus:
    """A worker whose pod is not there yet."""
    return WorkerStatus(worker_id, role, WorkerState.STARTING, reason=why)


def has_ended_before(pod: Pod) -> bool:
    """Whether the container in which the worker ran is not the pod's last one."""
    return bool(_container((pod.get("status") or {}).get("containerStatuses")).get("restartCount"))


def why_none_is_made(events: Sequence[Mapping[str, Any]]) -> str:
    """What the events of a workload's controller say of pods that it does not make."""
    failed = [one for one in events if str(one.get("reason") or "").startswith("Failed")]
    if not failed:
        return NOT_MADE
    message = _short(max(failed, key=lambda one: one.get("lastTimestamp") or "").get("message"))
    if "quota" in message:
        return f"the namespace's quota does not allow its pod ({message}). Raise it, or ask for less"
    return f"the cluster refuses its pod ({message}). Change the role's template in the chart's values"


def is_being_made(pod: Pod) -> bool:
    """Whether a pod has a node, which has neither begun its worker nor says what is the matter."""
    status = pod.get("status") or {}
    worker = _container(status.get("containerStatuses"))
    state = worker.get("state") or {}
    waits = not {"running", "terminated"} & state.keys() and not worker.get("restartCount")
    quiet = ((state.get("waiting") or {}).get("reason") or "") in _BEING_MADE
    placed = status.get("phase") == "Pending" and _condition(status, "PodScheduled").get("status") == "True"
    return placed and waits and quiet and not pod["metadata"].get("deletionTimestamp")


def what_keeps_it(events: Sequence[Mapping[str, Any]]) -> str:
    """What the events of such a pod say; "" where its node gets on with it, as while it pulls a large image."""
    if not events:
        return ""
    last = max(events, key=lambda one: (_when(one), one.get("type") == "Warning"))
    reason, message = last.get("reason") or "", _short(last.get("message"))
    if reason in _VOLUMES:
        return (
            f"its volumes cannot be mounted ({message}). Most often a Secret or a ConfigMap that its template names is "
            "not there, or the volume is still attached to another node, which a claim of ReadWriteOnce does not leave"
        )
    if last.get("type") == "Warning":
        return f"its node cannot make it ({reason}: {message}). Look at that node, its network and its runtime"
    return ""


def _when(event: Mapping[str, Any]) -> str:
    return event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or ""


Found = tuple[WorkerState, int | None, str]


def _read(pod: Pod, worker_id: str, look: Look) -> Found:
    status = pod.get("status") or {}
    worker = _container(status.get("containerStatuses"))
    state = worker.get("state") or {}
    runs = "running" in state and not worker.get("restartCount")
    if pod["metadata"].get("deletionTimestamp"):
        if runs:
            return WorkerState.RUNNING, None, ""
        return WorkerState.FAILED, ASKED, f"its pod was taken away: {_disruption(status)}"
    if status.get("phase") == "Failed" and (words := _taken_away(status)):
        return WorkerState.FAILED, KILLED, words
    if runs:
        return WorkerState.RUNNING, None, ""
    if ended := state.get("terminated") or (worker.get("lastState") or {}).get("terminated"):
        return _ended(ended, worker_id, is_shared(pod))
    if "running" in state:
        return WorkerState.EXITED, KILLED, ""
    return _waiting(pod, status, state.get("waiting") or {}, look)


def _container(statuses: list[dict[str, Any]] | None) -> dict[str, Any]:
    return next((one for one in statuses or [] if one.get("name") == CONTAINER), {})


def _disruption(status: Mapping[str, Any]) -> str:
    target = _condition(status, "DisruptionTarget")
    found = _DISRUPTIONS.get(target.get("reason") or "")
    return found or _short(target.get("message")) or "somebody deleted it, or its node was drained"


def _taken_away(status: Mapping[str, Any]) -> str:
    reason = status.get("reason") or ""
    message = _short(status.get("message")) or reason
    if words := _POD_REASONS.get(reason):
        return f"its pod was taken away: {words.format(message)}"
    if reason.startswith("OutOf"):
        return f"its node had no room for it after all ({message})"
    if _condition(status, "DisruptionTarget"):
        return f"its pod was taken away: {_disruption(status)}"
    return ""


def _ended(ended: Mapping[str, Any], worker_id: str, shared: bool) -> Found:
    reason, number = ended.get("reason") or "", int(ended.get("exitCode") or 0)
    if reason == "OOMKilled":
        words = (
            "it took more memory than its container's limit, and was killed. Raise resources.limits.memory of the "
            "role in the chart's values, or let it take less"
        )
        return WorkerState.FAILED, KILLED, words
    if reason == "ContainerStatusUnknown":
        return WorkerState.FAILED, KILLED, "its node lost sight of it, as when it was started anew"
    if reason in _NOT_STARTED:
        words = f"its container cannot be started ({_short(ended.get('message')) or reason}). Look at the image"
        return WorkerState.FAILED, None, words
    if shared and (ends := read_ends(ended.get("message"))) is not None:
        if worker_id not in ends:
            # It was ended for the sake of one that failed, which is the one to be judged.
            return WorkerState.STARTING, None, ""
        number = ends[worker_id]
    # As a shell tells it: 128 and the signal.
    return WorkerState.EXITED, 128 - number if number > 128 else number, ""


def _waiting(pod: Pod, status: Mapping[str, Any], waiting: Mapping[str, Any], look: Look) -> Found:
    """Of a pod whose worker has not begun."""
    scheduled = _condition(status, "PodScheduled")
    trouble = _trouble(waiting, "") or next(
        (
            words
            for one in status.get("initContainerStatuses") or []
            if (words := _trouble((one.get("state") or {}).get("waiting") or {}, f"init container {one['name']}: "))
        ),
        "",
    )
    if trouble:
        return _patiently(trouble, look.waited_s(pod, "image") >= look.settings.image_s)
    if scheduled.get("status") == "False":
        message = _short(scheduled.get("message"))
        if scheduled.get("reason") == "SchedulingGated":
            return WorkerState.STARTING, None, f"it waits to be admitted, by Kueue or another gate ({message})"
        words = (
            f"no node takes it ({message}). Free or add nodes, or ask for less: resources, nodeSelector, tolerations "
            "and affinity of the role in the chart's values"
        )
        return _patiently(words, look.waited_s(pod, "node") >= look.settings.pending_s)
    if words := look.told.get(uid_of(pod), "") if is_being_made(pod) else "":
        return _patiently(words, look.waited_s(pod, "kept") >= look.settings.pending_s)
    return WorkerState.STARTING, None, ""


def _trouble(waiting: Mapping[str, Any], where: str) -> str:
    reason, message = waiting.get("reason") or "", _short(waiting.get("message"))
    if reason in _IMAGE:
        cure = "Look at its name and tag in the chart's values, and at imagePullSecrets"
        return f"{where}its image cannot be pulled ({message or reason}). {cure}"
    if reason in _CONFIGURATION:
        cure = "Most often a Secret, a ConfigMap or a volume that its template names is not there"
        return f"{where}its container cannot be made ({message or reason}). {cure}"
    if reason == "CrashLoopBackOff" and where:
        return f"{where}it ends again and again ({message or reason}). Its log says why"
    return ""


def _patiently(words: str, over: bool) -> Found:
    return (WorkerState.FAILED if over else WorkerState.STARTING), None, words


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    return next((one for one in status.get("conditions") or [] if one.get("type") == kind), {})


def _short(text: str | None) -> str:
    one_line = " ".join((text or "").split())
    return one_line if len(one_line) <= _LONGEST else one_line[:_LONGEST] + "…"
