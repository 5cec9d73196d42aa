"""gRPC of what is read of a run: curves, the pipeline as it stands, samples, evaluations, groups, its spec."""

import json
import math
from typing import Any

from dapo.records.measured.series import MOST_POINTS
from dapo.records.samples import SampleFilter
from dapo.v1 import run_pb2 as pb
from dapo.v1 import run_pb2_grpc
from services.orchestrator.api.doors.grpc import caller_of_call
from services.orchestrator.fleet.errors import BadField
from services.orchestrator.reading.group_lists import GroupLine
from services.orchestrator.reading.queries import GROUPS, SAMPLES, Queries

_VERDICTS = {pb.VERDICT_UNSPECIFIED: None, pb.VERDICT_CORRECT: True, pb.VERDICT_WRONG: False}


class ReadServicer(run_pb2_grpc.RunServiceServicer):
    """Errors as of RunServicer."""

    def __init__(self, queries: Queries) -> None:
        self._queries = queries

    async def GetMetrics(self, request: pb.GetMetricsRequest, context: Any) -> pb.Metrics:  # noqa: N802
        until_step = request.until_step if request.HasField("until_step") else None
        found = await self._queries.metrics(
            request.id, request.since_step, until_step, list(request.names), request.points or MOST_POINTS
        )
        columns = {
            name: pb.MetricColumn(
                unit=found.units[name], values=[math.nan if value is None else value for value in column]
            )
            for name, column in found.columns.items()
        }
        return pb.Metrics(steps=found.step, columns=columns, last_step=found.last_step)

    async def GetPipeline(self, request: pb.GetPipelineRequest, context: Any) -> pb.Pipeline:  # noqa: N802
        found = await self._queries.pipeline(request.id)
        return pb.Pipeline(
            live=found.live,
            groups=found.groups,
            version=found.version,
            slowest=found.bottleneck.stage if found.bottleneck is not None else "",
            data=found.model_dump_json(),
        )

    async def ListSamples(self, request: pb.ListSamplesRequest, context: Any) -> pb.ListSamplesResponse:  # noqa: N802
        if request.verdict not in _VERDICTS:
            raise BadField("verdict", "is no Verdict", request.verdict)
        steps = (request.step,) if request.HasField("step") else None
        wanted = SampleFilter(correct=_VERDICTS[request.verdict], steps=steps, prompt=request.prompt)
        page = await self._queries.samples(
            request.id, request.set, wanted, limit=request.limit or SAMPLES, cursor=request.cursor
        )
        samples = [
            pb.Sample(group=one.group_id, row=one.row_id, step=one.step, prompt=one.prompt, data=one.model_dump_json())
            for one in page.samples
        ]
        return pb.ListSamplesResponse(samples=samples, cursor=page.cursor)

    async def ListEvaluations(  # noqa: N802
        self, request: pb.ListEvaluationsRequest, context: Any
    ) -> pb.ListEvaluationsResponse:
        found = await self._queries.evaluations(request.id)
        return pb.ListEvaluationsResponse(
            evaluations=[pb.Evaluation(step=one.get("step"), set=one.get("set"), data=json.dumps(one)) for one in found]
        )

    async def ListGroups(self, request: pb.ListGroupsRequest, context: Any) -> pb.ListGroupsResponse:  # noqa: N802
        found = await self._queries.groups(request.id, list(request.states), request.limit or GROUPS)
        return pb.ListGroupsResponse(groups=[_line(one) for one in found])

    async def GetSpec(self, request: pb.GetSpecRequest, context: Any) -> pb.ResolvedSpec:  # noqa: N802
        return pb.ResolvedSpec(yaml=await self._queries.spec(request.id))

    async def WhoAmI(self, request: pb.WhoAmIRequest, context: Any) -> pb.Identity:  # noqa: N802
        caller = caller_of_call()
        return pb.Identity(name=caller.name, scope=caller.scope)


def _line(one: GroupLine) -> pb.GroupLine:
    fields = one.model_dump(exclude={"group_id", "row_id", "evaluation"})
    return pb.GroupLine(group=one.group_id, row=one.row_id, evaluation=one.evaluation or "", **fields)
