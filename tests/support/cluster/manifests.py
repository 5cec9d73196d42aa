"""The chart, rendered by Helm, and objects checked against the schemas of Kubernetes and of what clusters add to it.

The schemas of custom resources are those of their projects (JobSet, KEDA, Prometheus Operator; Apache-2.0), without
descriptions.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from services.orchestrator.launch.kubernetes.settings import Templates, load_templates
from tests.support.paths import REPO

CHART = REPO / "deploy/helm/dapo"
EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))
SCHEMAS = Path(__file__).with_name("schemas")
VERSIONS = ("1.27", "1.31", kubernetes_validate.latest_version())
Manifest = dict[str, Any]
BUILT_IN = ("", "apps", "batch", "networking.k8s.io", "policy", "rbac.authorization.k8s.io")
UNKNOWN = ("TriggerAuthentication", "HTTPRoute")
"""Kinds of which there is no schema here."""


def helm() -> str:
    """The program: HELM, or the one in PATH. Skips the test where there is none."""
    found = os.environ.get("HELM") or shutil.which("helm")
    if found is None:
        pytest.skip("no helm: install it, or say where it is (HELM)")
    return found


def run_helm(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([helm(), *arguments], capture_output=True, text=True, timeout=60)


def render(*arguments: str, values: Mapping[str, Any] | None = None) -> list[Manifest]:
    """All objects of a release `lab` in namespace `research`, hooks too."""
    given = ["--values", "-"] if values else []
    command = [helm(), "template", "lab", str(CHART), "--namespace", "research", *given, *arguments]
    done = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [found for found in yaml.safe_load_all(done.stdout) if found]


def templates_of(manifests: list[Manifest], folder: Path) -> Templates:
    """Those that the run service of a release reads. `folder`: for its files."""
    (configuration,) = [one for one in manifests if one["metadata"]["name"].endswith("-templates")]
    for name, text in configuration["data"].items():
        (folder / name).write_text(text)
    return load_templates(folder)


def problems(manifest: Manifest, version: str) -> list[str]:
    """What is wrong with an object, unknown fields too; of a built-in kind by that version of Kubernetes."""
    what = f"{manifest['kind']} {manifest['metadata']['name']}"
    if manifest["apiVersion"].rpartition("/")[0] in BUILT_IN:
        return _built_in(manifest, version, what)
    if manifest["kind"] in UNKNOWN:
        return []
    validator = jsonschema.Draft202012Validator(_custom(manifest["kind"]))
    return [
        f"{what}: {'.'.join(map(str, error.absolute_path))}: {error.message[:200]}"
        for error in validator.iter_errors(manifest)
    ]


def _built_in(manifest: Manifest, version: str, what: str) -> list[str]:
    try:
        kubernetes_validate.validate(manifest, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{what} ({version}): {'.'.join(map(str, error.path))}: {error.message[:200]}"]
    return []


@cache
def _custom(kind: str) -> Manifest:
    (path,) = SCHEMAS.glob(f"{kind}.*.json")
    found: Manifest = _closed(json.loads(path.read_text()))
    # What every object has.
    found["properties"]["metadata"] = {"type": "object"}
    return found


def _closed(schema: Any) -> Any:
    """The schema, in which no field is unknown."""
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _closed(one) for name, one in schema.items()}
    open_to_others = {"additionalProperties", "x-kubernetes-preserve-unknown-fields"} & found.keys()
    if isinstance(found.get("properties"), dict) and not open_to_others:
        found["additionalProperties"] = False
    if found.pop("x-kubernetes-int-or-string", None):
        found.pop("type", None)
    return found
