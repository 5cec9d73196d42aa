"""Ranks of a learner that share pods, on a real API server; a node that only says that pods run."""

from pathlib import Path
from typing import Any

import pytest

from services.orchestrator.launch.kubernetes.names import WORKERS, object_name
from services.orchestrator.launch.kubernetes.workers import KubernetesLauncher
from services.orchestrator.launch.launcher import LaunchError, WorkerState
from tests.integration.orchestrator.kubernetes.conftest import Namespace
from tests.integration.orchestrator.kubernetes.test_launcher import (
    RUN,
    all_run,
    come_about,
    kubelet,
    target,
    with_launcher,
    workloads,
)
from tests.support.cluster.kubelet import Kubelet

__all__ = ["kubelet"]
pytestmark = pytest.mark.slow
RANKS = [f"learner-{index}" for index in range(4)]


def learner_pods(namespace: Namespace) -> dict[str, dict[str, Any]]:
    """By name."""
    begin = object_name(RUN, "learner")
    return {name: pod for name, pod in namespace.pods().items() if name.startswith(begin)}


async def states(launcher: KubernetesLauncher) -> dict[str, tuple[str, int | None]]:
    """Of the ranks."""
    found = await launcher.observe(RUN)
    return {one.worker_id: (one.state.value, one.code) for one in found if one.role == "learner"}


def test_ranks_that_share_pods_start_end_and_go_on_together(
    namespace: Namespace, kubelet: Kubelet, tmp_path: Path
) -> None:
    together = {"ranks_per_pod": 2, "learner": "StatefulSet"}

    async def first(launcher: KubernetesLauncher) -> None:
        await launcher.apply(target(tmp_path), workloads(ranks=4))
        await all_run(launcher, 7)
        before = learner_pods(namespace)
        assert sorted(before) == [f"{object_name(RUN, 'learner')}-{index}" for index in (0, 1)]
        assert {pod["metadata"]["annotations"][WORKERS] for pod in before.values()} == {"2"}
        assert await states(launcher) == dict.fromkeys(RANKS, ("running", None))
        # A rank of the second pod ends: its node starts the container again, in which nothing runs.
        second = before[f"{object_name(RUN, 'learner')}-1"]
        over = {"terminated": {"exitCode": 1, "reason": "Error", "message": '{"learner-3": 1}'}}
        container = {**second["status"]["containerStatuses"][0], "restartCount": 1, "lastState": over}
        kubelet.set_status(second, {"containerStatuses": [container]})

        async def told() -> bool:
            return (await states(launcher))["learner-3"] == ("exited", 1)

        await come_about(told)
        assert (await states(launcher))["learner-2"] == ("starting", None), "it is none that failed"
        await launcher.restart(RUN, RANKS)
        await all_run(launcher, 7)
        after = learner_pods(namespace)
        assert after.keys() == before.keys()
        uids = [{pod["metadata"]["uid"] for pod in pods.values()} for pods in (before, after)]
        assert not uids[0] & uids[1]
        await launcher.leave(RUN)

    async def later(launcher: KubernetesLauncher) -> None:
        """Of a release whose ranks are pods of their own: the run goes on as it began."""
        before = namespace.pods().keys()
        found = await launcher.adopt(target(tmp_path, epoch=2), workloads(ranks=4))
        assert [one.worker_id for one in found if one.role == "learner"] == RANKS
        assert {one.state for one in found} == {WorkerState.RUNNING}
        await launcher.apply(target(tmp_path, epoch=2), workloads(ranks=4))
        await all_run(launcher, 7)
        assert namespace.pods().keys() == before
        # With eight ranks, of another term, as after a resume.
        await launcher.apply(target(tmp_path, term=3, epoch=3), workloads(ranks=8))
        await all_run(launcher, 11)
        assert len(learner_pods(namespace)) == 4
        await launcher.stop(RUN)
        assert namespace.pods() == {}

    with_launcher(namespace, tmp_path, first, **together)
    with_launcher(namespace, tmp_path, later)


def test_ranks_that_cannot_be_divided_leave_nothing(namespace: Namespace, tmp_path: Path) -> None:
    async def scenario(launcher: KubernetesLauncher) -> None:
        with pytest.raises(LaunchError, match=r"resources\.learner\.ranks = 3: .*learner\.ranksPerPod = 2"):
            await launcher.apply(target(tmp_path), workloads(ranks=3))
        assert await launcher.observe(RUN) == []

    with_launcher(namespace, tmp_path, scenario, ranks_per_pod=2)
    assert namespace.pods() == {}
    assert namespace.all("apis/apps/v1", "statefulsets") == []
