"""The chart: who may do what, who reaches whom, and where passwords stand."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.cluster import manifests
from tests.support.cluster.manifests import render
from tests.support.cluster.releases import MATRIX, pods_of, run_objects


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
def test_every_pod_keeps_to_the_restricted_standard(values: dict[str, Any], tmp_path: Path) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards."""
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
            assert context["capabilities"] == {"drop": ["ALL"]}


def test_no_permission_but_over_the_objects_of_runs() -> None:
    (role,) = [one for one in render() if one["kind"] == "Role"]
    assert not [one for one in render(values=MATRIX["gpu-cluster"]) if one["kind"] == "ClusterRole"]
    for rule in role["rules"]:
        assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
        assert "secrets" not in rule["resources"]
        assert not {"pods/exec", "roles", "rolebindings"} & set(rule["resources"])
    (pods,) = [rule["verbs"] for rule in role["rules"] if rule["resources"] == ["pods"]]
    assert "create" not in pods


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


@pytest.mark.parametrize("name", ["watched", "gpu-cluster"])
def test_what_is_scraped_is_let_in_and_shows_no_token(name: str, tmp_path: Path) -> None:
    scraper = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    given = MATRIX[name] | {"networkPolicy": {"apiFrom": [{"podSelector": {}}], "metricsFrom": scraper}}
    rendered = render(values=given)
    policies = [one["spec"] for one in rendered if one["kind"] == "NetworkPolicy"]
    monitors = [one for one in rendered if one["kind"] == "PodMonitor"]
    assert len(monitors) == 2
    assert not {one["kind"] for one in rendered} & {"ServiceMonitor"}
    assert "token" not in str(monitors).lower()
    made = {
        "orchestrator": next(one["spec"]["template"] for one in rendered if one["kind"] == "Deployment"),
        **manifests.templates_of(rendered, tmp_path).pods,
    }
    for role, pod in made.items():
        (port,) = [one for one in pod["spec"]["containers"][0]["ports"] if one["name"] == "metrics"]
        rules = [
            rule
            for policy in policies
            if role in str(policy["podSelector"])
            for rule in policy["ingress"]
            if rule.get("ports") == [{"port": port["containerPort"], "protocol": "TCP"}]
        ]
        assert [rule["from"] for rule in rules] == [scraper], role
    (monitor,) = [one["spec"] for one in monitors if one["metadata"]["name"] == "lab-dapo"]
    assert monitor["podMetricsEndpoints"][0]["relabelings"] == [
        {"targetLabel": "job", "replacement": "dapo", "action": "replace"},
        {"targetLabel": "service", "replacement": "lab-dapo", "action": "replace"},
    ]


def test_whoever_asks_the_service_over_tls_has_the_ca() -> None:
    for given, secret in (({"tlsSecret": "tls"}, "tls"), ({"tlsSecret": "tls", "tlsCaSecret": "ca"}, "ca")):
        rendered = render(values={"orchestrator": given})
        pods = [one for one in rendered if "helm.sh/hook" in one["metadata"].get("annotations", {}) and pods_of(one)]
        assert len(pods) == 2
        for (pod,) in map(pods_of, pods):
            (volume,) = [one["secret"] for one in pod["volumes"] if one["name"] == "tls"]
            assert volume == {"secretName": secret, "items": [{"key": "ca.crt", "path": "ca.crt"}]}


@pytest.mark.parametrize("password", ["plain", 'a"b', "a\\b", 'a\\"$HOME`b c'])
def test_redis_is_told_any_password(password: str, tmp_path: Path) -> None:
    (redis,) = [one for one in render() if one["kind"] == "StatefulSet"]
    server = tmp_path / "valkey-server"
    server.write_text("#!/bin/sh\ncat\n")
    server.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "REDISCLI_AUTH": password}
    command = redis["spec"]["template"]["spec"]["containers"][0]["command"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    (line,) = [one for one in done.stdout.splitlines() if one.startswith("requirepass ")]
    assert json.loads(line.removeprefix("requirepass ")) == password


def test_a_role_may_run_as_somebody_else() -> None:
    given = {"learner": {"podSecurityContext": {"runAsUser": 0, "runAsNonRoot": False}}}
    (found,) = [one for one in render(values=given) if "launcher.yaml" in str(one)]
    users = {
        role: yaml.safe_load(found["data"][f"{role}.yaml"])["spec"]["securityContext"]["runAsUser"]
        for role in ("generator", "learner")
    }
    assert users == {"generator": 10001, "learner": 0}
