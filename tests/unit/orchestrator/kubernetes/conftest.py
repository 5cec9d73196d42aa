"""A cluster's settings and templates as the chart renders them, and a run."""

from pathlib import Path
from typing import Any

import pytest

from services.orchestrator.launch.kubernetes.objects import Cluster, Place
from services.orchestrator.launch.kubernetes.settings import KubernetesSettings, Templates, check_template
from services.orchestrator.launch.launcher import RunTarget

URL = "redis://:secret@dapo-redis:6379/0"


def template(image: str) -> dict[str, Any]:
    return {
        "metadata": {"annotations": {"team": "maths"}},
        "spec": {
            "nodeSelector": {"pool": "gpu"},
            "containers": [
                {
                    "name": "worker",
                    "image": image,
                    "env": [{"name": "HF_HOME", "value": "/models/hub"}],
                    "resources": {"requests": {"cpu": "2"}, "limits": {"memory": "8Gi"}},
                }
            ],
            "volumes": [{"name": "runs", "persistentVolumeClaim": {"claimName": "dapo-runs"}}],
        },
    }


def make_templates(**settings: Any) -> Templates:
    given = {"instance": "dapo", "redis": {"name": "dapo-redis"}, **settings}
    pods = {
        role: check_template(template(f"registry.example/dapo-{role}:1"), role)
        for role in ("generator", "verifier", "learner")
    }
    return Templates(settings=KubernetesSettings.model_validate(given), pods=pods)


@pytest.fixture
def templates() -> Templates:
    return make_templates()


@pytest.fixture
def run() -> RunTarget:
    return RunTarget("toy-20260101-120000-ab12", URL, None, Path("/srv/dapo/runs/toy"), term=7, epoch=8)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster("lab")


@pytest.fixture
def place() -> Place:
    return Place("runs/toy", URL)
