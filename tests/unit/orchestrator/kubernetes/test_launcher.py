"""The launcher, before an API server that does what a test says."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from dapo.spec.workloads import Workload
from services.orchestrator.launch.kubernetes.objects import Cluster
from services.orchestrator.launch.kubernetes.placed import Explanations, PlacedRun
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
        self.asked: list[str] = []
        self._events = events

    async def get(self, kind: str, name: str) -> dict[str, Any]:
        return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "uid": "owner"}}

    async def delete(self, kind: str, name: str, **_: Any) -> None:
        self.deleted.append(name)
        self.pods.pop(name)

    async def find_all(self, kind: str, query: dict[str, str]) -> list[dict[str, Any]]:
        assert kind == "Event"
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
    made._watch._pods = api.pods
    return made


def test_a_worker_that_an_autoscaler_has_made_is_started_again(run: RunTarget) -> None:
    api = Api([])
    launcher = launcher_of(api, run, make_templates(scaled_by_others=["generator"]))
    api.pods |= {one["metadata"]["name"]: one for one in (pod(index, run, RUNS) for index in range(4))}
    assert [one.worker_id for one in asyncio.run(launcher.observe(run.run_id))][3] == "generator-3"
    asyncio.run(launcher.restart(run.run_id, ["generator-3"]))
    assert api.deleted == ["toy-generator-3"]


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
