"""The launcher against a real API server and its controllers; a node that only says that pods run."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dapo.spec.workloads import Workload
from services.orchestrator.launch.kubernetes import removal
from services.orchestrator.launch.kubernetes.names import base_name, object_name
from services.orchestrator.launch.kubernetes.objects import Cluster
from services.orchestrator.launch.kubernetes.settings import Templates
from services.orchestrator.launch.kubernetes.workers import KubernetesLauncher
from services.orchestrator.launch.launcher import LaunchError, RunTarget, WorkerState
from tests.integration.orchestrator.kubernetes.conftest import Namespace
from tests.support.cluster.kubelet import Kubelet, node
from tests.support.cluster.templates import URL, make_templates
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow
Scenario = Callable[[KubernetesLauncher], Awaitable[None]]
RUN = "toy-20260101-120000-ab12"


@pytest.fixture
def kubelet(namespace: Namespace, tmp_path: Path) -> Iterator[Kubelet]:
    with node(namespace.kubeconfig, tmp_path / "pods") as running:
        yield running
    assert running.errors == []


def target(folder: Path, *, term: int = 1, epoch: int = 1) -> RunTarget:
    return RunTarget(RUN, URL, None, folder / "runs" / "toy", term, epoch)


def workloads(generators: int = 2, ranks: int = 2) -> list[Workload]:
    return [
        Workload("generator", "generator", generators, "services.generator"),
        Workload("verifier", "verifier", 1, "services.verifier"),
        Workload("learner", "learner", ranks, "services.learner"),
    ]


def with_launcher(
    namespace: Namespace,
    folder: Path,
    scenario: Scenario,
    templates: Templates | None = None,
    is_done: Callable[[Path], bool] = lambda folder: False,
    **settings: Any,
) -> None:
    async def main() -> None:
        api = namespace.api()
        cluster = Cluster(namespace.name, await api.version(), await api.has("JobSet"))
        known = (api, templates or make_templates(**settings), cluster)
        made = KubernetesLauncher(*known, state_dir=folder, redis_url=URL, is_done=is_done)
        await made.open()
        try:
            await scenario(made)
        finally:
            await made.close()

    asyncio.run(main())


async def come_about(ask: Callable[[], Awaitable[object]], timeout_s: float = 30.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not await ask():  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def all_run(launcher: KubernetesLauncher, count: int) -> None:
    async def look() -> bool:
        found = await launcher.observe(RUN)
        return len(found) == count and all(one.state == WorkerState.RUNNING for one in found)

    await come_about(look)


def names(namespace: Namespace, plural: str) -> list[str]:
    return [one["metadata"]["name"] for one in namespace.all("api/v1", plural)]


async def reasons(launcher: KubernetesLauncher) -> str:
    return " ".join(one.reason for one in await launcher.observe(RUN)).strip()


@pytest.mark.usefixtures("kubelet")
def test_a_run_is_placed_scaled_and_stopped(namespace: Namespace, tmp_path: Path) -> None:
    async def scenario(launcher: KubernetesLauncher) -> None:
        await launcher.apply(target(tmp_path), workloads())
        await all_run(launcher, 5)
        ids = [one.worker_id for one in await launcher.observe(RUN)]
        assert ids == ["generator-0", "generator-1", "verifier-0", "learner-0", "learner-1"]
        before = {name: pod["metadata"]["uid"] for name, pod in namespace.pods().items()}
        assert len(before) == 5
        await launcher.apply(target(tmp_path), workloads(generators=4))
        await all_run(launcher, 7)
        after = {name: pod["metadata"]["uid"] for name, pod in namespace.pods().items()}
        assert before.items() <= after.items(), "scaling replaces nobody"
        await launcher.apply(target(tmp_path), workloads(generators=1))
        await all_run(launcher, 4)
        await eventually(lambda: len(namespace.pods()) == 4)
        assert {name: uid for name, uid in before.items() if name in namespace.pods()} == {
            name: uid for name, uid in before.items() if not name.endswith("generator-1")
        }
        owner = next(one for one in namespace.all("api/v1", "configmaps") if one["metadata"]["name"] == base_name(RUN))
        for kind in ("apis/apps/v1:statefulsets", "api/v1:services"):
            for one in namespace.all(*kind.split(":")):
                assert [ref["uid"] for ref in one["metadata"]["ownerReferences"]] == [owner["metadata"]["uid"]]
        await launcher.stop(RUN)
        assert await launcher.observe(RUN) == []
        assert namespace.pods() == {}
        assert namespace.all("apis/apps/v1", "statefulsets") == namespace.all("api/v1", "services") == []
        assert base_name(RUN) not in names(namespace, "configmaps")
        await launcher.stop(RUN)

    with_launcher(namespace, tmp_path, scenario)


@pytest.mark.usefixtures("kubelet")
def test_a_restart_is_another_pod_of_the_same_name(namespace: Namespace, tmp_path: Path) -> None:
    async def scenario(launcher: KubernetesLauncher) -> None:
        await launcher.apply(target(tmp_path), workloads())
        await all_run(launcher, 5)
        before = {one.worker_id: one.instance for one in await launcher.observe(RUN)}
        await launcher.restart(RUN, ["generator-1", "learner-0", "learner-1"])
        await all_run(launcher, 5)
        after = {one.worker_id: one.instance for one in await launcher.observe(RUN)}
        assert {worker for worker in after if after[worker] != before[worker]} == {
            "generator-1",
            "learner-0",
            "learner-1",
        }
        await launcher.stop(RUN)

    with_launcher(namespace, tmp_path, scenario)


@pytest.mark.usefixtures("kubelet")
def test_a_later_service_takes_the_pods_over(namespace: Namespace, tmp_path: Path) -> None:
    async def first(launcher: KubernetesLauncher) -> None:
        await launcher.apply(target(tmp_path), workloads())
        await all_run(launcher, 5)
        await launcher.leave(RUN)
        assert await launcher.observe(RUN) == []

    async def second(launcher: KubernetesLauncher) -> None:
        before = {name: pod["metadata"]["uid"] for name, pod in namespace.pods().items()}
        found = await launcher.adopt(target(tmp_path, epoch=2), workloads())
        assert [one.worker_id for one in found if one.state == WorkerState.RUNNING] == [
            *("generator-0", "generator-1", "verifier-0", "learner-0", "learner-1"),
        ]
        await launcher.apply(target(tmp_path, epoch=2), workloads())
        await all_run(launcher, 5)
        assert {name: pod["metadata"]["uid"] for name, pod in namespace.pods().items()} == before
        for _, pod in namespace.pods().items():
            assert pod["spec"]["containers"][0]["image"].startswith("registry.example/"), "the templates of before"
        # An older one, which was frozen, changes nothing any more.
        for attempt in (
            launcher.apply(target(tmp_path), workloads(generators=3)),
            launcher.adopt(target(tmp_path), workloads()),
        ):
            with pytest.raises(LaunchError, match="led by another run service"):
                await attempt
        assert len(namespace.pods()) == 5
        # Of another term all are replaced.
        await launcher.apply(target(tmp_path, term=3, epoch=3), workloads())
        await all_run(launcher, 5)
        after = {name: pod["metadata"]["uid"] for name, pod in namespace.pods().items()}
        assert after.keys() == before.keys()
        assert not set(after.values()) & set(before.values())
        await launcher.stop(RUN)

    with_launcher(namespace, tmp_path, first)
    with_launcher(namespace, tmp_path, second, gpus={"auto": False})


@pytest.mark.usefixtures("kubelet")
def test_what_a_run_has_left_that_is_over_is_deleted_and_nothing_else(
    namespace: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.orchestrator.launch.kubernetes.sweeping._LOOK_S", 0.5)
    over: list[Path] = []

    async def left(launcher: KubernetesLauncher) -> None:
        await launcher.apply(target(tmp_path), workloads())
        await all_run(launcher, 5)
        over.append(tmp_path / "runs" / "toy")
        # While it goes on here, what others say of its folder is no reason.
        await asyncio.sleep(2)
        await all_run(launcher, 5)
        over.clear()
        await launcher.leave(RUN)

    async def found(launcher: KubernetesLauncher) -> None:
        await asyncio.sleep(2)
        assert len(namespace.pods()) == 5, "it goes on elsewhere"
        over.append(tmp_path / "runs" / "toy")
        await eventually(lambda: not namespace.pods())
        await eventually(lambda: base_name(RUN) not in names(namespace, "configmaps"))

    with_launcher(namespace, tmp_path, left, is_done=lambda folder: folder in over)
    with_launcher(namespace, tmp_path, found, is_done=lambda folder: folder in over)


@pytest.mark.usefixtures("kubelet")
def test_what_nobody_has_applied_is_not_there(namespace: Namespace, tmp_path: Path) -> None:
    async def scenario(launcher: KubernetesLauncher) -> None:
        assert await launcher.adopt(target(tmp_path), workloads()) == []
        assert await launcher.observe(RUN) == []
        with pytest.raises(LaunchError, match="none of them is started again"):
            await launcher.restart(RUN, ["generator-0"])
        await launcher.stop(RUN)

    with_launcher(namespace, tmp_path, scenario)


def test_what_becomes_of_pods_is_told(namespace: Namespace, kubelet: Kubelet, tmp_path: Path) -> None:
    async def scenario(launcher: KubernetesLauncher) -> None:
        kubelet.holds.set()
        await launcher.apply(target(tmp_path), workloads())
        await eventually(lambda: len(namespace.pods()) == 5)
        assert {one.state for one in await launcher.observe(RUN)} == {WorkerState.STARTING}
        kubelet.holds.clear()
        await all_run(launcher, 5)
        pod = namespace.pods()[f"{object_name(RUN, 'generator')}-0"]
        oom = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
        container = {**pod["status"]["containerStatuses"][0], "restartCount": 1, "lastState": oom}
        kubelet.set_status(pod, {"containerStatuses": [container]})

        await come_about(lambda: reasons(launcher))
        assert "Raise resources.limits.memory" in await reasons(launcher)
        # Where it has ended, an apply starts it again.
        await launcher.apply(target(tmp_path), workloads())
        await all_run(launcher, 5)
        assert namespace.pods()[pod["metadata"]["name"]]["metadata"]["uid"] != pod["metadata"]["uid"]
        # A pod that somebody deletes comes back by itself.
        namespace.admin.ask("DELETE", f"/api/v1/namespaces/{namespace.name}/pods/{object_name(RUN, 'verifier')}-0")
        await asyncio.sleep(0.5)
        await all_run(launcher, 5)
        await launcher.stop(RUN)

    with_launcher(namespace, tmp_path, scenario)


@pytest.mark.usefixtures("kubelet")
def test_an_autoscaler_writes_the_number_where_that_is_its(namespace: Namespace, tmp_path: Path) -> None:
    async def scenario(launcher: KubernetesLauncher) -> None:
        await launcher.apply(target(tmp_path), workloads(generators=2))
        await all_run(launcher, 5)
        path = f"/apis/apps/v1/namespaces/{namespace.name}/statefulsets/{object_name(RUN, 'generator')}/scale"
        merge = {"Content-Type": "application/merge-patch+json"}
        namespace.admin.ask("PATCH", path, {"spec": {"replicas": 4}}, **merge).raise_for_status()
        await all_run(launcher, 7)
        await launcher.apply(target(tmp_path), workloads(generators=2))
        await asyncio.sleep(1)
        await all_run(launcher, 7)
        with pytest.raises(LaunchError, match="scaledByOthers"):
            await launcher.apply(target(tmp_path), workloads(generators=3))
        await all_run(launcher, 7)
        await launcher.stop(RUN)

    with_launcher(namespace, tmp_path, scenario, scaled_by_others=["generator"])


@pytest.mark.usefixtures("kubelet")
def test_what_others_have_set_in_our_fields_is_ours_again(namespace: Namespace, tmp_path: Path) -> None:
    """And what is none of ours stays."""

    async def scenario(launcher: KubernetesLauncher) -> None:
        await launcher.apply(target(tmp_path), workloads())
        name = object_name(RUN, "generator")
        path = f"/apis/apps/v1/namespaces/{namespace.name}/statefulsets/{name}?fieldManager=somebody&force=true"
        theirs = {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {"name": name, "annotations": {"note": "mine"}},
            "spec": {"template": {"spec": {"containers": [{"name": "worker", "image": "another"}]}}},
        }
        yaml_patch = {"Content-Type": "application/apply-patch+yaml"}
        namespace.admin.ask("PATCH", path, theirs, **yaml_patch).raise_for_status()
        await launcher.apply(target(tmp_path), workloads())
        (found,) = [one for one in namespace.all("apis/apps/v1", "statefulsets") if one["metadata"]["name"] == name]
        assert found["spec"]["template"]["spec"]["containers"][0]["image"] == "registry.example/dapo-generator:1"
        assert found["metadata"]["annotations"]["note"] == "mine"
        await launcher.stop(RUN)

    with_launcher(namespace, tmp_path, scenario)


def test_what_the_cluster_refuses_is_told_and_leaves_nothing(namespace: Namespace, tmp_path: Path) -> None:
    templates = make_templates()
    templates.pods["verifier"]["metadata"]["labels"] = {"no label!": "x"}

    async def scenario(launcher: KubernetesLauncher) -> None:
        with pytest.raises(LaunchError, match=r"refuses PATCH.*no label!"):
            await launcher.apply(target(tmp_path), workloads())
        assert await launcher.observe(RUN) == []

    with_launcher(namespace, tmp_path, scenario, templates)
    assert namespace.all("apis/apps/v1", "statefulsets") == namespace.all("api/v1", "services") == []
    assert base_name(RUN) not in names(namespace, "configmaps")


def test_a_quota_that_is_full_is_told(namespace: Namespace, kubelet: Kubelet, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("services.orchestrator.launch.kubernetes.workers._MISSING_S", 1.0)
    quota = {"metadata": {"name": "few"}, "spec": {"hard": {"pods": "1"}}}
    namespace.admin.ask("POST", f"/api/v1/namespaces/{namespace.name}/resourcequotas", quota).raise_for_status()

    async def scenario(launcher: KubernetesLauncher) -> None:
        await asyncio.sleep(1)
        await launcher.apply(target(tmp_path), workloads())

        async def told() -> bool:
            return "quota" in await reasons(launcher)

        await come_about(told)
        await launcher.stop(RUN)

    with_launcher(namespace, tmp_path, scenario)


def test_a_pod_whose_node_is_lost_is_forced_to_go(namespace: Namespace, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(removal, "_SPARE_S", 1.0)

    async def scenario(launcher: KubernetesLauncher) -> None:
        with node(namespace.kubeconfig, tmp_path / "pods"):
            await launcher.apply(target(tmp_path), workloads(generators=1, ranks=1))
            await all_run(launcher, 3)
        # From here on nobody ends pods.
        before = (await launcher.observe(RUN))[0].instance
        await launcher.restart(RUN, ["generator-0"])
        found = (await launcher.observe(RUN))[0]
        assert found.instance != before
        await launcher.stop(RUN)
        assert namespace.pods() == {}

    templates = make_templates()
    for pod in templates.pods.values():
        pod["spec"]["terminationGracePeriodSeconds"] = 1
    with_launcher(namespace, tmp_path, scenario, templates)
