"""REST of what is read of a run: curves, the pipeline as it stands, samples, evaluations, groups."""

from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query
from pydantic import BaseModel, Field, StringConstraints

from dapo.records.measured.series import MOST_POINTS, Series
from dapo.records.samples import SampleFilter
from services.orchestrator.reading.group_lists import GroupLine
from services.orchestrator.reading.pipeline import Pipeline
from services.orchestrator.reading.queries import GROUPS, MOST_GROUPS, MOST_SAMPLES, SAMPLES, Queries
from services.orchestrator.reading.sample_pages import SamplePage

_Names = list[Annotated[str, StringConstraints(max_length=4096)]]
_VERDICTS = {"": None, "correct": True, "wrong": False}


class SpecText(BaseModel):
    yaml: str = Field(description="With every default written out; POST /v1/specs/validate says what differs.")


class EvaluationList(BaseModel):
    evaluations: list[dict[str, Any]] = Field(description="Lines of evaluations.jsonl (docs/evaluation.md).")


class GroupList(BaseModel):
    groups: list[GroupLine]


def add_reads(app: FastAPI, queries: Queries, guarded: dict[str, Any]) -> None:
    """The routes; `guarded` are the arguments of each."""

    @app.get("/v1/runs/{run_id}/spec", **guarded)
    async def get_spec(run_id: str) -> SpecText:
        """The resolved spec that the run has, or goes on with."""
        return SpecText(yaml=await queries.spec(run_id))

    @app.get("/v1/runs/{run_id}/metrics", **guarded)
    async def get_metrics(
        run_id: str,
        since_step: Annotated[int, Query(ge=0, le=2**53, description="Steps after this one.")] = 0,
        until_step: Annotated[int | None, Query(ge=0, le=2**53, description="And up to this one; else all.")] = None,
        names: Annotated[_Names, Query(description="Metrics, one or several with commas each; empty: all.")] = [],  # noqa: B006
        points: Annotated[
            int, Query(ge=1, le=MOST_POINTS, description="Of more steps every n-th is answered, and the newest.")
        ] = MOST_POINTS,
    ) -> Series:
        """The run's curves, as columns by step."""
        return await queries.metrics(run_id, since_step, until_step, _split(names), points)

    @app.get("/v1/runs/{run_id}/pipeline", **guarded)
    async def get_pipeline(run_id: str) -> Pipeline:
        """What stands where now, and the slowest stage with the number that says so."""
        return await queries.pipeline(run_id)

    @app.get("/v1/runs/{run_id}/samples", **guarded)
    async def list_samples(
        run_id: str,
        set: Annotated[str, Query(max_length=200, description="An evaluation set; empty: training.")] = "",
        step: Annotated[int | None, Query(ge=0, le=2**53, description="Only groups of this step.")] = None,
        verdict: Annotated[Literal["", "correct", "wrong"], Query(description="Groups with such a response.")] = "",
        prompt: Annotated[str, Query(max_length=1000, description="A row id, or words of the prompt.")] = "",
        limit: Annotated[int, Query(ge=1, le=MOST_SAMPLES)] = SAMPLES,
        cursor: Annotated[str, Query(max_length=100, description="Of the page before.")] = "",
    ) -> SamplePage:
        """Groups with their responses and verdicts, the newest first."""
        steps = None if step is None else (step,)
        wanted = SampleFilter(correct=_VERDICTS[verdict], steps=steps, prompt=prompt)
        return await queries.samples(run_id, set, wanted, limit=limit, cursor=cursor)

    @app.get("/v1/runs/{run_id}/evaluations", **guarded)
    async def list_evaluations(run_id: str) -> EvaluationList:
        """Every evaluation with its measures and their intervals, oldest first."""
        return EvaluationList(evaluations=await queries.evaluations(run_id))

    @app.get("/v1/runs/{run_id}/groups", **guarded)
    async def list_groups(
        run_id: str,
        state: Annotated[_Names, Query(description="States, one or several with commas each; empty: all.")] = [],  # noqa: B006
        limit: Annotated[int, Query(ge=1, le=MOST_GROUPS)] = GROUPS,
    ) -> GroupList:
        """Groups by ledger state, the newest first: open ones, and settled ones that still have a record."""
        return GroupList(groups=await queries.groups(run_id, _split(state), limit))


def _split(names: list[str]) -> list[str]:
    """Each may be several, with commas between them."""
    return [name for one in names for name in one.split(",") if name]
