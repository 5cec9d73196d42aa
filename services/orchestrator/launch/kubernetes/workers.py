"""The launcher `kubernetes`: workers as pods, which outlive the run service that asked for them."""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from weakref import WeakValueDictionary

from dapo.host.files import tail
from dapo.records.folder import RunFolder
from dapo.spec.workloads import Workload
from services.orchestrator.launch.kubernetes import objects, reading
from services.orchestrator.launch.kubernetes.api import ApiError, KubernetesApi, Manifest
from services.orchestrator.launch.kubernetes.names import (
    CONTAINER,
    EPOCH,
    TERM,
    WORKLOAD,
    base_name,
    common_labels,
    object_name,
    run_label,
    run_labels,
    selector,
)
from services.orchestrator.launch.kubernetes.objects import Cluster, Kind, resolved
from services.orchestrator.launch.kubernetes.placed import PlacedRun, check_scaling, snapshot_of, workers_of
from services.orchestrator.launch.kubernetes.pods.ranks import pods_of
from services.orchestrator.launch.kubernetes.pods.template import Place
from services.orchestrator.launch.kubernetes.removal import Removal
from services.orchestrator.launch.kubernetes.settings import Templates
from services.orchestrator.launch.kubernetes.sweeping import Sweep
from services.orchestrator.launch.kubernetes.watching import PodWatch
from services.orchestrator.launch.launcher import LaunchError, LogTail, RunTarget, WorkerState, WorkerStatus

log = logging.getLogger(__name__)

_BUILT_IN: tuple[Kind, ...] = ("StatefulSet", "Job")
_KINDS: tuple[Kind, ...] = (*_BUILT_IN, "JobSet")
_ENDED = (WorkerState.EXITED, WorkerState.FAILED)
_LIST_S = 30.0
_OUTAGE_S = 900.0
"""How long an API server may be silent while a run goes on: its workers do not need it."""
_LOG_LINES = 30
_MISSING_S = 20.0
"""A pod that its controller has not made for so long has a reason, for which the controller's events are read."""
_SLOW_S = 60.0
"""So has one that its node has not made."""


class KubernetesLauncher:
    """Implements Launcher. Places the workers of any number of runs as pods of one namespace.

    Parts: what objects a run has (`objects`) and what pods mean (`reading`), both pure; the API server (`api`), and
    one watch of all pods (`watching`), from which `observe` answers.
    Promises: a worker is a pod, or one of a pod's processes, found again by its labels; dapo alone starts it again, by
    deleting the pod. Everything of a run is owned by its ConfigMap, which has the templates that it began with and the
    epoch of the newest orchestrator that changed it: an older one is refused. Its volumes have no owner.
    Restart: pods go on. `adopt` and `apply` find what there is; a worker of the same term stays as it is, one of
    another is replaced.
    """

    elastic = False
    keeps_workers = True

    def __init__(
        self,
        api: KubernetesApi,
        templates: Templates,
        cluster: Cluster,
        *,
        state_dir: Path,
        redis_url: str,
        is_done: Callable[[Path], bool],
    ) -> None:
        """`state_dir`: of the service, on the volume that the templates call `runs`. `redis_url`: that of the secret
        that the templates name. `is_done`: as in Sweep."""
        self._api = api
        self._templates = templates
        self._cluster = cluster
        self._state_dir = state_dir.resolve()
        self._redis_url = redis_url
        self._watch = PodWatch(api, selector(common_labels(templates.settings.instance)))
        self._removal = Removal(api, self._watch)
        self._runs: dict[str, PlacedRun] = {}
        self._sweep = Sweep(
            *(api, templates.settings.instance, self._state_dir),
            is_done=is_done,
            knows=self._runs.__contains__,
            stop=self.stop,
        )
        self._sweeping: asyncio.Task[None] | None = None
        self._changing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def open(self) -> None:
        """Raises LaunchError where the API server does not tell of pods."""
        self._watch.start()
        if not await asyncio.to_thread(self._watch.wait_listed, _LIST_S):
            self._watch.close()
            raise LaunchError(f"the cluster's pods could not be listed for {_LIST_S:g} s: {self._watch.trouble}")
        self._sweeping = asyncio.create_task(self._sweep.run(), name="sweep of the cluster")

    async def close(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait({self._sweeping})
        await asyncio.to_thread(self._watch.close)
        self._api.close()

    def _one_change(self, run_id: str) -> asyncio.Lock:
        return self._changing.setdefault(run_id, asyncio.Lock())

    async def apply(self, run: RunTarget, workloads: Sequence[Workload]) -> None:
        async with self._one_change(run.run_id):
            before = self._runs.get(run.run_id)
            check_scaling(before, workloads)
            owner = await self._owner(run)
            try:
                await self._bring_about(run, workloads, owner)
            except LaunchError:
                await self._take_back(run, before, new=owner is None)
                raise

    async def _owner(self, run: RunTarget) -> Manifest | None:
        """The run's ConfigMap, if there is one. Raises LaunchError where a newer orchestrator has changed it."""
        owner = await self._api.get("ConfigMap", base_name(run.run_id))
        newest = int(((owner or {}).get("metadata", {}).get("annotations") or {}).get(EPOCH) or 0)
        if newest > run.epoch:
            raise LaunchError(
                f"run {run.run_id} is led by another run service (epoch {newest}, this one has {run.epoch}): its "
                "workers are not this one's to change"
            )
        return owner

    async def _bring_about(self, run: RunTarget, workloads: Sequence[Workload], owner: Manifest | None) -> None:
        known = self._runs.get(run.run_id)
        templates = resolved(self._templates, self._cluster) if owner is None else snapshot_of(owner)
        state = PlacedRun(run, workloads, templates)
        if known is not None:
            state.seen_s, state.since_s = dict(known.seen_s), known.since_s
        self._runs[run.run_id] = state
        now_s = time.monotonic()
        for worker_id in (worker_id for workload in workloads for worker_id in workload.worker_ids):
            state.seen_s.setdefault(worker_id, now_s)
        place = self._place(run)
        owner = await self._api.apply(objects.owner_of(run, templates, self._cluster, place))
        await self._api.apply(objects.service_of(run, templates, self._cluster, owner))
        made = [self._manifest(state, workload, owner) for workload in workloads]
        await self._remove_others(run.run_id, made)
        for workload, manifest in zip(workloads, made, strict=True):
            if manifest["kind"] == "StatefulSet":
                await self._apply_set(state, workload, manifest)
            else:
                await self._apply_job(state, workload, manifest)
            if (scaling := objects.scaling_of(run, workload, templates, self._cluster, owner)) is not None:
                await self._api.apply(scaling)

    def _manifest(self, state: PlacedRun, workload: Workload, owner: Manifest) -> Manifest:
        """Raises LaunchError."""
        place = self._place(state.target)
        return objects.workload_of(state.target, workload, state.templates, self._cluster, place, owner)

    def _place(self, run: RunTarget) -> Place:
        """Raises LaunchError."""
        try:
            return Place(str(run.run_dir.resolve().relative_to(self._state_dir)), self._redis_url)
        except ValueError:
            raise LaunchError(
                f"{run.run_dir} does not lie below --state-dir {self._state_dir}, which is what pods have of this "
                "service's files. Let the run have its folder there"
            ) from None

    async def _apply_set(self, state: PlacedRun, workload: Workload, manifest: Manifest) -> None:
        """A StatefulSet with its number of replicas, and without pods that have ended or are of another term."""
        name = manifest["metadata"]["name"]
        before = await self._api.get("StatefulSet", name)
        await self._api.apply(manifest)
        pods = pods_of(workload, state.templates.settings)
        others_scale = state.templates.settings.others_scale(workload.name)
        if before is None or (not others_scale and before["spec"].get("replicas") != pods):
            await self._api.scale("StatefulSet", name, pods)
        over = [pod for pod in self._pods(state, workload) if self._is_over(state, workload, pod)]
        await self._removal.pods(over)

    async def _apply_job(self, state: PlacedRun, workload: Workload, manifest: Manifest) -> None:
        """A Job or JobSet never changes: one whose pods are over is made anew."""
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        pods = self._pods(state, workload)
        found = await self._api.get(kind, name)
        if found is not None:
            over = any(self._is_over(state, workload, pod) for pod in pods)
            if not over and objects.ranks_of(found) == workload.replicas:
                return
            await self._removal.job(kind, name, pods)
        await self._api.apply(manifest)

    def _is_over(self, state: PlacedRun, workload: Workload, pod: Manifest) -> bool:
        """Whether a worker in it has ended, or acts for a term of before."""
        if pod["metadata"]["labels"].get(TERM) != str(state.target.term):
            return True
        look = state.look()
        found = (reading.read_pod(pod, worker, workload.role, look) for worker in reading.workers_in(pod))
        return any(status.state in _ENDED for status in found)

    def _pods(self, state: PlacedRun, workload: Workload | None = None) -> list[Manifest]:
        found = self._watch.pods(run_label(state.target.run_id))
        return [pod for pod in found if workload is None or pod["metadata"]["labels"].get(WORKLOAD) == workload.name]

    async def _remove_others(self, run_id: str, wanted: Sequence[Manifest]) -> None:
        """Objects of workloads that the run no longer has."""
        labels = {"labelSelector": selector(run_labels(self._templates.settings.instance, run_id))}
        names = {(one["kind"], one["metadata"]["name"]) for one in wanted}
        for kind in _KINDS if self._cluster.jobsets else _BUILT_IN:
            for one in await self._api.find_all(kind, labels):
                if (kind, one["metadata"]["name"]) not in names:
                    await self._api.delete(kind, one["metadata"]["name"])

    async def _take_back(self, run: RunTarget, before: PlacedRun | None, *, new: bool) -> None:
        """What was begun is undone as far as the API server lets it; the error that is raised says what was refused."""
        try:
            if new:
                await self._remove_run(run.run_id)
            elif before is not None:
                self._runs[run.run_id] = before
                scaled = [one for one in before.workloads if not before.templates.settings.others_scale(one.name)]
                for workload in scaled:
                    name = object_name(run.run_id, workload.name)
                    if await self._api.get("StatefulSet", name) is not None:
                        await self._api.scale("StatefulSet", name, pods_of(workload, before.templates.settings))
        except LaunchError as error:
            log.warning("what was begun of %s is left in the cluster: %s", run.run_id, error)

    async def restart(self, run_id: str, worker_ids: Collection[str]) -> None:
        async with self._one_change(run_id):
            if (state := self._runs.get(run_id)) is None:
                raise LaunchError(f"the workers of run {run_id} were stopped: none of them is started again")
            owner = await self._owner(state.target)
            if owner is None:
                raise LaunchError(f"the objects of run {run_id} were deleted: none of its workers is started again")
            now_s = time.monotonic()
            state.seen_s |= dict.fromkeys(worker_ids, now_s)
            for workload in state.workloads:
                # By name: an autoscaler may have made more of them than the workload has.
                mine = {worker for worker in worker_ids if worker.rpartition("-")[0] == workload.name}
                pods = self._pods(state, workload)
                if not mine:
                    continue
                manifest = self._manifest(state, workload, owner)
                if manifest["kind"] == "StatefulSet":
                    await self._removal.pods([pod for pod in pods if mine.intersection(reading.workers_in(pod))])
                else:
                    await self._removal.job(manifest["kind"], manifest["metadata"]["name"], pods)
                    await self._api.apply(manifest)

    async def observe(self, run_id: str) -> list[WorkerStatus]:
        if (state := self._runs.get(run_id)) is None:
            return []
        if self._watch.silent_s > _OUTAGE_S:
            raise LaunchError(
                f"the cluster's API server has told nothing of the run's pods for {self._watch.silent_s:.0f} s: "
                f"{self._watch.trouble}"
            )
        look = state.look()
        await self._ask_about_pods(state, look)
        found: list[WorkerStatus] = []
        for workload in state.workloads:
            pods: dict[str, list[Manifest]] = {}
            for pod in self._pods(state, workload):
                for worker in reading.workers_in(pod):
                    pods.setdefault(worker, []).append(pod)
            late = False
            for worker in workers_of(state, workload, pods):
                if worker in pods:
                    state.seen_s[worker] = time.monotonic()
                    found.append(reading.read_pod(reading.newest(pods[worker]), worker, workload.role, look))
                else:
                    late |= time.monotonic() - state.seen_s.setdefault(worker, time.monotonic()) > _MISSING_S
                    found.append(reading.missing(worker, workload.role, state.why.words.get(workload.name, "")))
            if late:
                fields = f"involvedObject.name={object_name(run_id, workload.name)},type=Warning"
                await state.why.ask(self._api, workload.name, fields, reading.why_none_is_made, reading.NOT_MADE)
            else:
                state.why.forget(workload.name)
        return found

    async def _ask_about_pods(self, state: PlacedRun, look: reading.Look) -> None:
        """Why a node has not made them for long: a pod itself does not tell that a volume cannot be mounted."""
        pods = {reading.uid_of(pod): pod for pod in self._pods(state)}
        state.forget_others(pods)
        slow = [
            uid for uid, pod in pods.items() if reading.is_being_made(pod) and look.waited_s(pod, "making") > _SLOW_S
        ]
        asked = (state.why.ask(self._api, uid, f"involvedObject.uid={uid}", reading.what_keeps_it) for uid in slow)
        await asyncio.gather(*asked)

    async def logs(self, run_id: str, worker_id: str) -> LogTail:
        state = self._runs[run_id]
        path = RunFolder(state.target.run_dir).logs / f"{worker_id}.log"
        pods = [pod for pod in self._pods(state) if worker_id in reading.workers_in(pod)]
        if pods and not reading.is_shared(pod := reading.newest(pods)):
            name = pod["metadata"]["name"]
            try:
                text = await self._api.log(name, CONTAINER, _LOG_LINES, previous=reading.has_ended_before(pod))
            except ApiError as error:
                log.info("the log of %s is read from its file: %s", name, error)
            else:
                if text.strip():
                    return LogTail(f"kubectl logs -n {self._api.namespace} {name}", text.rstrip("\n"))
        return LogTail(str(path), tail(path) if path.exists() else "")

    async def stop(self, run_id: str) -> None:
        async with self._one_change(run_id):
            state = self._runs.get(run_id)
            if state is not None:
                await self._owner(state.target)
            await self._remove_run(run_id)

    async def _remove_run(self, run_id: str) -> None:
        await self._remove_others(run_id, ())
        await self._removal.pods(self._watch.pods(run_label(run_id)))
        self._runs.pop(run_id, None)
        for kind in ("Service", "ConfigMap"):
            await self._api.delete(kind, base_name(run_id))

    async def leave(self, run_id: str) -> None:
        self._runs.pop(run_id, None)

    async def adopt(self, run: RunTarget, workloads: Sequence[Workload]) -> list[WorkerStatus]:
        async with self._one_change(run.run_id):
            owner = await self._owner(run)
            if owner is None:
                return []
            self._runs[run.run_id] = state = PlacedRun(run, workloads, snapshot_of(owner))
            here = {worker for pod in self._pods(state) for worker in reading.workers_in(pod)}
            return [status for status in await self.observe(run.run_id) if status.worker_id in here]
