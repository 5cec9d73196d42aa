"""What is sent to the API server for a run; the whole of it stands in manifests.yaml."""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dapo.spec import parse_spec
from dapo.spec.workloads import Resources, Workload
from services.orchestrator.launch.kubernetes import objects
from services.orchestrator.launch.kubernetes.names import TERM, WORKERS
from services.orchestrator.launch.kubernetes.objects import Cluster
from services.orchestrator.launch.kubernetes.pods.ranks import multiply, pods_of, uneven_ranks, workers_per_pod
from services.orchestrator.launch.kubernetes.pods.template import Place
from services.orchestrator.launch.kubernetes.settings import Templates, load_snapshot
from services.orchestrator.launch.launcher import LaunchError, RunTarget
from tests.support.cluster.templates import make_templates, template

GOLDEN = Path(__file__).with_name("manifests.yaml")
WORKLOADS = [
    Workload("generator", "generator", 3, "services.generator", {"DAPO_REDIS_OUTAGE_S": "120"}, Resources("cuda", 2)),
    Workload("verifier", "verifier", 2, "services.verifier", {"DAPO_REDIS_OUTAGE_S": "120"}),
    Workload("learner", "learner", 4, "services.learner", {"DAPO_REDIS_OUTAGE_S": "120"}, Resources("auto", 1)),
]


def rendered(run: RunTarget, templates: Templates, cluster: Cluster, place: Place) -> list[dict[str, Any]]:
    owner = objects.owner_of(run, templates, cluster, place)
    owner["metadata"]["uid"] = "the-uid"
    of_workloads = [objects.workload_of(run, one, templates, cluster, place, owner) for one in WORKLOADS]
    return [owner, objects.service_of(run, templates, cluster, owner), *of_workloads]


def pod_of(manifest: dict[str, Any]) -> dict[str, Any]:
    spec = manifest["spec"]
    if manifest["kind"] == "JobSet":
        spec = spec["replicatedJobs"][0]["template"]["spec"]
    found: dict[str, Any] = spec["template"]
    return found


def variables(manifest: dict[str, Any]) -> dict[str, Any]:
    return {one["name"]: one.get("value") for one in pod_of(manifest)["spec"]["containers"][0]["env"]}


def test_the_objects_of_a_run(run: RunTarget, templates: Templates, place: Place) -> None:
    """To change them, delete the file, run this once, and look at what git says is another."""
    found = rendered(run, templates, Cluster("lab", jobsets=True), place)
    if not GOLDEN.exists():
        GOLDEN.write_text(yaml.safe_dump_all(found))
        pytest.fail(f"{GOLDEN.name} was written anew: look at it")
    assert found == list(yaml.safe_load_all(GOLDEN.read_text()))


def test_scaling_changes_nothing_of_a_generators_template(run: RunTarget, templates: Templates, place: Place) -> None:
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owner", "uid": "u"}}
    made = [
        objects.workload_of(run, replace(WORKLOADS[0], replicas=count), templates, Cluster("lab"), place, owner)
        for count in (1, 7)
    ]
    assert made[0] == made[1]
    assert "replicas" not in made[0]["spec"]
    assert "DAPO_REPLICAS" not in variables(made[0])


@pytest.mark.parametrize(
    ("choice", "cluster", "kind"),
    [
        ("auto", Cluster("lab", (1, 30), jobsets=True), "JobSet"),
        ("auto", Cluster("lab", (1, 30)), "Job"),
        ("auto", Cluster("lab", (1, 20)), "StatefulSet"),
        ("StatefulSet", Cluster("lab", (1, 30), jobsets=True), "StatefulSet"),
        ("Job", Cluster("lab", (1, 30), jobsets=True), "Job"),
    ],
)
def test_what_holds_the_learners_ranks(choice: str, cluster: Cluster, kind: str, run: RunTarget, place: Place) -> None:
    templates = make_templates(learner=choice)
    learner = rendered(run, templates, cluster, place)[-1]
    assert learner["kind"] == kind
    assert variables(learner)["DAPO_REPLICAS"] == "4"
    assert pod_of(learner)["spec"]["restartPolicy"] == ("Always" if kind == "StatefulSet" else "Never")


@pytest.mark.parametrize("kind", ["JobSet", "Job", "StatefulSet"])
def test_a_pod_of_several_ranks_asks_for_all_of_them(
    kind: str, run: RunTarget, templates: Templates, place: Place
) -> None:
    chosen = make_templates(learner=kind, ranks_per_pod=2)
    container = chosen.pods["learner"]["spec"]["containers"][0]
    container["resources"] = {
        "requests": {"cpu": "1.5", "memory": "32Gi", "rdma/hca": 1},
        "limits": {"memory": "48Gi", "ephemeral-storage": "500m", "rdma/hca": 1},
    }
    container["volumeMounts"] = [{"name": "shm", "mountPath": "/dev/shm"}, {"name": "tmp", "mountPath": "/tmp"}]
    chosen.pods["learner"]["spec"]["volumes"] += [
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}},
        {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}},
    ]
    generator, _, learner = rendered(run, chosen, Cluster("lab"), place)[2:]
    pod = pod_of(learner)
    found = pod["spec"]["containers"][0]
    assert found["resources"] == {
        "requests": {"cpu": "3.0", "memory": "64Gi", "rdma/hca": 1},
        "limits": {"memory": "96Gi", "ephemeral-storage": "1000m", "rdma/hca": 1, "nvidia.com/gpu": 2},
    }
    sizes = {one["name"]: one["emptyDir"].get("sizeLimit") for one in pod["spec"]["volumes"] if "emptyDir" in one}
    assert sizes == {"shm": "32Gi", "tmp": "1Gi", "dapo-pod": None}
    assert {"DAPO_REPLICAS": "4", "DAPO_POD_WORKERS": "2"}.items() <= variables(learner).items()
    assert pod["metadata"]["annotations"][WORKERS] == "2"
    if kind != "StatefulSet":
        assert objects.ranks_of(learner) == 4
    untouched = rendered(run, make_templates(learner=kind), Cluster("lab"), place)[2]
    assert generator == untouched, "a generator is a pod of its own"


@given(st.integers(1, 128), st.integers(1, 16))
def test_a_learner_is_in_as_few_pods_as_can_hold_it_each_with_as_many_ranks(ranks: int, most: int) -> None:
    learner, settings = replace(WORKLOADS[2], replicas=ranks), make_templates(ranks_per_pod=most).settings
    spec = parse_spec(f"name: a\nmodel: {{path: a/b}}\ndata: {{path: c}}\nresources: {{learner: {{ranks: {ranks}}}}}")
    fewest = math.ceil(ranks / most)
    if ranks % fewest:
        (problem,) = uneven_ranks(spec, settings)
        with pytest.raises(LaunchError, match=r"resources\.learner\.ranks = \d+: .*learner\.ranksPerPod") as refused:
            pods_of(learner, settings)
        assert str(refused.value) == str(problem)
        found = re.search(r"Set (\d+), or a multiple of (\d+)", problem.message)
        assert found is not None
        for cure in (int(found[1]), int(found[2]) * 3):
            assert cure % pods_of(replace(learner, replicas=cure), settings) == 0
        return
    assert uneven_ranks(spec, settings) == []
    assert pods_of(learner, settings) == fewest
    assert workers_per_pod(learner, settings) * fewest == ranks
    assert workers_per_pod(learner, settings) <= most


@pytest.mark.parametrize(
    ("quantity", "eightfold"),
    [("32Gi", "256Gi"), (4, "32"), ("500m", "4000m"), ("0.5", "4.0"), ("1e3", "8e3"), (".5G", "4.0G"), ("x", "x")],
)
def test_quantities_of_kubernetes_are_multiplied(quantity: Any, eightfold: str) -> None:
    container = {"resources": {"requests": {"memory": quantity}}}
    multiply({}, container, 8)
    assert container["resources"]["requests"]["memory"] == eightfold


def test_one_writer_of_restarts(run: RunTarget, templates: Templates, place: Place) -> None:
    """Nothing of a JobSet or a Job starts a rank again."""
    learner = rendered(run, templates, Cluster("lab", jobsets=True), place)[-1]
    assert learner["spec"]["failurePolicy"] == {"maxRestarts": 0}
    assert learner["spec"]["replicatedJobs"][0]["template"]["spec"]["backoffLimit"] == 0


def test_the_password_stands_in_no_object(run: RunTarget, templates: Templates, cluster: Cluster, place: Place) -> None:
    found = rendered(run, templates, cluster, place)
    assert "secret@" not in str(found)
    for manifest in found[2:]:
        (redis,) = [one for one in pod_of(manifest)["spec"]["containers"][0]["env"] if one["name"] == "DAPO_REDIS_URL"]
        assert redis["valueFrom"]["secretKeyRef"] == {"name": "dapo-redis", "key": "redis-url"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"redis_url": "redis://:other@elsewhere:6379"}, "resources.redis.url"),
        ({"payload_url": "redis://:other@elsewhere:6379"}, "resources.redis.payload_url"),
    ],
)
def test_a_password_that_would_be_seen_is_refused(
    change: dict[str, str], field: str, run: RunTarget, templates: Templates, cluster: Cluster, place: Place
) -> None:
    with pytest.raises(LaunchError, match=field):
        rendered(replace(run, **change), templates, cluster, place)  # type: ignore[arg-type]


def test_another_server_without_a_password_is_named(
    run: RunTarget, templates: Templates, cluster: Cluster, place: Place
) -> None:
    found = rendered(replace(run, redis_url="redis://elsewhere:6379"), templates, cluster, place)
    assert variables(found[2])["DAPO_REDIS_URL"] == "redis://elsewhere:6379"


def test_a_gpu_that_auto_means_is_asked_for_where_the_cluster_has_them(run: RunTarget, place: Place) -> None:
    def limits(auto: bool) -> list[dict[str, Any]]:
        found = rendered(run, make_templates(gpus={"auto": auto}), Cluster("lab"), place)
        return [pod_of(one)["spec"]["containers"][0]["resources"]["limits"] for one in found[2:]]

    assert [one.get("nvidia.com/gpu") for one in limits(True)] == [2, None, 1]
    assert [one.get("nvidia.com/gpu") for one in limits(False)] == [2, None, None]
    assert all(one["memory"] == "8Gi" for one in limits(True)), "what the template says stays"


def test_claimed_devices_are_not_asked_for_twice(run: RunTarget, templates: Templates, place: Place) -> None:
    claiming = template("image")
    claiming["spec"]["resourceClaims"] = [{"name": "gpus", "resourceClaimTemplateName": "two"}]
    claiming["spec"]["containers"][0]["resources"] = {"claims": [{"name": "gpus"}]}
    with_claims = templates.model_copy(update={"pods": {**templates.pods, "generator": claiming}})
    generator = rendered(run, with_claims, Cluster("lab"), place)[2]
    assert pod_of(generator)["spec"]["containers"][0]["resources"] == {"claims": [{"name": "gpus"}]}
    assert "CUDA_VISIBLE_DEVICES" not in variables(generator)


def test_another_term_is_another_template(run: RunTarget, templates: Templates, cluster: Cluster, place: Place) -> None:
    """So the pods of the term before can be told apart, and are replaced."""
    for before, after in zip(
        rendered(run, templates, cluster, place)[2:],
        rendered(replace(run, term=8), templates, cluster, place)[2:],
        strict=True,
    ):
        assert pod_of(before)["metadata"]["labels"][TERM] == "7"
        assert variables(after)["DAPO_TERM"] == "8" == pod_of(after)["metadata"]["labels"][TERM]


@pytest.mark.parametrize("kind", ["Job", "JobSet", "StatefulSet"])
def test_kueue_admits_ranks_together_and_what_is_scaled_one_by_one(
    kind: str, run: RunTarget, cluster: Cluster, place: Place
) -> None:
    name = "kueue.x-k8s.io/queue-name"
    for manifest in rendered(run, make_templates(queue="research", learner=kind), cluster, place)[2:]:
        together = manifest["kind"] != "StatefulSet"
        metadata = pod_of(manifest)["metadata"]
        assert manifest["metadata"]["labels"].get(name) == ("research" if together else None)
        assert metadata["labels"].get(name) == (None if together else "research")
        assert ("kueue.x-k8s.io/pod-suspending-parent" in metadata["annotations"]) != together
        assert "kueue.x-k8s.io/pod-group-name" not in metadata["labels"]


def test_who_scales_with_keda_has_an_object_for_each_run(run: RunTarget, cluster: Cluster) -> None:
    keda = {
        "verifier": {"address": "redis:6379", "authentication": "lab-redis"},
        "generator": {"prometheus": "http://prometheus:9090", "max_replicas": 4},
    }
    templates = make_templates(keda=keda)
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owner", "uid": "u"}}
    made = [objects.scaling_of(run, one, templates, cluster, owner) for one in WORKLOADS]
    assert made[2] is None
    specs = [one["spec"] for one in made if one is not None]
    assert [one["scaleTargetRef"]["name"].rpartition("-")[2] for one in specs] == ["generator", "verifier"]
    assert specs[0]["triggers"][0]["metadata"]["query"] == f'max(dapo_run_generators_demand{{run="{run.run_id}"}})'
    assert specs[0]["triggers"][0]["metadata"]["ignoreNullValues"] == "false"
    assert specs[1]["triggers"][0]["metadata"]["stream"] == f"dapo:{{{run.run_id}}}:completions"
    assert [templates.settings.others_scale(one.name) for one in WORKLOADS] == [True, True, False]
    assert objects.scaling_of(run, WORKLOADS[0], make_templates(), cluster, owner) is None


def test_the_snapshot_is_what_the_run_began_with(run: RunTarget, cluster: Cluster, place: Place) -> None:
    templates = make_templates(scaled_by_others=["verifier"], learner="Job")
    assert load_snapshot(objects.owner_of(run, templates, cluster, place)["data"][objects.SNAPSHOT]) == templates


def test_filling_a_template_leaves_it_as_it_was(
    run: RunTarget, templates: Templates, cluster: Cluster, place: Place
) -> None:
    before = templates.dump()
    rendered(run, templates, cluster, place)
    assert templates.dump() == before
