"""A run whose ranks share pods, on a real API server and its controllers; pods' commands are started as processes."""

import os
import signal
from pathlib import Path

import pytest
import yaml

from benchmarks.survival.runs import simulated
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.client import RefusedRequest
from dapo.records.folder import RunFolder
from tests.e2e.cluster.test_kubernetes import (
    Templates,
    client_of,
    goes_on,
    kubeconfig,
    namespace,
    pods_of,
    replaced,
    serving,
    tell_redis,
    templates,
)
from tests.integration.orchestrator.kubernetes.conftest import Namespace
from tests.support.cluster.kubelet import node
from tests.support.waiting import until

__all__ = ["kubeconfig", "namespace", "templates"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture
def in_twos(templates: Templates) -> Templates:
    """Each pod of a learner has two ranks."""
    path = templates / "launcher.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "ranks_per_pod": 2}))
    return templates


def test_ranks_in_shared_pods_train_survive_and_are_stopped(
    toy: Path, namespace: Namespace, in_twos: Templates, tmp_path: Path
) -> None:
    """Simulated engines, all else as it is: four ranks in two pods, one of which is killed; then a stop."""
    spec = simulated(toy, 100_000, ranks=4, resources={"generator": {"replicas": 1}, "verifier": {"replicas": 1}})
    state = tmp_path / "state"
    state.mkdir()
    with EmbeddedValkey(tmp_path / "valkey", memory_mib=512) as server:
        tell_redis(namespace, server.url)
        with (
            node(namespace.kubeconfig, tmp_path / "pods", starts=True, volumes=state) as kubelet,
            serving(namespace, state, in_twos, server.url, "tests.support.simulator.service") as service,
            client_of(service) as client,
        ):
            run_id = client.create(spec)["id"]
            until(lambda: client.get(run_id)["step"], lambda step: step > 1, 300)
            first = pods_of(namespace, run_id)
            assert first.keys() == {"generator-0", "verifier-0", "learner-0", "learner-1"}
            ranks = [kubelet.workers(first[pod]) for pod in ("learner-0", "learner-1")]
            assert [len(one) for one in ranks] == [2, 2]
            os.kill(ranks[1][1], signal.SIGKILL)
            for pod in ("learner-0", "learner-1"):
                replaced(namespace, run_id, pod, first[pod])
            goes_on(client, run_id)
            told = [event.data for event in client.events(run_id, follow=False) if event.kind == "service"]
            ended, *_ = [one for one in told if one.get("state") == "ended"]
            assert ended["worker_id"].startswith("learner-"), "others may have ended for want of it before it was seen"
            assert "all 4 ranks of the learner are started again" in ended["message"]
            after = pods_of(namespace, run_id)
            assert {name: uid for name, uid in after.items() if not name.startswith("learner")} == {
                name: uid for name, uid in first.items() if not name.startswith("learner")
            }
            assert client.stop(run_id)["state"] == "stopped"
            assert pods_of(namespace, run_id) == {}
            folder = RunFolder(state / "runs" / run_id)
            assert list(folder.checkpoints.iterdir())
            assert {f"learner-{index}.log" for index in range(4)} <= {one.name for one in folder.logs.iterdir()}
            wrong = {**spec, "resources": {**spec["resources"], "learner": {"ranks": 5}}}
            with pytest.raises(RefusedRequest, match=r"learner\.ranksPerPod = 2"):
                client.create(wrong)
