"""The chart: what Helm makes of its values, and what a run's objects become with its templates."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from dapo.spec import parse_spec
from dapo.spec.workloads import plan_workloads
from scripts import chart_docs
from services.orchestrator.launch.kubernetes import objects
from services.orchestrator.launch.kubernetes.objects import Cluster, Place
from services.orchestrator.launch.launcher import RunTarget
from tests.support.cluster import manifests
from tests.support.cluster.manifests import CHART, EXAMPLES, VERSIONS, Manifest, render, run_helm

MATRIX: dict[str, dict[str, Any]] = {
    "defaults": {},
    "two services over TLS": {"orchestrator": {"replicas": 2, "tlsSecret": "tls"}},
    "another Redis": {"redis": {"enabled": False, "external": {"existingSecret": "redis-url", "caSecret": "ca"}}},
    "existing secrets and claims": {
        "auth": {"existingSecret": "token", "key": "token"},
        "redis": {"existingSecret": "mine"},
        "runs": {"existingClaim": "runs"},
        "models": {"existingClaim": "models"},
    },
    "one node": {"runs": {"accessModes": ["ReadWriteOnce"]}},
    "placed": {
        role: {
            "nodeSelector": {"pool": role},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {}},
            "priorityClassName": "high",
            "topologySpreadConstraints": [
                {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {}}
            ],
        }
        for role in ("orchestrator", "generator", "verifier", "learner")
    },
    "devices claimed": {
        "generator": {
            "resourceClaims": [{"name": "gpus", "resourceClaimTemplateName": "eight"}],
            "resources": {"claims": [{"name": "gpus"}]},
            "runtimeClassName": "nvidia",
        },
        "workers": {"schedulerName": "volcano", "kueueQueue": "research"},
    },
    "shared": {
        "commonLabels": {"team": "maths"},
        "images": {"registry": "mirror:5000", "pullSecrets": [{"name": "regcred"}]},
        "workers": {
            "env": [{"name": "HF_HOME", "value": "/models/hub"}],
            "envFrom": [{"secretRef": {"name": "hf"}}],
            "extraVolumes": [{"name": "scratch", "emptyDir": {}}],
            "extraVolumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
        },
    },
    "reached from outside": {
        "ingress": {"enabled": True, "className": "nginx", "tlsSecret": "tls", "annotations": {"a": "b"}},
        "gateway": {"enabled": True, "parentRefs": [{"name": "public"}], "hostnames": ["dapo.example.org"]},
        "networkPolicy": {"apiFrom": [{"podSelector": {}}], "restrictVerifiers": True},
    },
    "watched": {
        "metrics": {
            "monitors": {"enabled": True, "labels": {"release": "prometheus"}},
            "rules": {"enabled": True, "runbookBase": "https://git.example.org/runbooks/"},
            "dashboards": {"enabled": True},
        }
    },
    "watched over TLS": {"metrics": {"monitors": {"enabled": True}}, "orchestrator": {"tlsSecret": "tls"}},
    "scaled by KEDA": {
        "verifier": {"keda": {"enabled": True, "maxReplicas": 8}},
        "generator": {"keda": {"enabled": True, "prometheus": "http://prometheus:9090"}},
    },
    "without extras": {
        "networkPolicy": {"enabled": False},
        "podDisruptionBudget": {"enabled": False},
        "hooks": {"stopRuns": False},
        "rbac": {"create": False},
        "serviceAccount": {"create": False},
        "test": {"trains": False},
    },
    "ranks in a StatefulSet": {"learner": {"kind": "StatefulSet"}},
    "ranks in a Job": {"learner": {"kind": "Job"}},
    "ranks in a JobSet": {"learner": {"kind": "JobSet"}},
} | {path.stem: yaml.safe_load(path.read_text()) for path in EXAMPLES}
SPEC = """
name: toy
model: {path: /models/toy}
data: {path: /models/toy.jsonl}
resources: {generator: {replicas: 2}, learner: {ranks: 2}}
"""


@pytest.fixture(params=MATRIX)
def values(request: pytest.FixtureRequest) -> dict[str, Any]:
    return MATRIX[request.param]


def pods_of(manifest: Manifest) -> list[Manifest]:
    """Specs of the pods that an object is, or makes."""
    if manifest["kind"] == "Pod":
        return [manifest["spec"]]
    if manifest["kind"] == "JobSet":
        return [one["template"]["spec"]["template"]["spec"] for one in manifest["spec"]["replicatedJobs"]]
    return [manifest["spec"]["template"]["spec"]] if "template" in manifest.get("spec", {}) else []


def run_objects(rendered: list[Manifest], folder: Path) -> list[Manifest]:
    """What the launcher makes of the release's templates for a run."""
    templates = manifests.templates_of(rendered, folder)
    run = RunTarget("toy-20260101-ab12", "redis://r:6379", None, Path("/srv/dapo/runs/toy"), 1, 1)
    cluster, place = Cluster("research", jobsets=True), Place("runs/toy", "redis://r:6379")
    owner = objects.owner_of(run, templates, cluster, place)
    made = [owner]
    owned_by = {**owner, "metadata": {**owner["metadata"], "uid": "0"}}
    made.append(objects.service_of(run, templates, cluster, owned_by))
    for workload in plan_workloads(parse_spec(SPEC)):
        made.append(objects.workload_of(run, workload, templates, cluster, place, owned_by))
        scaling = objects.scaling_of(run, workload, templates, cluster, owned_by)
        made += [] if scaling is None else [scaling]
    return made


def test_every_object_is_what_kubernetes_knows(values: dict[str, Any], tmp_path: Path) -> None:
    rendered = render(values=values)
    made = run_objects(rendered, tmp_path)
    # Before 1.31 a claim of devices was written in another way.
    versions = [one for one in VERSIONS if one >= "1.31" or "resourceClaims" not in str(made)]
    found = [words for version in versions for one in rendered + made for words in manifests.problems(one, version)]
    assert found == []
    assert len(rendered) > 5
    names = [(one["kind"], one["metadata"]["name"]) for one in rendered]
    assert len(names) == len(set(names))


def test_every_pod_keeps_to_the_restricted_standard(values: dict[str, Any], tmp_path: Path) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards: IPC_LOCK aside, which RDMA needs."""
    rendered = render(values=values)
    pods = [pod for one in rendered + run_objects(rendered, tmp_path) for pod in pods_of(one)]
    assert len(pods) >= 5
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert all(not volume.keys() & {"hostPath"} for volume in pod.get("volumes", []))
        for container in pod["containers"] + pod.get("initContainers", []):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"]["drop"] == ["ALL"]
            assert set(context["capabilities"].get("add", [])) <= {"IPC_LOCK"}


def test_helm_finds_nothing_to_complain_of() -> None:
    for given in ([], *(["--values", str(path)] for path in EXAMPLES)):
        done = run_helm("lint", "--strict", str(CHART), *given)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("orchestrator.replica=2", "replica"),
        ("orchestrator.replicas=0", "replicas"),
        ("redis.maxmemory=lots", "maxmemory"),
        ("redis.appendfsync=no", "appendfsync"),
        ("learner.kind=Deployment", "kind"),
        ("generators.shmSize=1Gi", "generators"),
        ("verifier.keda.max=3", "max"),
        ("images.generator.repo=x", "repo"),
        ("service.port=http", "port"),
        ("runs.accessModes={ReadOnlyMany}", "accessModes"),
        ("redis.enabled=false", "redis.external.existingSecret"),
        ("gateway.enabled=true", "gateway.parentRefs"),
        ("generator.keda.enabled=true", "generator.keda.prometheus"),
        ("workers.gpus.auto=maybe", "auto"),
        ("metrics.rules.enabled=true", "metrics.rules.runbookBase"),
    ],
)
def test_a_mistake_is_refused_by_name(given: str, words: str) -> None:
    done = run_helm("template", "lab", str(CHART), "--set", given)
    assert done.returncode != 0
    assert words in done.stderr


def test_the_files_made_of_the_values_are_current() -> None:
    for path, content in chart_docs.generated().items():
        assert path.read_text(encoding="utf-8") == content, f"{path.name}: run python scripts/chart_docs.py"


def test_every_value_is_documented() -> None:
    text = (CHART / "values.yaml").read_text()
    values = yaml.safe_load(text)
    found = list(chart_docs.fields(text))
    leaves = [one for one in found if not isinstance(chart_docs.at(values, one.path), dict)]
    assert len(leaves) > 100
    assert [".".join(one.path) for one in leaves if not one.text] == []


def test_no_permission_but_over_the_objects_of_runs() -> None:
    (role,) = [one for one in render() if one["kind"] == "Role"]
    assert not [one for one in render(values=MATRIX["gpu-cluster"]) if one["kind"] == "ClusterRole"]
    for rule in role["rules"]:
        assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
        assert "secrets" not in rule["resources"]
        assert not {"pods/exec", "roles", "rolebindings"} & set(rule["resources"])
    (pods,) = [rule["verbs"] for rule in role["rules"] if rule["resources"] == ["pods"]]
    assert "create" not in pods


def test_an_upgrade_of_the_chart_leaves_redis_and_the_volume_as_they_are(tmp_path: Path) -> None:
    """Neither the version of the chart nor a value of a run's templates stands in what would start them anew."""
    before = {one["metadata"]["name"]: one for one in render() if one["kind"] == "StatefulSet"}
    other = render(values={"generator": {"shmSize": "1Gi"}, "commonLabels": {"a": "b"}})
    for one in other:
        if one["kind"] == "StatefulSet":
            assert one["spec"] == before[one["metadata"]["name"]]["spec"]
            assert "helm.sh/chart" not in str(one["spec"])
    (claim,) = [one for one in render() if one["kind"] == "PersistentVolumeClaim"]
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_the_passwords_stand_in_secrets_only() -> None:
    rendered = render()
    (secret,) = [one for one in rendered if one["metadata"]["name"] == "lab-dapo-redis" and one["kind"] == "Secret"]
    password = secret["stringData"]["password"]
    assert len(password) >= 32
    assert password in secret["stringData"]["redis-url"]
    assert all(password not in str(one) for one in rendered if one is not secret)


def test_workers_and_redis_are_reached_by_their_peers_only() -> None:
    policies = {one["metadata"]["name"]: one["spec"] for one in render() if one["kind"] == "NetworkPolicy"}
    assert set(policies) == {f"lab-dapo-{name}" for name in ("redis", "orchestrator", "workers", "verifiers")}
    for name in ("redis", "workers"):
        (peers, *metrics) = policies[f"lab-dapo-{name}"]["ingress"]
        for peer in peers["from"]:
            assert peer["podSelector"]["matchLabels"]["app.kubernetes.io/instance"] == "lab"
            assert "namespaceSelector" not in peer
        assert all(rule["ports"] == [{"port": 9400, "protocol": "TCP"}] for rule in metrics)


def test_the_alerts_and_dashboards_of_the_project_come_with_the_chart() -> None:
    rendered = render(values=MATRIX["watched"])
    top = CHART.parent.parent
    (rules,) = [one for one in rendered if one["kind"] == "PrometheusRule"]
    written = (top / "prometheus/rules.yml").read_text()
    assert rules["spec"] == yaml.safe_load(written.replace("docs/runbooks/", "https://git.example.org/runbooks/"))
    dashboards = {path.name: path.read_text() for path in (top / "grafana/dashboards").glob("*.json")}
    found = [one for one in rendered if one["metadata"]["labels"].get("grafana_dashboard")]
    assert {name: text for one in found for name, text in one["data"].items()} == dashboards
    assert len(dashboards) >= 5


def test_a_release_of_another_name_is_scraped_as_the_job_that_alerts_ask_for() -> None:
    rendered = render(values=MATRIX["watched"])
    (monitor,) = [one for one in rendered if one["kind"] == "ServiceMonitor"]
    (endpoint,) = monitor["spec"]["endpoints"]
    (rules,) = [one for one in rendered if one["kind"] == "PrometheusRule"]
    (down,) = [
        rule for group in rules["spec"]["groups"] for rule in group["rules"] if rule.get("alert") == "ServiceDown"
    ]
    (job,) = set(re.findall(r'up\{job="(\w+)"\}', down["expr"]))
    assert {"action": "replace", "targetLabel": "job", "replacement": job} in endpoint["relabelings"]
