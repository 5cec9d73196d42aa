"""How a run grows into free agents and gives up generators whose agents have gone."""

import asyncio
from dataclasses import dataclass, field, replace

import pytest

from dapo.spec.run import RunSpec
from dapo.spec.workloads import plan_workloads
from services.orchestrator.control.growth import Growth
from services.orchestrator.control.scaling import Scale, scales_itself
from services.orchestrator.launch.launcher import LaunchError, RunTarget, WorkerState
from services.orchestrator.runs.placement import with_replicas
from tests.support.orchestrator.launcher import FakeLauncher
from tests.support.spec import spec


@dataclass
class Run:
    """Stands in for a run that goes on, in front of a fake launcher."""

    spec: RunSpec
    target: RunTarget
    launcher: FakeLauncher
    free: int = 0
    refuses: bool = False
    scaled: list[Scale] = field(default_factory=list)
    run_id: str = "run"

    def room(self, replicas: dict[str, int]) -> str:
        return "" if replicas["generator"] - self.spec.resources.generator.replicas <= self.free else "needs an agent"

    async def scale(self, scale: Scale) -> None:
        if self.refuses:
            raise LaunchError("another run was faster")
        self.scaled.append(scale)
        self.free -= max(0, scale.replicas["generator"] - self.spec.resources.generator.replicas)
        self.spec = with_replicas(self.spec, scale.replicas)
        await self.launcher.apply(self.target, plan_workloads(self.spec))

    def numbers(self) -> list[int]:
        return [scale.replicas["generator"] for scale in self.scaled]


@pytest.fixture
def run(tmp_path) -> Run:
    launcher = FakeLauncher()
    launcher.elastic = True
    run = Run(grown(1, 3), RunTarget("run", "redis://h", None, tmp_path), launcher)
    asyncio.run(launcher.apply(run.target, plan_workloads(run.spec)))
    return run


def grown(replicas: int, most: int) -> RunSpec:
    return spec(resources__generator={"replicas": replicas, "max_replicas": most})


def lose(run: Run, worker_id: str) -> None:
    """With its agent."""
    workers = run.launcher.workers["run"]
    workers[worker_id] = replace(workers[worker_id], state=WorkerState.FAILED, code=-9)


def look(run: Run, times: int = 1) -> None:
    growth = Growth(run, run.launcher)

    async def looks() -> None:
        for _ in range(times):
            await growth.look()

    asyncio.run(looks())


def test_free_agents_join_up_to_the_limit(run: Run) -> None:
    run.free = 1
    look(run)
    assert run.numbers() == [2]
    assert run.scaled[0].by == "agents"
    assert "1 agent came free, and the run wants up to 3" in run.scaled[0].reason
    run.free = 5
    look(run, 3)
    assert run.numbers() == [2, 3]


def test_a_generator_without_an_agent_is_given_up_in_time_and_never_the_last(run: Run) -> None:
    run.free = 2
    look(run)
    lose(run, "generator-2")
    look(run, 4)
    assert run.numbers() == [3]
    look(run, 5)
    assert run.numbers() == [3, 2]
    assert "1 of its agents is gone" in run.scaled[-1].reason
    lose(run, "generator-0")
    lose(run, "generator-1")
    look(run, 5)
    assert run.numbers() == [3, 2, 1]
    lose(run, "generator-0")
    look(run, 10)
    assert run.numbers() == [3, 2, 1]


def test_one_that_ended_by_itself_is_started_again_not_given_up(run: Run) -> None:
    run.free = 1
    look(run)
    run.launcher.end("run", "generator-1", 1)
    look(run, 10)
    assert run.numbers() == [2]


def test_a_change_that_is_refused_is_tried_again(run: Run) -> None:
    run.free, run.refuses = 1, True
    look(run, 2)
    run.refuses = False
    look(run)
    assert run.numbers() == [2]


def test_only_a_run_that_wants_more_grows_and_only_where_places_come_and_go(run: Run) -> None:
    async def ends_at_once(growth: Growth) -> None:
        await asyncio.wait_for(growth.run(), 0.2)

    run.launcher.elastic = False
    asyncio.run(ends_at_once(Growth(run, run.launcher)))
    run.launcher.elastic, run.spec = True, spec()
    asyncio.run(ends_at_once(Growth(run, run.launcher)))
    run.spec = grown(1, 3)
    with pytest.raises(TimeoutError):
        asyncio.run(ends_at_once(Growth(run, run.launcher)))


def test_nobody_else_scales_a_run_that_grows_by_itself() -> None:
    assert "resources.generator.max_replicas" in scales_itself(grown(1, 3))
