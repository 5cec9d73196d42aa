"""The launcher, before an API server that does what a test says."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dapo.spec.workloads import Workload
from services.orchestrator.launch.kubernetes.names import object_name
from services.orchestrator.launch.kubernetes.objects import Cluster, owner_of
from services.orchestrator.launch.kubernetes.placed import Explanations, PlacedRun
from services.orchestrator.launch.kubernetes.pods.template import Place
from services.orchestrator.launch.kubernetes.settings import Templates
from services.orchestrator.launch.kubernetes.workers import KubernetesLauncher
from services.orchestrator.launch.launcher import LaunchError, RunTarget, WorkerState
from tests.support.cluster.templates import URL, make_templates

GENERATORS = Workload("generator", "generator", 2, "services.generator")
RUNS = {"phase": "Running", "containerStatuses": [{"name": "worker", "state": {"running": {}}, "restartCount": 0}]}
MADE = {
    "phase": "Pending",
    "conditions": [{"type": "PodScheduled", "status": "True"}],
    "containerStatuses": [{"name": "worker", "state": {"waiting": {"reason": "ContainerCreating"}}}],
}


class Api:
    namespace = "lab"

    def __init__(self, events: list[dict[str, Any]] | None) -> None:
        """`events`: None where they cannot be read."""
        self.deleted: list[str] = []
        self.pods: dict[str, dict[str, Any]] = {}
        self.kept: dict[str, dict[str, Any]] = {}
        self.scaled: dict[str, int] = {}
        self.asked: list[str] = []
        self._events = events

    async def get(self, kind: str, name: str) -> dict[str, Any] | None:
        return self.kept.get(name)

    async def apply(self, manifest: dict[str, Any]) -> dict[str, Any]:
        name = manifest["metadata"]["name"]
        self.kept[name] = {**manifest, "metadata": {**manifest["metadata"], "uid": f"of {name}"}}
        return self.kept[name]

    async def scale(self, kind: str, name: str, replicas: int) -> None:
        self.scaled[name] = replicas

    async def delete(self, kind: str, name: str, **_: Any) -> None:
        self.deleted.append(name)
        self.pods.pop(name)

    async def log(self, name: str, container: str, lines: int, *, previous: bool) -> str:
        return f"of {name}"

    async def find_all(self, kind: str, query: dict[str, str]) -> list[dict[str, Any]]:
        if kind != "Event":
            return []
        self.asked.append(query["fieldSelector"])
        if self._events is None:
            raise LaunchError("events are forbidden")
        return self._events


def pod(index: int, run: RunTarget, status: dict[str, Any]) -> dict[str, Any]:
    labels = {"dapo.dev/run": run.run_id, "dapo.dev/workload": "generator", "dapo.dev/term": "7"}
    metadata = {"name": f"toy-generator-{index}", "uid": f"uid-{index}", "labels": labels}
    return {"metadata": metadata, "spec": {}, "status": status}


def launcher_of(api: Api, run: RunTarget, templates: Templates) -> KubernetesLauncher:
    made = KubernetesLauncher(
        *(api, templates, Cluster("lab")),  # type: ignore[arg-type]
        **{"state_dir": Path("/srv/dapo"), "redis_url": URL, "is_done": lambda folder: False},
    )
    made._runs[run.run_id] = PlacedRun(run, [GENERATORS], templates)
    asyncio.run(api.apply(owner_of(run, templates, Cluster("lab"), Place("runs/toy", URL))))
    made._watch._pods = api.pods
    return made


def test_a_worker_that_an_autoscaler_has_made_is_started_again(run: RunTarget) -> None:
    api = Api([])
    launcher = launcher_of(api, run, make_templates(scaled_by_others=["generator"]))
    api.pods |= {one["metadata"]["name"]: one for one in (pod(index, run, RUNS) for index in range(4))}
    assert [one.worker_id for one in asyncio.run(launcher.observe(run.run_id))][3] == "generator-3"
    asyncio.run(launcher.restart(run.run_id, ["generator-3"]))
    assert api.deleted == ["toy-generator-3"]


LEARNER = Workload("learner", "learner", 4, "services.learner")


def shared_pod(index: int, run: RunTarget, status: dict[str, Any]) -> dict[str, Any]:
    """Of two ranks."""
    one = pod(index, run, status)
    labels = {**one["metadata"]["labels"], "dapo.dev/workload": "learner"}
    metadata = {"name": f"toy-learner-{index}", "labels": labels, "annotations": {"dapo.dev/workers": "2"}}
    return {**one, "metadata": {**one["metadata"], **metadata}}


def test_ranks_that_share_pods_are_observed_and_started_again_together(run: RunTarget, tmp_path: Path) -> None:
    api, here = Api([]), replace(run, run_dir=tmp_path / "runs" / "toy")
    templates = make_templates(learner="StatefulSet", ranks_per_pod=2)
    launcher = launcher_of(api, here, templates)
    launcher._state_dir = tmp_path
    launcher._runs[run.run_id] = PlacedRun(here, [LEARNER], templates)

    async def states() -> dict[str, str]:
        return {one.worker_id: one.state.value for one in await launcher.observe(run.run_id)}

    async def scenario() -> None:
        ranks = [f"learner-{index}" for index in range(4)]
        api.pods["toy-learner-0"] = shared_pod(0, run, RUNS)
        assert await states() == {**dict.fromkeys(ranks[:2], "running"), **dict.fromkeys(ranks[2:], "starting")}
        over = {"exitCode": 1, "message": '{"learner-3": 1}'}
        status = {"containerStatuses": [{"name": "worker", "state": {"terminated": over}}]}
        api.pods["toy-learner-1"] = shared_pod(1, run, status)
        assert await states() == dict(zip(ranks, ("running", "running", "starting", "exited"), strict=True))
        logs = here.run_dir / "logs"
        logs.mkdir(parents=True)
        (logs / "learner-3.log").write_text("of the rank alone\n")
        told = await launcher.logs(run.run_id, "learner-3")
        assert (told.source, told.text.strip()) == (str(logs / "learner-3.log"), "of the rank alone")
        await launcher.restart(run.run_id, ranks)
        assert api.deleted == ["toy-learner-0", "toy-learner-1"]
        # Of the pods that an apply finds, those that have ended go, and there are as many as hold the ranks.
        api.pods |= {"toy-learner-0": shared_pod(0, run, RUNS), "toy-learner-1": shared_pod(1, run, status)}
        await launcher.apply(here, [LEARNER])
        assert api.deleted[2:] == ["toy-learner-1"]
        assert api.scaled == {object_name(run.run_id, "learner"): 2}

    asyncio.run(scenario())


def test_the_log_of_a_worker_that_has_its_pod_for_itself_is_the_pods(run: RunTarget) -> None:
    api = Api([])
    launcher = launcher_of(api, run, make_templates())
    api.pods["toy-generator-1"] = pod(1, run, RUNS)
    told = asyncio.run(launcher.logs(run.run_id, "generator-1"))
    assert told == ("kubectl logs -n lab toy-generator-1", "of toy-generator-1")


def test_a_volume_that_cannot_be_mounted_is_told_with_the_words_of_its_node(
    run: RunTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [time.monotonic()]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    failed = {"type": "Warning", "reason": "FailedMount", "message": 'secret "x" not found', "metadata": {}}
    api = Api([failed])
    launcher = launcher_of(api, run, make_templates())
    for name, one in ((f"p{index}", pod(index, run, MADE if index else RUNS)) for index in range(2)):
        api.pods[name] = one

    async def look(after_s: float) -> tuple[WorkerState, str]:
        now[0] += after_s
        launcher._watch._hear()
        first, second = await launcher.observe(run.run_id)
        assert first.state == WorkerState.RUNNING
        return second.state, second.reason

    async def look_on() -> None:
        assert await look(0) == (WorkerState.STARTING, "")
        assert await look(59) == (WorkerState.STARTING, "")
        assert api.asked == []
        state, reason = await look(2)
        assert state == WorkerState.STARTING
        assert 'secret "x" not found' in reason
        await look(1)
        assert api.asked == ["involvedObject.uid=uid-1"]
        assert (await look(1790))[0] == WorkerState.STARTING
        assert (await look(10))[0] == WorkerState.FAILED
        del api.pods["p1"]
        api.pods["p2"] = pod(1, run, MADE) | {"metadata": {**pod(1, run, MADE)["metadata"], "uid": "another"}}
        assert await look(1) == (WorkerState.STARTING, "")

    asyncio.run(look_on())


def test_events_that_cannot_be_read_say_nothing_and_are_asked_once_a_minute() -> None:
    api, why = Api(None), Explanations()

    async def ask() -> None:
        for _ in range(3):
            await why.ask(api, "generator", "", lambda events: "never", "not made yet")  # type: ignore[arg-type]

    asyncio.run(ask())
    assert (why.words, len(api.asked)) == ({"generator": "not made yet"}, 1)
