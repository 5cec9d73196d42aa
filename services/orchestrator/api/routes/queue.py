"""REST of the queue: the machine with those that wait for room, and runs that are cancelled."""

from typing import Any

from fastapi import FastAPI, Request

from dapo.v1 import run_pb2 as pb
from services.orchestrator.api.doors.rest import caller_of
from services.orchestrator.api.operations import Operations
from services.orchestrator.api.schemas import Agent, Machine, QueuedRun, RunsUnderWay, RunView, Share
from services.orchestrator.api.views import view


def add_queue(app: FastAPI, operations: Operations, guarded: dict[str, Any]) -> None:
    @app.get("/v1/machine", **guarded)
    async def get_machine() -> Machine:
        """What the machine has, what of it is free, and who waits for room."""
        return _machine(await operations.runs.look_at_machine())

    @app.post("/v1/runs/{run_id}/cancel", **guarded)
    async def cancel_run(run_id: str, request: Request) -> RunView:
        """End a run at once, without a checkpoint, or take it from the queue; answers once its processes are gone. It
        may be resumed from what it has."""
        return view(await operations.cancel(caller_of(request), run_id))


def _machine(found: pb.Machine) -> Machine:
    runs = found.runs
    return Machine(
        gpus=_share(found.gpus),
        cores=_share(found.cores),
        memory=_share(found.memory),
        runs=RunsUnderWay(most=runs.most if runs.HasField("most") else None, under_way=runs.under_way),
        queue=[
            QueuedRun(run_id=one.run_id, position=one.position, priority=one.priority, reason=one.reason)
            for one in found.queue
        ],
        agents=[
            Agent(
                id=one.id,
                role=one.role,
                host=one.host,
                gpus=one.gpus,
                release=one.release,
                run_id=one.run_id,
                worker_id=one.worker_id,
            )
            for one in found.agents
        ],
    )


def _share(found: pb.Share) -> Share:
    return Share(total=found.total, free=found.free)
