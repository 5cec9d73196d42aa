"""What REST takes and gives, as pydantic models: the source of the OpenAPI document."""

from typing import Any

from pydantic import BaseModel, Field

from dapo.records.group_archive import DeadLetter
from dapo.v1 import run_pb2 as pb


class CreateRun(BaseModel):
    spec: str | dict[str, Any] = Field(description="The RunSpec: YAML or JSON text, or a JSON object.")
    run_dir: str = Field("", description="Folder of the run, below the service's directory; empty: runs/<id>.")


class ResumeRun(BaseModel):
    id: str = Field("", description="The run's id, if it is not named by run_dir.")
    run_dir: str = Field("", description="Its folder, below the service's directory.")
    set: list[str] = Field([], description="Fields of the spec to change, e.g. training.steps=100.")


class ScaleRun(BaseModel):
    generators: int | None = Field(None, description="Generators that there shall be; null: as many as there are.")
    verifiers: int | None = Field(None, description="The same of verifiers.")


class RunView(BaseModel):
    id: str
    state: str = Field(description="starting, running, draining, succeeded, failed or stopped.")
    run_dir: str
    message: str = Field(description="Why the run failed or stopped; empty otherwise.")
    step: int
    steps_total: int
    created_at: str
    ledger: dict[str, int] = Field(description="Ledger state to number of groups.")


class RunList(BaseModel):
    runs: list[RunView]


class DeadLetterList(BaseModel):
    letters: list[DeadLetter]


class Requeued(BaseModel):
    group: str = Field(description="The failed group. The one that issues its prompt once more is its requeued_as.")


class FieldProblem(BaseModel):
    field: str
    value: Any = None
    message: str


class ErrorDetail(BaseModel):
    code: str = Field(
        description="invalid_spec, invalid_request, not_found, conflict, stopping, no_answer or unauthorised."
    )
    message: str
    problems: list[FieldProblem] = []


class ErrorBody(BaseModel):
    error: ErrorDetail


def state_name(state: pb.RunState) -> str:
    """RUN_STATE_RUNNING -> running."""
    return pb.RunState.Name(state).removeprefix("RUN_STATE_").lower()


def view(run: pb.Run) -> RunView:
    return RunView(
        id=run.id,
        state=state_name(run.state),
        run_dir=run.run_dir,
        message=run.message,
        step=run.step,
        steps_total=run.steps_total,
        created_at=run.created_at,
        ledger=dict(run.ledger),
    )
