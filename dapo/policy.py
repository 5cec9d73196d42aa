"""What a spec that came over the wire may ask of a run service: a policy of whoever runs it.

Pure but for the links in paths, which are followed. `dapo train` asks for nothing over the wire and is not restricted.
"""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails

from dapo.redaction import holds_secret, redact_url
from dapo.spec.checks.data import data_fields
from dapo.spec.checks.tracking import tracking_urls
from dapo.spec.diagnosis import phrase
from dapo.spec.paths import file_path, is_hub_dataset, is_local_model
from dapo.spec.problem import Problem
from dapo.spec.run import RunSpec
from dapo.spec.tree.fields import field_rows
from dapo.spec.tree.graders import JsonSchemaGrader, JudgeGrader, PythonGrader, RemoteGrader
from dapo.spec.wording import scalar_text, shown
from dapo.spec.yaml_text import read_yaml

LIMITS: Mapping[str, float] = {
    "training.steps": 100_000,
    "training.prompts_per_step": 8_192,
    "sampling.group_size": 1_024,
    "data.max_prompt_tokens": 262_144,
    "sampling.max_response_tokens": 262_144,
    "evaluation.max_response_tokens": 262_144,
    "evaluation.samples": 1_024,
    "evaluation.sets.<name>.samples": 1_024,
    "reward.grader_processes": 64,
    "reward.grader_memory_mib": 16_384,
    "resources.generator.replicas": 64,
    "resources.generator.autoscale.max": 64,
    "resources.generator.max_replicas": 64,
    "resources.generator.tensor_parallel": 16,
    "resources.generator.max_running_requests": 65_536,
    "resources.learner.ranks": 64,
    "resources.verifier.replicas": 64,
    "resources.redis.memory_mib": 1_048_576,
}
"""Highest value of fields where the policy says nothing else."""
_CURE = "or ask whoever runs the service to allow it (dapo serve --policy)"


class PolicyError(ValueError):
    """The file of a policy cannot be used; the message says why."""


class Policy(BaseModel):
    """A field that is left out allows what its default says."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    roots: list[str] = []
    """Folders below which models, data and JSON schemas may lie, links followed, beside the service's own directory."""
    hub_models: list[str] = ["*"]
    """Names of models of a hub, e.g. Qwen/*; []: none."""
    hub_datasets: list[str] = ["*"]
    """Names of datasets of a hub, e.g. openai/*; []: none."""
    python_graders: list[str] = []
    """Functions that may grade, e.g. my_graders:*. They run in the verifiers with their rights."""
    grader_hosts: list[str] = []
    """Hosts of `remote` and `judge` graders: judge, judge:8000, *.example.org."""
    grader_env: list[str] = []
    """Variables of the verifiers that such graders may be sent as a token, e.g. JUDGE_API_KEY."""
    tracking_hosts: list[str] = []
    """Hosts that `tracking` may tell of runs, with the service's keys: api.wandb.ai, mlflow:5000, *.example.org."""
    mirrors: list[str] = []
    """URLs below which `checkpoint.mirror` may lie, e.g. s3://bucket/dapo: written and deleted there with the service's
    credentials."""
    limits: dict[str, float] = Field(default={})
    """Highest value of number fields of a spec, by their path, over those of the default."""

    @field_validator("roots")
    @classmethod
    def _absolute(cls, roots: list[str]) -> list[str]:
        for root in roots:
            if not os.path.isabs(root):
                raise ValueError(f"{root!r} must be an absolute path")
        return roots

    @field_validator("limits")
    @classmethod
    def _of_numbers(cls, limits: dict[str, float]) -> dict[str, float]:
        for path in limits:
            row = field_rows().get(path)
            if row is None or "[" in path or not row.type.startswith(("integer", "number")):
                raise ValueError(f"{path!r} is no number field of a spec; docs/spec.md has them")
        return limits


def load_policy(path: Path) -> Policy:
    """Raises PolicyError."""
    try:
        tree = read_yaml(path.read_text(encoding="utf-8"))
        return Policy.model_validate({} if tree is None else tree)
    except OSError as error:
        raise PolicyError(f"the policy {path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        wrong = "; ".join(map(_in_words, error.errors()))
        raise PolicyError(f"the policy {path} is refused: {wrong}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise PolicyError(f"the policy {path} is not YAML: {error}") from error


def _in_words(error: ErrorDetails) -> str:
    field = ".".join(map(str, error["loc"])) or "the file"
    if error["type"] != "extra_forbidden":
        return f"{field}: {phrase(error)}"
    return f"{field} is no field of a policy. There are {', '.join(Policy.model_fields)}"


class Admission:
    """A policy at a place: what is refused there."""

    def __init__(self, policy: Policy, state_dir: Path, private: Collection[str] = ()) -> None:
        """`state_dir`: the service's directory. `private`: names of files in it that are the service's own."""
        self._policy = policy
        self._limits = {**LIMITS, **policy.limits}
        own = os.path.realpath(state_dir)
        self._roots = [own, *(os.path.realpath(root) for root in policy.roots)]
        self._private = {os.path.join(own, name) for name in private}

    def refusals(self, spec: RunSpec) -> list[Problem]:
        """What the policy does not allow of a spec."""
        checks = (self._paths, self._graders, self._servers, self._tracking, self._mirror, self._numbers)
        return [problem for check in checks for problem in check(spec)]

    def refused_replicas(self, generators: int | None, verifiers: int | None) -> list[Problem]:
        """Of a change of a run that goes on."""
        wanted = {"resources.generator.replicas": generators, "resources.verifier.replicas": verifiers}
        return [problem for path, number in wanted.items() for problem in self._number(path, path, number)]

    def _paths(self, spec: RunSpec) -> Iterator[Problem]:
        model = spec.model.path
        if is_local_model(model):
            yield from self._path("model.path", model)
        else:
            yield from self._hub("model.path", model, self._policy.hub_models, "hub_models")
        for field, rows in data_fields(spec).items():
            path = rows.path or ""
            if is_hub_dataset(path):
                yield from self._hub(f"{field}.path", path, self._policy.hub_datasets, "hub_datasets")
            else:
                yield from self._path(f"{field}.path", path)

    def _path(self, field: str, path: str) -> Iterator[Problem]:
        try:
            real = os.path.realpath(os.path.expanduser(path))
        except (ValueError, OSError):
            yield Problem(field, shown(path), "is no path")
            return
        if real in self._private:
            yield Problem(field, shown(path), "is a file of the run service itself")
        elif not any(real == root or real.startswith(f"{root.rstrip(os.sep)}{os.sep}") for root in self._roots):
            roots = ", ".join(self._roots)
            yield Problem(field, shown(path), f"is not below {roots}, where this service reads. Put it there, {_CURE}")

    def _hub(self, field: str, name: str, allowed: Sequence[str], what: str) -> Iterator[Problem]:
        if not _matches(name, allowed):
            yield Problem(field, shown(name), f"is none of the hub names of this service. {_choices(allowed, what)}")

    def _graders(self, spec: RunSpec) -> Iterator[Problem]:
        policy, places = self._policy, spec.referenced_graders
        for name, grader in spec.named_graders.items():
            field = f"reward.graders.{name}" if name in spec.reward.graders else places[name]
            if isinstance(grader, PythonGrader) and not _matches(grader.function, policy.python_graders):
                choices = _choices(policy.python_graders, "python_graders")
                yield Problem(field, grader.function, f"is no Python grader of this service. {choices}")
            elif isinstance(grader, (RemoteGrader, JudgeGrader)):
                if holds_secret(grader.url):
                    message = "holds a secret, which the run's files would keep. Put it into a variable of the "
                    yield Problem(f"{field}.url", redact_url(grader.url), f"{message}verifiers: api_key_env")
                if not _reaches(grader.url, policy.grader_hosts):
                    choices = _choices(policy.grader_hosts, "grader_hosts")
                    yield Problem(f"{field}.url", redact_url(grader.url), f"is no host of this service. {choices}")
                if grader.api_key_env is not None and grader.api_key_env not in policy.grader_env:
                    choices = _choices(policy.grader_env, "grader_env")
                    yield Problem(f"{field}.api_key_env", grader.api_key_env, f"is not sent to anybody. {choices}")
            elif isinstance(grader, JsonSchemaGrader) and grader.schema_path is not None:
                yield from self._path(f"{field}.schema_path", grader.schema_path)

    def _servers(self, spec: RunSpec) -> Iterator[Problem]:
        redis = spec.resources.redis
        for name, url in (("url", redis.url), ("payload_url", redis.payload_url)):
            if url is not None:
                field = f"resources.redis.{name}"
                yield Problem(field, redact_url(url), "is the run service's own matter. Leave it out")

    def _tracking(self, spec: RunSpec) -> Iterator[Problem]:
        for field, url in tracking_urls(spec.tracking):
            folder = file_path(url)
            if folder is not None:
                if os.path.isabs(folder) or ".." in folder.split("/"):
                    yield Problem(field, shown(url), "is not below the run's folder. Take file:mlruns, or a server")
            elif not _reaches(url, self._policy.tracking_hosts):
                choices = _choices(self._policy.tracking_hosts, "tracking_hosts")
                yield Problem(field, redact_url(url), f"is no host of this service. {choices}")

    def _mirror(self, spec: RunSpec) -> Iterator[Problem]:
        url, allowed = spec.checkpoint.mirror, self._policy.mirrors
        if url is not None and not any(f"{url.rstrip('/')}/".startswith(f"{one.rstrip('/')}/") for one in allowed):
            choices = _choices(allowed, "mirrors")
            yield Problem("checkpoint.mirror", redact_url(url), f"lies below no mirror of this service. {choices}")

    def _numbers(self, spec: RunSpec) -> Iterator[Problem]:
        for path in self._limits:
            for field, value in _values(spec, path.split("."), ""):
                yield from self._number(path, field, value)

    def _number(self, path: str, field: str, value: Any) -> Iterator[Problem]:
        limit = self._limits.get(path)
        if value is not None and limit is not None and value > limit:
            yield Problem(field, scalar_text(value), f"is more than {limit:g}. Take less, {_CURE}")


def _values(section: Any, path: Sequence[str], field: str) -> Iterator[tuple[str, Any]]:
    """(field, value) of each field at a path, in which `<name>` stands for any name."""
    if not path:
        yield field, section
        return
    name, *rest = path
    inner = section.items() if name == "<name>" else [(name, getattr(section, name))]
    for step, value in inner:
        yield from _values(value, rest, f"{field}.{step}" if field else step)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _reaches(url: str, hosts: Sequence[str]) -> bool:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (ValueError, KeyError):
        return False
    return _matches(host, hosts) or _matches(f"{host}:{port}", hosts)


def _choices(allowed: Sequence[str], what: str) -> str:
    given = f"Take one of {', '.join(allowed)}" if allowed else "It allows none: take another"
    return f"{given}, {_CURE}: {what}"
