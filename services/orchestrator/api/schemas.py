"""What REST takes and gives, as pydantic models: the source of the OpenAPI document."""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from dapo.records.group_archive import DeadLetter
from services.orchestrator.records.remarks import KEY, LONGEST_NOTES, LONGEST_VALUE, MOST_LABELS, PRIORITIES


class _Request(BaseModel):
    """A field that is not known is refused: it may be a mistyped one; and so is `true` for a number, or a text."""

    model_config = ConfigDict(extra="forbid", strict=True)


# These limits are told here and checked in records/remarks.py, which names the label that is wrong.
_KEYS: JsonDict = {"maxProperties": MOST_LABELS, "propertyNames": {"pattern": f"^{KEY}$"}}
_Value = Annotated[str, Field(json_schema_extra={"maxLength": LONGEST_VALUE})]
_Notes = Annotated[str, Field(json_schema_extra={"maxLength": LONGEST_NOTES})]
_Priority = Annotated[int, Field(json_schema_extra={"minimum": PRIORITIES[0], "maximum": PRIORITIES[-1]})]


class CreateRun(_Request):
    spec: str | dict[str, Any] = Field(description="The RunSpec: YAML or JSON text, or a JSON object.")
    run_dir: str = Field(
        "", description="Of the service of a dapo train: the run's folder. Others choose it: runs/<id>."
    )
    labels: dict[str, _Value] = Field({}, description="By which runs are found.", json_schema_extra=_KEYS)
    notes: _Notes = Field("", description="Text for people.")
    priority: _Priority = Field(0, description="Of runs that wait the highest goes first.")


class ResumeRun(_Request):
    set: list[str] = Field([], description="Fields of the spec to change, e.g. training.steps=100.")


class UpdateRun(_Request):
    """What is left out or null stays as it is."""

    generators: int | None = Field(None, ge=1, description="Generators that there shall be, of a run that goes on.")
    verifiers: int | None = Field(None, ge=1, description="The same of verifiers.")
    labels: dict[str, _Value | None] = Field(
        {}, description="By key; null removes a label. Others stay.", json_schema_extra=_KEYS
    )
    notes: _Notes | None = None
    priority: _Priority | None = None


class State(StrEnum):
    """Of a run."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"
    CANCELLED = "cancelled"


class RunView(BaseModel):
    id: str
    name: str = Field(description="As its spec has it.")
    state: State
    run_dir: str
    message: str = Field(description="Why the run failed, was stopped or waits, or why nobody leads it; else empty.")
    step: int
    steps_total: int
    created_at: str
    ledger: dict[str, int] = Field(description="Ledger state to number of groups.")
    labels: dict[str, str]
    notes: str
    priority: int
    queue_position: int | None = Field(description="From 1; null where it is not queued.")


class RunList(BaseModel):
    runs: list[RunView]
    next: str | None = Field(description="`cursor` of the next page; null on the last.")


class Share(BaseModel):
    total: int
    free: int


class RunsUnderWay(BaseModel):
    most: int | None = Field(description="At a time; null: as many as there is room for.")
    under_way: int


class QueuedRun(BaseModel):
    run_id: str
    position: int = Field(description="From 1.")
    priority: int = Field(description="The higher goes first.")
    reason: str = Field(description="Why it waits.")


class Agent(BaseModel):
    id: str
    role: str = Field(description="Of the workers that it takes: generator, verifier or learner.")
    host: str
    gpus: int
    release: str = Field(description="Of dapo; workers go to agents of the service's alone.")
    run_id: str = Field(description="Of the worker that it has; empty where it is free.")
    worker_id: str


class Machine(BaseModel):
    gpus: Share
    cores: Share = Field(description="A worker takes one; counted where the service was given a number (--cores).")
    memory: Share = Field(description="Bytes; what is taken is an estimate.")
    runs: RunsUnderWay
    queue: list[QueuedRun] = Field(description="Those that wait for room, in order.")
    agents: list[Agent] = Field(description="Those that there are, by id; none with a launcher other than attached.")


class ValidateSpec(_Request):
    spec: str | dict[str, Any] = Field(description="The RunSpec: YAML or JSON text, or a JSON object.")
    set: list[str] = Field(default=[], description="Fields to change, e.g. training.steps=100.")


class Preset(BaseModel):
    name: str = Field(description="As `algorithm.preset`.")
    description: str
    fields: dict[str, Any] = Field(description="What it sets, by path in a spec.")


class PresetList(BaseModel):
    presets: list[Preset]


class Difference(BaseModel):
    field: str
    default: Any = Field(description="Its value under the preset, where nothing else is written.")
    value: Any


class PlannedWorkload(BaseModel):
    role: str = Field(description="generator, verifier or learner.")
    name: str
    replicas: int
    device: str = Field(description="auto, cpu or cuda.")
    gpus: int = Field(description="Of each replica, where it runs on GPUs.")


class PlanRow(BaseModel):
    section: str
    label: str
    text: str


class Plan(BaseModel):
    workloads: list[PlannedWorkload]
    gpus: int = Field(description="Of all workloads together.")
    payload_bytes: int = Field(description="Redis memory that the payloads need at worst.")
    payload_limit_bytes: int = Field(description="resources.redis.memory_mib.")
    rows: list[PlanRow] = Field(description="What `dapo train --dry-run` prints.")


class Resolved(BaseModel):
    yaml: str
    json_: dict[str, Any] = Field(alias="json")


class CheckpointView(BaseModel):
    step: int = Field(description="Finished steps.")
    directory: str
    size: int = Field(description="Bytes.")
    damage: str = Field(description="What is the matter with it; empty where it is whole.")


class CheckpointList(BaseModel):
    checkpoints: list[CheckpointView]


class LogList(BaseModel):
    workers: list[str]


class DeadLetterList(BaseModel):
    letters: list[DeadLetter]


class Requeued(BaseModel):
    group: str = Field(description="The failed group. The one that issues its prompt once more is its requeued_as.")


class FieldProblem(BaseModel):
    field: str = Field(
        description="Path of the field, e.g. `training.steps`; empty where the text as a whole is wrong."
    )
    given: str | None = Field(default=None, description="What was given, shortened; null where there is none to show.")
    message: str = Field(description="What is wrong, then the cure.")


class ProblemDetails(BaseModel):
    """An error, as RFC 9457 has it (application/problem+json)."""

    type: str = Field(description="The kind of problem, e.g. urn:dapo:problem:invalid_spec; see docs/api.md.")
    title: str = Field(description="The kind in words.")
    status: int = Field(description="The status code of the answer.")
    detail: str = Field(description="What is wrong here, and the cure.")
    instance: str = Field(description="What was asked for.")
    problems: list[FieldProblem] = Field(default=[], description="One for each field that is wrong.")


class SpecExamination(BaseModel):
    valid: bool = Field(description="Whether it could be started here as it is.")
    problems: list[FieldProblem]
    warnings: list[FieldProblem] = Field(description="Choices that are allowed and rarely meant.")
    resolved: Resolved | None = Field(description="With its defaults, URLs without passwords; null where it is none.")
    differences: list[Difference] = Field(description="From the defaults under its preset.")
    plan: Plan | None = Field(description="Null where it could not be started.")
