"""Runs of a cluster are counted, and nothing else of them."""

from dapo.spec import parse_spec
from dapo.spec.problem import Problem
from services.orchestrator.queue.capacity import Capacity
from services.orchestrator.queue.cluster import ClusterCapacity
from services.orchestrator.queue.rule import Waiting, judge

LARGE = parse_spec(
    """
model: {path: Qwen/Qwen2.5-32B}
data: {path: openai/gsm8k}
resources: {generator: {device: cuda, replicas: 64, tensor_parallel: 8}, learner: {device: cuda, ranks: 64}}
"""
)


def test_a_run_of_any_size_fits_and_so_many_at_a_time() -> None:
    cluster: Capacity = ClusterCapacity(runs=1)
    assert cluster.misfits(LARGE) == []
    assert cluster.room("a", LARGE, LARGE, [LARGE]) == ""
    waiting = [Waiting(name, cluster.needs(LARGE), 0, 0.0) for name in ("a", "b")]
    first, second = judge(waiting, cluster.has, cluster.taken([]), 0, 0.0)
    assert (first.starts, second.starts) == (True, False)
    assert second.reason == "1 of 1 run under way (--max-runs)"
    everything = judge(waiting, ClusterCapacity().has, cluster.taken([LARGE]), 5, 0.0)
    assert [one.starts for one in everything] == [True, True]


def test_a_run_that_its_launcher_could_never_place_does_not_fit() -> None:
    problem = Problem("resources.learner.ranks", "64", "its ranks cannot be divided")
    assert ClusterCapacity(misfits=lambda spec: [problem]).misfits(LARGE) == [problem]


def test_what_is_shown_of_it_is_its_runs() -> None:
    shown = ClusterCapacity(runs=3).view([LARGE], [])
    assert (shown.runs.most, shown.runs.under_way) == (3, 1)
    assert not shown.HasField("gpus")
