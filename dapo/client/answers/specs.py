"""Of specs before they are runs."""

from typing import Any, TypedDict


class FieldProblem(TypedDict):
    """What is wrong with one field of a request."""

    field: str
    """Its path, e.g. `training.steps`."""
    given: str | None
    """The value, shortened; None where there is none to show."""
    message: str
    """What is wrong, then the cure."""


class Resolved(TypedDict):
    """A spec with every default written out."""

    yaml: str
    json: dict[str, Any]


class Difference(TypedDict):
    field: str
    default: Any
    """Its value under the preset, where nothing else is written."""
    value: Any


class PlannedWorkload(TypedDict):
    role: str
    """generator, verifier or learner."""
    name: str
    replicas: int
    device: str
    """auto, cpu or cuda."""
    gpus: int
    """Of each replica, where it runs on GPUs."""


class PlanRow(TypedDict):
    section: str
    label: str
    text: str


class Plan(TypedDict):
    """What would be started."""

    workloads: list[PlannedWorkload]
    gpus: int
    """Of all workloads together."""
    payload_bytes: int
    """Redis memory that the payloads need at worst."""
    payload_limit_bytes: int
    rows: list[PlanRow]
    """What `dapo train --dry-run` prints."""


class Examination(TypedDict):
    """What a spec would be as a run."""

    valid: bool
    problems: list[FieldProblem]
    warnings: list[FieldProblem]
    resolved: Resolved | None
    differences: list[Difference]
    """From its preset."""
    plan: Plan | None


class Preset(TypedDict):
    name: str
    """As `algorithm.preset`."""
    description: str
    fields: dict[str, Any]
    """What it sets, by path in a spec."""
