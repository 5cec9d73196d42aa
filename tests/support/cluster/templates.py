"""Settings and templates as the chart renders them, without the chart."""

from typing import Any

from services.orchestrator.launch.kubernetes.settings import KubernetesSettings, Templates, check_template

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
