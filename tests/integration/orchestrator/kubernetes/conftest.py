"""A namespace of its own for each test, on the control plane that DAPO_TEST_KUBECONFIG names.

scripts/control_plane.sh builds and starts one. Without it these tests are skipped.
"""

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config

from services.orchestrator.launch.kubernetes.api import KubernetesApi
from tests.support.cluster.kubelet import ApiServer

VARIABLE = "DAPO_TEST_KUBECONFIG"


@dataclass(frozen=True)
class Namespace:
    name: str
    kubeconfig: Path
    admin: ApiServer

    def api(self, token: str | None = None) -> KubernetesApi:
        """As an administrator, or as the service account of a token."""
        settings = client.Configuration()
        config.load_kube_config(str(self.kubeconfig), client_configuration=settings)
        if token is not None:
            settings.api_key = {"BearerToken": f"Bearer {token}"}
        settings.retries = False
        return KubernetesApi(client.ApiClient(settings), self.name)

    def all(self, group: str, plural: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.admin.get(f"/{group}/namespaces/{self.name}/{plural}")["items"]
        return found

    def pods(self) -> dict[str, dict[str, Any]]:
        """By name, of those that are not about to go."""
        found = self.all("api/v1", "pods")
        return {one["metadata"]["name"]: one for one in found if not one["metadata"].get("deletionTimestamp")}


@pytest.fixture(scope="session")
def kubeconfig() -> Path:
    given = os.environ.get(VARIABLE)
    if not given:
        pytest.skip(f"no control plane: scripts/control_plane.sh build && start, then {VARIABLE}=<the kubeconfig>")
    return Path(given)


@pytest.fixture
def namespace(kubeconfig: Path) -> Iterator[Namespace]:
    admin, name = ApiServer(kubeconfig), f"test-{secrets.token_hex(4)}"
    admin.ask("POST", "/api/v1/namespaces", {"metadata": {"name": name}}).raise_for_status()
    yield Namespace(name, kubeconfig, admin)
    admin.ask("DELETE", f"/api/v1/namespaces/{name}")
    admin.close()
