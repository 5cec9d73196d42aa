"""What the chart says of a cluster: how the pods of each role look, and what the launcher adds to them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dapo.spec.workloads import Role
from services.orchestrator.launch.kubernetes.names import CONTAINER

ROLES: tuple[Role, ...] = ("generator", "verifier", "learner")
SETTINGS_FILE = "launcher.yaml"
LearnerKind = Literal["auto", "JobSet", "Job", "StatefulSet"]
RESERVED = frozenset(
    {
        "DAPO_ADDRESS",
        "DAPO_PAYLOAD_URL",
        "DAPO_POD",
        "DAPO_POD_WORKERS",
        "DAPO_REDIS_URL",
        "DAPO_REPLICA",
        "DAPO_REPLICAS",
        "DAPO_RUN_DIR",
        "DAPO_RUN_ID",
        "DAPO_TERM",
        "DAPO_TERM_ROLE",
        "DAPO_WORKER_ID",
        "DAPO_WORKLOAD",
    }
)
"""Variables that the launcher gives to a worker."""
RUNS_VOLUME = "runs"
"""Of a template: the volume that the service has as its --state-dir. A worker gets its own run's folder of it."""
_SET = ("command", "args", "livenessProbe")


_M = TypeVar("_M", bound=BaseModel)


class TemplateError(ValueError):
    """A file of the templates cannot be used; the message names the file and the field, and says what to do."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class RedisSecret(_Part):
    """Where the cluster keeps the URL that the service has as REDIS_URL."""

    name: str = Field(min_length=1)
    key: str = Field(default="redis-url", min_length=1)


class Gpus(_Part):
    resource: str = "nvidia.com/gpu"
    """Name of the extended resource, one a GPU."""
    auto: bool = True
    """Whether `device: auto` means GPUs in this cluster."""


class _Keda(_Part):
    min_replicas: int = Field(default=1, ge=1)
    max_replicas: int = Field(default=16, ge=1)


class VerifierKeda(_Keda):
    """KEDA scales the verifiers of each run, by the completions that nobody has taken yet."""

    address: str = Field(pattern=r"^[^:/]+:[0-9]+$")
    """`host:port` of the Redis, as KEDA reaches it."""
    authentication: str = Field(min_length=1)
    """The TriggerAuthentication with its password."""
    tls: bool = False
    database: int = Field(default=0, ge=0)
    lag: int = Field(default=64, ge=1)
    """Completions that wait, for one verifier."""


class GeneratorKeda(_Keda):
    """KEDA scales the generators of each run, by the metric `dapo_run_generators_demand`."""

    prometheus: str = Field(pattern=r"^https?://")
    """URL of the Prometheus that scrapes the run service."""


class Keda(_Part):
    """For each role the KEDA that scales it; None: others do."""

    generator: GeneratorKeda | None = None
    verifier: VerifierKeda | None = None


class KubernetesSettings(_Part):
    """The file launcher.yaml."""

    instance: str = Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,51}[a-z0-9])?$")
    """Name of the release: what tells the objects of one from those of another in the same namespace."""
    redis: RedisSecret
    gpus: Gpus = Gpus()
    learner: LearnerKind = "auto"
    """What holds the learner's ranks. auto: a JobSet where the cluster has them, else an Indexed Job, and on a cluster
    older than 1.22 a StatefulSet."""
    ranks_per_pod: int = Field(default=1, ge=1)
    """Ranks of a learner in one pod at most, which asks for their GPUs together: only so are they peers by NVLink. A
    learner is in as few pods as can be, each with the same number of ranks."""
    queue: str = ""
    """A LocalQueue of Kueue, which then admits the pods of a run one by one, and its learner's ranks together; "":
    none."""
    scaled_by_others: frozenset[Literal["generator", "verifier"]] = frozenset()
    """Workloads whose number of replicas an autoscaler of the cluster writes; the launcher gives them their first. What
    `keda` scales is one of them."""
    keda: Keda = Keda()
    pending_s: float = Field(default=1800.0, gt=0)
    """A pod that no node takes, or whose node cannot make it, for so long has failed. One that waits for Kueue has no
    such bound."""
    image_s: float = Field(default=120.0, gt=0)
    """So has one whose image, or whose configuration, was refused again and again for so long."""

    def others_scale(self, workload: str) -> bool:
        """Whether somebody else writes the number of a workload's replicas."""
        return workload in self.scaled_by_others or getattr(self.keda, workload, None) is not None


class Templates(_Part):
    """The settings, and a pod template (`metadata`, `spec`) for each role."""

    settings: KubernetesSettings
    pods: Mapping[Role, dict[str, Any]]

    def dump(self) -> str:
        """As a snapshot, which `load_snapshot` reads."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=True)


def load_snapshot(text: str) -> Templates:
    """Raises TemplateError."""
    return _checked(lambda: Templates.model_validate(yaml.safe_load(text)), "the run's snapshot of the templates")


def load_templates(folder: Path) -> Templates:
    """From launcher.yaml, generator.yaml, verifier.yaml and learner.yaml. Raises TemplateError."""
    settings_file = folder / SETTINGS_FILE
    given = _read(settings_file)
    settings = _checked(lambda: KubernetesSettings.model_validate(given), str(settings_file))
    pods: dict[Role, dict[str, Any]] = {}
    for role in ROLES:
        path = folder / f"{role}.yaml"
        pods[role] = check_template(_read(path), str(path))
    return Templates(settings=settings, pods=pods)


def check_template(template: dict[str, Any], where: str) -> dict[str, Any]:
    """The template, if the launcher can fill it. `where`: its file. Raises TemplateError."""
    if unknown := sorted(template.keys() - {"metadata", "spec"}):
        raise TemplateError(f"{where}: {unknown[0]}: a pod template has metadata and spec. Take it out")
    spec = template.get("spec")
    if not isinstance(spec, dict):
        raise TemplateError(f"{where}: spec: is missing. Give the spec of a pod")
    containers = [one for one in spec.get("containers") or [] if one.get("name") == CONTAINER]
    if len(containers) != 1:
        raise TemplateError(f"{where}: spec.containers: none is named {CONTAINER}. Call the worker's container so")
    (container,) = containers
    at = f"{where}: spec.containers[{CONTAINER}]"
    if not container.get("image"):
        raise TemplateError(f"{at}.image: is missing. Name the image of the worker")
    for name in _SET:
        if name in container:
            why = "dapo restarts workers" if name == "livenessProbe" else "the launcher sets it"
            raise TemplateError(f"{at}.{name}: {why}. Take it out")
    if taken := sorted(RESERVED & {one.get("name") for one in container.get("env") or []}):
        raise TemplateError(f"{at}.env: {taken[0]} is set by the launcher. Take it out")
    if "restartPolicy" in spec:
        raise TemplateError(f"{where}: spec.restartPolicy: the launcher sets it. Take it out")
    if not any(one.get("name") == RUNS_VOLUME for one in spec.get("volumes") or []):
        raise TemplateError(
            f"{where}: spec.volumes: none is named {RUNS_VOLUME}. Name the volume of the service's --state-dir so"
        )
    return template


def _read(path: Path) -> dict[str, Any]:
    """Raises TemplateError."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TemplateError(f"{path} is not there: --kube-templates wants a folder with it") from None
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise TemplateError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(found, dict):
        raise TemplateError(f"{path} holds no mapping of fields")
    return found


def _checked(make: Callable[[], _M], where: str) -> _M:
    """Raises TemplateError."""
    try:
        return make()
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise TemplateError(f"{where}: {field}: {first['msg']}") from error
