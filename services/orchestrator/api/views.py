"""What the run service has, as REST gives it."""

import json
from collections.abc import Iterable
from typing import Any

from dapo.spec.load import show_tree, show_yaml
from dapo.spec.problem import Problem
from dapo.v1 import run_pb2 as pb
from services.orchestrator.api.schemas import (
    Difference,
    FieldProblem,
    Plan,
    PlannedWorkload,
    PlanRow,
    Resolved,
    RunView,
    SpecExamination,
    State,
)
from services.orchestrator.catalogue import examination as examined
from services.orchestrator.catalogue.examination import Examination
from services.orchestrator.records.exports import ADAPTER, Export


def field_problems(problems: Iterable[Problem]) -> list[FieldProblem]:
    return [FieldProblem(field=one.field, given=one.value, message=one.message) for one in problems]


def spec_text(spec: str | dict[str, Any]) -> str:
    return spec if isinstance(spec, str) else json.dumps(spec)


def examination(found: Examination) -> SpecExamination:
    spec = found.spec
    return SpecExamination(
        valid=not found.problems,
        problems=field_problems(found.problems),
        warnings=field_problems(found.warnings),
        resolved=Resolved(yaml=show_yaml(spec), json=show_tree(spec)) if spec is not None else None,
        differences=[Difference(field=one.field, default=one.before, value=one.after) for one in found.changes],
        plan=_plan(found.plan) if found.plan is not None else None,
    )


def _plan(plan: examined.Plan) -> Plan:
    workloads = [
        PlannedWorkload(
            role=one.role,
            name=one.name,
            replicas=one.replicas,
            device=one.resources.device,
            gpus=one.resources.gpus,
        )
        for one in plan.workloads
    ]
    return Plan(
        workloads=workloads,
        gpus=plan.gpus,
        payload_bytes=plan.payloads.needed,
        payload_limit_bytes=plan.payloads.limit,
        rows=[PlanRow(section=row.section, label=row.label, text=row.text) for row in plan.rows],
    )


def state_of(name: str) -> int:
    """running -> RUN_STATE_RUNNING."""
    return pb.RunState.Value(f"RUN_STATE_{name.upper()}")


def state_name(state: pb.RunState) -> str:
    """RUN_STATE_RUNNING -> running."""
    return pb.RunState.Name(state).removeprefix("RUN_STATE_").lower()


def view(run: pb.Run) -> RunView:
    return RunView(
        id=run.id,
        state=State(state_name(run.state)),
        run_dir=run.run_dir,
        message=run.message,
        step=run.step,
        steps_total=run.steps_total,
        created_at=run.created_at,
        ledger=dict(run.ledger),
        name=run.name,
        labels=dict(run.labels),
        notes=run.notes,
        priority=run.priority,
        queue_position=run.queue_position if run.HasField("queue_position") else None,
    )


def export_message(export: Export) -> pb.Export:
    adapter = export.form == ADAPTER
    return pb.Export(
        name=export.name,
        step=export.step,
        dtype="" if adapter else export.form,
        adapter=adapter,
        state=export.state,
        directory=export.directory,
        size=export.size,
        files=export.files,
        problem=export.problem,
        warning=export.warning,
    )
