"""What is known of one run's workers in the cluster, and how that is read."""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from dapo.spec.workloads import Workload
from services.orchestrator.launch.kubernetes import objects, reading
from services.orchestrator.launch.kubernetes.api import KubernetesApi
from services.orchestrator.launch.kubernetes.pods.template import Manifest
from services.orchestrator.launch.kubernetes.settings import TemplateError, Templates, load_snapshot
from services.orchestrator.launch.launcher import LaunchError, RunTarget

log = logging.getLogger(__name__)

_ASK_S = 60.0
_ANSWER_S = 5.0


class Explanations:
    """What events say of objects of a run that do not get on. Promises: about each they are asked once a minute; events
    that cannot be read say nothing."""

    def __init__(self) -> None:
        self.words: dict[str, str] = {}
        """By name of a workload, or uid of a pod: as they told last."""
        self._asked_s: dict[str, float] = {}

    async def ask(
        self, api: KubernetesApi, key: str, fields: str, read: Callable[[Sequence[Manifest]], str], default: str = ""
    ) -> None:
        """`fields`: the fieldSelector of the events."""
        now_s = time.monotonic()
        if key in self._asked_s and now_s - self._asked_s[key] < _ASK_S:
            return
        self._asked_s[key] = now_s
        self.words.setdefault(key, default)
        try:
            async with asyncio.timeout(_ANSWER_S):
                self.words[key] = read(await api.find_all("Event", {"fieldSelector": fields}))
        except (LaunchError, TimeoutError) as error:
            log.info("the events of %s cannot be read: %s", key, error)

    def forget(self, key: str) -> None:
        self.words.pop(key, None)
        self._asked_s.pop(key, None)


@dataclass
class PlacedRun:
    target: RunTarget
    workloads: Sequence[Workload]
    templates: Templates
    seen_s: dict[str, float] = field(default_factory=dict)
    """Worker id → when its pod was seen last, or was asked for."""
    since_s: dict[tuple[str, reading.Trouble], float] = field(default_factory=dict)
    """As of a Look."""
    why: Explanations = field(default_factory=Explanations)

    def look(self) -> reading.Look:
        return reading.Look(self.templates.settings, time.monotonic(), self.since_s, self.why.words)

    def forget_others(self, uids: Collection[str]) -> None:
        """What was kept of pods that are gone."""
        for uid, trouble in [one for one in self.since_s if one[0] not in uids]:
            del self.since_s[uid, trouble]
            self.why.forget(uid)


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
