"""Which runs agents have room for."""

from dataclasses import replace
from typing import cast

import pytest

import dapo
from dapo.bus.agents import Agent, Known, Order
from dapo.spec.run import RunSpec
from dapo.spec.workloads import MODULES
from services.orchestrator.launch.attached.census import Census
from services.orchestrator.launch.launcher import LaunchError
from services.orchestrator.queue.pool import Pool
from services.orchestrator.runs.placement import with_replicas
from tests.support.spec import spec


class Seen:
    """Stands in for a census."""

    def __init__(self, *roles: str) -> None:
        self.latest = [
            Known(Agent(f"{role}-{at}", role, "host", cores=2), None, None, "") for at, role in enumerate(roles)
        ]

    def give(self, at: int, run_id: str, worker_id: str) -> None:
        role = self.latest[at].agent.role
        self.latest[at] = self.latest[at]._replace(order=Order(run_id, worker_id, role, MODULES[role], "runs/r"))


def pool(seen: Seen, runs: int | None = None) -> Pool:
    return Pool(cast(Census, seen), runs=runs)


def run_of(generators: int = 1, **generator: object) -> RunSpec:
    devices = {"resources__learner": {"device": "cpu"}}
    return spec(resources__generator={"replicas": generators, "device": "cpu", **generator}, **devices)


ALL = ("generator", "verifier", "learner")


def test_a_run_waits_until_an_agent_is_free_for_each_of_its_workers() -> None:
    seen = Seen("generator", "verifier", "learner")
    with pytest.raises(LaunchError, match=r"needs 1 more generator agent \(of 1 that are there 1 is free\)"):
        pool(seen).reserve("a", run_of(2))
    pool(Seen("generator", *ALL)).reserve("a", run_of(2))


def test_what_one_run_is_about_to_take_another_does_not_get() -> None:
    seen = Seen(*ALL)
    place = pool(seen)
    place.reserve("a", run_of())
    place.reserve("a", run_of())
    with pytest.raises(LaunchError, match="needs 1 more generator agent"):
        place.reserve("b", run_of())
    place.release("a")
    place.reserve("b", run_of())


def test_workers_of_a_run_that_goes_on_need_no_second_agent() -> None:
    seen = Seen(*ALL)
    for at, role in enumerate(ALL):
        seen.give(at, "a", f"{role}-0")
    place = pool(seen)
    place.reserve("a", run_of())
    with pytest.raises(LaunchError):
        place.reserve("b", run_of())


def test_a_run_that_can_do_with_fewer_starts_with_them() -> None:
    pool(Seen(*ALL)).reserve("a", run_of(2, max_replicas=4))


def test_there_is_room_for_as_many_more_as_are_free() -> None:
    now, seen = run_of(), Seen(*ALL, "generator")
    for at, role in enumerate(ALL):
        seen.give(at, "a", f"{role}-0")
    place = pool(seen)
    assert place.room("a", now, with_replicas(now, {"generator": 2}), [now]) == ""
    assert "needs 1 more generator agent" in place.room("a", now, with_replicas(now, {"generator": 3}), [now])


def test_an_agent_that_leaves_takes_none() -> None:
    seen = Seen(*ALL)
    seen.latest[0] = seen.latest[0]._replace(agent=replace(seen.latest[0].agent, leaving=True))
    with pytest.raises(LaunchError):
        pool(seen).reserve("a", run_of())


def test_what_there_is_of_all_agents_is_shown_and_each_machine_counts_once() -> None:
    seen = Seen(*ALL, "verifier")
    seen.give(0, "a", "generator-0")
    for at, (host, machine, cores) in enumerate([("c1", "m", 8), ("c2", "m", 8), ("box", "", 4), ("box", "", 4)]):
        agent = replace(seen.latest[at].agent, host=host, machine=machine, cores=cores, gpus=1)
        seen.latest[at] = seen.latest[at]._replace(agent=agent)
    view = pool(seen, runs=2).view([run_of()], [])
    assert (view.cores.total, view.cores.free, view.runs.most, view.runs.under_way) == (12, 8, 2, 1)
    assert (view.gpus.total, view.gpus.free) == (4, 3)
    assert [(one.id, one.host, one.worker_id, one.run_id) for one in view.agents][:2] == [
        ("generator-0", "c1", "generator-0", "a"),
        ("verifier-1", "c2", "", ""),
    ]
    assert {one.release for one in view.agents} == {dapo.__version__}


def test_a_run_on_gpus_has_no_room_on_an_agent_without_any() -> None:
    now = run_of(device="auto", max_replicas=4)
    seen = Seen(*ALL, "generator")
    for at, role in enumerate(ALL):
        seen.give(at, "a", f"{role}-0")
    place = pool(seen)
    assert place.room("a", now, with_replicas(now, {"generator": 2}), [now]) == ""
    seen.latest[0] = seen.latest[0]._replace(agent=replace(seen.latest[0].agent, gpus=1))
    assert "needs 1 more generator agent" in place.room("a", now, with_replicas(now, {"generator": 2}), [now])


def test_a_run_with_a_redis_of_its_own_never_starts() -> None:
    (problem,) = pool(Seen(*ALL)).misfits(spec(resources__redis={"url": "redis://other:6379"}))
    assert problem.field == "resources.redis.url"
