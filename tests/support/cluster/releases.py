"""Values of the chart that make a difference, and what the launcher makes of such a release for a run."""

from pathlib import Path
from typing import Any

import yaml

from dapo.spec import parse_spec
from dapo.spec.workloads import plan_workloads
from services.orchestrator.launch.kubernetes import objects
from services.orchestrator.launch.kubernetes.objects import Cluster
from services.orchestrator.launch.kubernetes.pods.template import Place
from services.orchestrator.launch.launcher import RunTarget
from tests.support.cluster import manifests
from tests.support.cluster.manifests import EXAMPLES, Manifest

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
    "ranks that share pods": {"learner": {"ranksPerPod": 8}},
} | {path.stem: yaml.safe_load(path.read_text()) for path in EXAMPLES}
SPEC = """
name: toy
model: {path: /models/toy}
data: {path: /models/toy.jsonl}
resources: {generator: {replicas: 2}, learner: {ranks: 2}}
"""


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
