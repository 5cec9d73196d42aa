"""Runs on a real API server and its controllers, from POST to a checkpoint; pods' commands are started as processes."""

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.survival.runs import simulated
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.client import RunClient
from dapo.records.folder import RunFolder
from dapo.spec.load import load_spec
from services.orchestrator.launch.kubernetes.names import run_label
from tests.integration.orchestrator.kubernetes.conftest import Namespace, kubeconfig, namespace
from tests.support.cluster.kubelet import Kubelet, node
from tests.support.cluster.templates import template
from tests.support.orchestrator.run_service import TOKEN, Service, base_env
from tests.support.paths import REPO
from tests.support.waiting import until

__all__ = ["kubeconfig", "namespace"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
ENGINES = {"step_s": 0.02, "mean_tokens": 8, "sigma": 0.1, "max_running": 64}
ENDED = ("succeeded", "failed", "stopped", "cancelled")
_LONG_S = 300.0
Templates = Path


@pytest.fixture
def templates(tmp_path: Path) -> Templates:
    folder = tmp_path / "templates"
    folder.mkdir()
    settings = {"instance": "lab", "redis": {"name": "lab-redis"}, "gpus": {"auto": False}, "learner": "StatefulSet"}
    (folder / "launcher.yaml").write_text(yaml.safe_dump(settings))
    for role in ("generator", "verifier", "learner"):
        pod = template("image")
        pod["spec"]["containers"][0]["env"] = [
            {"name": "SIMULATOR_OPTIONS", "value": json.dumps(ENGINES)},
            {"name": "PYTHONPATH", "value": str(REPO)},
        ]
        pod["spec"]["terminationGracePeriodSeconds"] = 15
        (folder / f"{role}.yaml").write_text(yaml.safe_dump(pod))
    return folder


@contextmanager
def serving(
    namespace: Namespace, folder: Path, templates: Templates, url: str, module: str, name: str = "service"
) -> Iterator[Service]:
    options = ["--launcher", "kubernetes", "--kube-namespace", namespace.name, "--kube-templates", str(templates)]
    environment = {"REDIS_URL": url, "KUBECONFIG": str(namespace.kubeconfig)}
    service = Service(folder, *options, name=name, module=module, **environment)
    try:
        yield service
    finally:
        service.close()


def tell_redis(namespace: Namespace, url: str) -> None:
    secret = {"metadata": {"name": "lab-redis"}, "data": {"redis-url": base64.b64encode(url.encode()).decode()}}
    namespace.admin.ask("POST", f"/api/v1/namespaces/{namespace.name}/secrets", secret).raise_for_status()


def client_of(service: Service) -> RunClient:
    return RunClient(str(service.http.base_url), TOKEN)


def alerts(client: RunClient, run_id: str) -> list[dict[str, Any]]:
    return [event.data for event in client.events(run_id, follow=False) if event.kind == "alert"]


def pods_of(namespace: Namespace, run_id: str) -> dict[str, str]:
    """Workload and index → uid."""
    found: dict[str, str] = {}
    for name, one in namespace.pods().items():
        labels = one["metadata"]["labels"]
        if labels.get("dapo.dev/run") == run_label(run_id):
            found[f"{labels['dapo.dev/workload']}-{name.rpartition('-')[2]}"] = one["metadata"]["uid"]
    return found


def replaced(namespace: Namespace, run_id: str, worker: str, before: str) -> None:
    """Return once another pod has the worker."""
    until(lambda: pods_of(namespace, run_id).get(worker), lambda uid: uid not in (None, before), 60)


def goes_on(client: RunClient, run_id: str, steps: int = 2) -> None:
    step = client.get(run_id)["step"]
    until(lambda: client.get(run_id)["step"], lambda now: now >= step + steps, _LONG_S)


def test_a_run_scales_survives_and_is_taken_over(
    toy: Path, namespace: Namespace, templates: Templates, tmp_path: Path
) -> None:
    """Simulated engines, all else as it is: 1 → 3 → 1 generators, a killed worker, a deleted pod, a service that is
    shut down and one that is killed; then a stop."""
    spec = simulated(toy, 100_000, resources={"generator": {"replicas": 1}, "verifier": {"replicas": 1}})
    module = "tests.support.simulator.service"
    state = tmp_path / "state"
    state.mkdir()
    with EmbeddedValkey(tmp_path / "valkey", memory_mib=512) as server:
        tell_redis(namespace, server.url)
        with node(namespace.kubeconfig, tmp_path / "pods", starts=True, volumes=state) as kubelet:
            served = (namespace, state, templates, server.url, module)
            with serving(*served) as service, client_of(service) as client:
                run_id = client.create(spec)["id"]
                until(lambda: client.get(run_id)["step"], lambda step: step > 1, _LONG_S)
                first = pods_of(namespace, run_id)
                assert first.keys() == {"generator-0", "verifier-0", "learner-0"}
                client.update(run_id, generators=3)
                until(lambda: pods_of(namespace, run_id), lambda found: len(found) == 5, 60)
                until(lambda: client.pipeline(run_id)["generators"], lambda found: ready(found) == 3, 60)
                goes_on(client, run_id)
                client.update(run_id, generators=1)
                until(lambda: pods_of(namespace, run_id), lambda found: len(found) == 3, 60)
                goes_on(client, run_id)
                assert pods_of(namespace, run_id) == first, "neither the learner nor anybody else was touched"
                kill(kubelet, first["generator-0"])
                replaced(namespace, run_id, "generator-0", first["generator-0"])
                goes_on(client, run_id)
                second = pods_of(namespace, run_id)
                (name,) = [one for one in namespace.pods() if one.endswith("verifier-0")]
                namespace.admin.ask("DELETE", f"/api/v1/namespaces/{namespace.name}/pods/{name}").raise_for_status()
                replaced(namespace, run_id, "verifier-0", second["verifier-0"])
                goes_on(client, run_id)
                third = pods_of(namespace, run_id)
            # It was shut down in order: the pods go on, and so does what they do.
            assert pods_of(namespace, run_id) == third
            with serving(*served, "second") as service, client_of(service) as client:
                until(lambda: alerts(client, run_id), adopted, 60)
                goes_on(client, run_id)
                assert pods_of(namespace, run_id) == third
                service.process.send_signal(signal.SIGKILL)
                service.process.wait()
            with serving(*served, "third") as service, client_of(service) as client:
                goes_on(client, run_id)
                assert pods_of(namespace, run_id) == third
                assert client.stop(run_id)["state"] == "stopped"
                assert pods_of(namespace, run_id) == {}
                assert list(RunFolder(state / "runs" / run_id).checkpoints.iterdir())
                logs = RunFolder(state / "runs" / run_id).logs
                assert {"learner-0.log", "generator-0.log", "generator-2.log"} <= {one.name for one in logs.iterdir()}
                # What goes on from the checkpoint has pods of its own.
                client.resume(run_id)
                goes_on(client, run_id)
                assert not set(pods_of(namespace, run_id).values()) & set(third.values())
                uninstall(namespace, service)
                assert client.get(run_id)["state"] == "stopped"
                assert pods_of(namespace, run_id) == {}
    assert namespace.all("apis/apps/v1", "statefulsets") == []


def ready(generators: Sequence[dict[str, Any]]) -> int:
    return sum(one["state"] not in ("starting", "stopped") for one in generators)


def adopted(found: list[dict[str, Any]]) -> bool:
    return any(one.get("kind") == "adopted" for one in found)


def uninstall(namespace: Namespace, service: Service) -> None:
    """As the hook of the chart does before its release goes."""
    command = [sys.executable, "-m", "services.orchestrator.launch.kubernetes.uninstall"]
    command += ["--instance", "lab", "--namespace", namespace.name, "--seconds", "120"]
    environment = base_env(
        DAPO_URL=str(service.http.base_url), DAPO_API_TOKEN=TOKEN, KUBECONFIG=str(namespace.kubeconfig)
    )
    subprocess.run(command, env=environment, check=True, timeout=180)


def kill(kubelet: Kubelet, uid: str) -> None:
    """The worker in a pod, not the pod's first process."""
    (pid,) = kubelet.workers(uid)
    os.kill(pid, signal.SIGKILL)


def test_sglang_and_deepspeed_train_in_pods(
    toy: Path, namespace: Namespace, templates: Templates, tmp_path: Path
) -> None:
    """Every engine real, two generators and two ranks, from the request to the last checkpoint."""
    overrides = [
        f"model.path={toy / 'model'}",
        f"data.path={toy / 'train.jsonl'}",
        "training.steps=2",
        "training.prompts_per_step=16",
        "resources.generator.replicas=2",
        "resources.learner.ranks=2",
    ]
    spec = load_spec(REPO / "examples" / "reverse.yaml", overrides).model_dump(mode="json")
    state = tmp_path / "state"
    state.mkdir()
    with EmbeddedValkey(tmp_path / "valkey", memory_mib=1024) as server:
        tell_redis(namespace, server.url)
        with (
            node(namespace.kubeconfig, tmp_path / "pods", starts=True, volumes=state),
            serving(namespace, state, templates, server.url, "services.orchestrator") as service,
            client_of(service) as client,
        ):
            run = client.create(spec)
            ended = until(lambda: client.get(run["id"]), lambda found: found["state"] in ENDED, 900)
            assert (ended["state"], ended["step"]) == ("succeeded", 2), ended["message"]
            assert pods_of(namespace, run["id"]) == {}
    assert list(RunFolder(Path(run["run_dir"])).checkpoints.iterdir())
