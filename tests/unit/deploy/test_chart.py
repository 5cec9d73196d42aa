"""The chart: what Helm makes of its values, and what a run's objects become with its templates."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts import chart_docs
from tests.support.cluster import manifests
from tests.support.cluster.manifests import CHART, EXAMPLES, VERSIONS, render, run_helm
from tests.support.cluster.releases import MATRIX, pods_of, run_objects

ELSEWHERE = "redis.enabled=false,redis.external.existingSecret=mine"


@pytest.fixture(params=MATRIX)
def values(request: pytest.FixtureRequest) -> dict[str, Any]:
    return MATRIX[request.param]


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
        ("learner.ranksPerPod=0", "ranksPerPod"),
        ("generators.shmSize=1Gi", "generators"),
        ("verifier.keda.max=3", "max"),
        ("images.generator.repo=x", "repo"),
        ("service.port=http", "port"),
        ("runs.accessModes={ReadOnlyMany}", "accessModes"),
        ("redis.enabled=false", "redis.external.existingSecret"),
        ("gateway.enabled=true", "gateway.parentRefs"),
        ("generator.keda.enabled=true", "generator.keda.prometheus"),
        ("workers.gpus.auto=maybe", "auto"),
        ("generator.keda.prometheus=prometheus:9090", "prometheus"),
        ("verifier.keda.address=redis://r:6379", "address"),
        ("verifier.keda.enabled=true,verifier.keda.minReplicas=17", "verifier.keda.minReplicas: 17 is more than"),
        ("redis.resources.limits.memory=1Gi", "redis.resources.limits.memory: 1Gi is less than redis.maxmemory, 6gb"),
        (f"{ELSEWHERE},verifier.keda.enabled=true", "verifier.keda.address"),
        (f"{ELSEWHERE},verifier.keda.enabled=true,verifier.keda.address=r:1", "verifier.keda.authentication"),
        ("metrics.port=80", "port"),
        ("metrics.rules.enabled=true", "metrics.rules.runbookBase"),
    ],
)
def test_a_mistake_is_refused_by_name(given: str, words: str) -> None:
    done = run_helm("template", "lab", str(CHART), "--set", given)
    assert done.returncode != 0
    assert words in done.stderr


def test_a_release_whose_name_the_launcher_does_not_take_is_refused() -> None:
    done = run_helm("template", "lab.v1", str(CHART))
    assert done.returncode != 0
    assert "without dots" in done.stderr


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


def test_specs_may_name_what_is_below_the_models_wherever_they_are_mounted() -> None:
    given = {"orchestrator": {"policy": {"roots": ["/scratch"], "hub_models": ["Qwen/*"]}}}
    (found,) = [one for one in render(values=given | {"models": {"mountPath": "/data"}}) if "launcher.yaml" in str(one)]
    assert yaml.safe_load(found["data"]["policy.yaml"]) == {"roots": ["/data", "/scratch"], "hub_models": ["Qwen/*"]}


def test_a_volume_of_one_node_is_let_go_before_another_service_takes_it() -> None:
    def strategy(runs: dict[str, Any]) -> str:
        (found,) = [one for one in render(values={"runs": runs}) if one["kind"] == "Deployment"]
        return str(found["spec"]["strategy"]["type"])

    assert strategy({}) == strategy({"existingClaim": "c"}) == "RollingUpdate"
    assert strategy({"accessModes": ["ReadWriteOnce"]}) == "Recreate"
    assert strategy({"accessModes": ["ReadWriteOnce"], "existingClaim": "c"}) == "Recreate"


def test_ranks_that_share_a_pod_have_all_that_each_would_have(tmp_path: Path) -> None:
    def pod_of_ranks(ranks_per_pod: int) -> dict[str, Any]:
        folder = tmp_path / str(ranks_per_pod)
        folder.mkdir()
        values = {"learner": {"kind": "Job", "ranksPerPod": ranks_per_pod}}
        found = run_objects(render(values=values), folder)
        (job,) = [one for one in found if one["kind"] == "Job"]
        assert job["spec"]["completions"] == 2 / ranks_per_pod
        (pod,) = pods_of(job)
        return pod

    alone, together = pod_of_ranks(1), pod_of_ranks(2)
    assert alone["containers"][0]["resources"]["requests"] == {"cpu": "4", "memory": "32Gi"}
    assert alone["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": 1}
    assert together["containers"][0]["resources"]["requests"] == {"cpu": "8", "memory": "64Gi"}
    assert together["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": 2}
    for pod, size in ((alone, "16Gi"), (together, "32Gi")):
        assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": size}} in pod["volumes"]


def test_keda_reads_another_redis_with_the_password_that_somebody_else_gives_it(tmp_path: Path) -> None:
    keda = {"enabled": True, "address": "r:6380", "tls": True, "database": 3, "authentication": "mine"}
    rendered = render(values=MATRIX["another Redis"] | {"verifier": {"keda": keda}})
    assert not [one for one in rendered if one["kind"] == "TriggerAuthentication"]
    (scaling,) = [one for one in run_objects(rendered, tmp_path) if one["kind"] == "ScaledObject"]
    (trigger,) = scaling["spec"]["triggers"]
    assert trigger["authenticationRef"] == {"name": "mine"}
    assert {"address": "r:6380", "enableTLS": "true", "databaseIndex": "3"}.items() <= trigger["metadata"].items()


def test_what_helm_says_gives_hooks_the_time_that_they_take() -> None:
    given = ("--set", "hooks.stopSeconds=4000,test.timeoutSeconds=3000,orchestrator.tlsSecret=tls")
    done = run_helm("install", "lab", str(CHART), "--dry-run=client", "--namespace", "research", *given)
    assert done.returncode == 0, done.stderr
    assert "helm uninstall lab -n research --timeout 4600s" in done.stdout
    assert "helm test lab -n research --timeout 3600s" in done.stdout
    assert "export DAPO_TLS_CA=" in done.stdout


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
    (monitor,) = [one for one in rendered if one["kind"] == "PodMonitor" and one["metadata"]["name"] == "lab-dapo"]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    (rules,) = [one for one in rendered if one["kind"] == "PrometheusRule"]
    (down,) = [
        rule for group in rules["spec"]["groups"] for rule in group["rules"] if rule.get("alert") == "ServiceDown"
    ]
    (job,) = set(re.findall(r'up\{job="(\w+)"\}', down["expr"]))
    assert {"targetLabel": "job", "replacement": job, "action": "replace"} in endpoint["relabelings"]
