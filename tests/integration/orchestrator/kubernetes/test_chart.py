"""The chart on a real API server: what its account may do, and what becomes of runs when the release changes."""

import asyncio
import base64
import subprocess
from pathlib import Path

import pytest

from services.orchestrator.launch.kubernetes.names import common_labels
from services.orchestrator.launch.kubernetes.objects import Cluster
from services.orchestrator.launch.kubernetes.uninstall import delete_left
from services.orchestrator.launch.kubernetes.workers import KubernetesLauncher
from tests.integration.orchestrator.kubernetes.conftest import Namespace
from tests.integration.orchestrator.kubernetes.test_launcher import RUN, all_run, target, workloads
from tests.support.cluster.kubelet import node
from tests.support.cluster.manifests import CHART, helm, render, templates_of
from tests.support.cluster.templates import URL
from tests.support.waiting import until

pytestmark = pytest.mark.slow
SMALL = ["--set", "hooks.stopRuns=false,test.trains=false,learner.kind=StatefulSet"]
FORCED = "--force-conflicts"
"""Controllers of Kubernetes 1.20 make the claims of a StatefulSet theirs."""
# What the launcher and the hook ask for; the column of what they do not need is as telling.
MAY = {
    "configmaps": "get list create patch delete",
    "services": "create patch delete",
    "pods": "list watch delete",
    "pods/log": "get",
    "events": "list",
    "statefulsets.apps": "get list create patch delete",
    "statefulsets.apps/scale": "patch",
    "jobs.batch": "get list create patch delete",
    "jobsets.jobset.x-k8s.io": "get list create patch delete",
    "scaledobjects.keda.sh": "create patch",
}
VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
NEVER = (
    "secrets",
    "pods/exec",
    "roles.rbac.authorization.k8s.io",
    "rolebindings.rbac.authorization.k8s.io",
    "deployments.apps",
    "persistentvolumeclaims",
    "serviceaccounts",
    "networkpolicies.networking.k8s.io",
)


def helm_do(namespace: Namespace, *arguments: str) -> str:
    command = [helm(), "--kubeconfig", str(namespace.kubeconfig), "--namespace", namespace.name, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def release(namespace: Namespace) -> Namespace:
    helm_do(namespace, "install", "lab", str(CHART), *SMALL)
    return namespace


def token_of(namespace: Namespace, account: str) -> str:
    """As controllers of 1.20 make one for each account."""

    def ask() -> list[str]:
        return [
            base64.b64decode(one["data"]["token"]).decode()
            for one in namespace.all("api/v1", "secrets")
            if one["metadata"].get("annotations", {}).get("kubernetes.io/service-account.name") == account
            and "token" in one.get("data", {})
        ]

    return until(ask, lambda found: found, 30)[0]


def may(namespace: Namespace, verb: str, resource: str, where: str | None = None) -> bool:
    name, _, below = resource.partition("/")
    plural, _, group = name.partition(".")
    attributes = {"namespace": where or namespace.name, "verb": verb, "group": group, "resource": plural}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": f"system:serviceaccount:{namespace.name}:lab-dapo",
            "resourceAttributes": {**attributes, "subresource": below},
        },
    }
    answer = namespace.admin.ask("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    return answer.raise_for_status().json()["status"]["allowed"] is True


def test_the_account_may_do_what_it_needs_and_no_more(release: Namespace) -> None:
    found = {name: " ".join(verb for verb in VERBS if may(release, verb, name)) for name in (*MAY, *NEVER)}
    assert found == {**MAY, **dict.fromkeys(NEVER, "")}
    assert not any(may(release, verb, name, "kube-system") for name in MAY for verb in ("list", "create"))


def test_a_run_goes_on_while_its_release_is_upgraded_rolled_back_and_deleted(
    release: Namespace, tmp_path: Path
) -> None:
    """With the account of the release; and what is left is deleted by its labels."""
    token = token_of(release, "lab-dapo")

    async def placed() -> None:
        api = release.api(token)
        cluster = Cluster(release.name, await api.version(), await api.has("JobSet"))
        templates = templates_of(render(*SMALL), tmp_path)
        known = (api, templates, cluster)
        launcher = KubernetesLauncher(*known, state_dir=tmp_path, redis_url=URL, is_done=lambda folder: False)
        await launcher.open()
        try:
            await launcher.apply(target(tmp_path), workloads())
            await all_run(launcher, 5)
            before = {name: pod["metadata"]["uid"] for name, pod in of_runs(release).items()}
            changed = "generator.shmSize=1Gi,images.generator.tag=next,orchestrator.maxRuns=2"
            await asyncio.to_thread(helm_do, release, "upgrade", "lab", str(CHART), *SMALL, FORCED, "--set", changed)
            await launcher.apply(target(tmp_path), workloads(generators=3))
            await all_run(launcher, 6)
            images = {pod["spec"]["containers"][0]["image"] for pod in of_runs(release).values()}
            assert images == {f"dapo/{role}:0.1.0" for role in ("generator", "verifier", "learner")}
            await launcher.restart(RUN, ["learner-0", "learner-1"])
            await all_run(launcher, 6)
            await asyncio.to_thread(helm_do, release, "rollback", "lab", "1", FORCED)
            after = {name: pod["metadata"]["uid"] for name, pod in of_runs(release).items()}
            assert {name for name in before if after[name] != before[name]} == {
                name for name in before if "-learner-" in name
            }
            assert (await launcher.logs(RUN, "generator-0")).text == ""
            await asyncio.to_thread(helm_do, release, "uninstall", "lab")
            assert len(of_runs(release)) == 6
        finally:
            await launcher.close()

    with node(release.kubeconfig, tmp_path / "pods"):
        asyncio.run(placed())
        claims = [one["metadata"]["name"] for one in release.all("api/v1", "persistentvolumeclaims")]
        assert "lab-dapo-runs" in claims, "checkpoints stay"
        left = asyncio.run(delete_left(release.api(), "lab"))
        assert len(left) == 4
        until(lambda: of_runs(release), lambda found: not found, 60)
        assert asyncio.run(delete_left(release.api(), "lab")) == []


def of_runs(namespace: Namespace) -> dict[str, dict]:
    wanted = common_labels("lab").items()
    return {name: pod for name, pod in namespace.pods().items() if wanted <= pod["metadata"]["labels"].items()}
