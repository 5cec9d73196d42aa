"""The pipeline of a run as it stands: streams, groups, generators, verifiers, learner, and what is slow."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from dapo.bus import GroupState
from dapo.bus.keys import COMPLETIONS, EVALUATIONS, PROMPTS, READERS, SCORED
from dapo.bus.parts.streams import Holder
from dapo.bus.questions import QuestionBus
from dapo.spec.run import RunSpec
from dapo.spec.workloads import plan_workloads
from dapo.v1 import messages_pb2 as pb
from services.orchestrator.control.scaling import demand, generators_of
from services.orchestrator.reading.bottleneck import Stage, bottleneck


class _View(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class StreamView(_View):
    name: str
    reader: str
    """Role that consumes it."""
    depth: int
    """Entries that nobody has done with: groups, on `completions` responses."""
    oldest_s: float | None
    """How long the oldest has been in the hands of its worker or, where none has it, on the stream."""
    oldest_group: str | None
    oldest_worker: str | None


class GeneratorView(_View):
    id: str
    state: str
    """starting, ready, updating, evaluating or stopped."""
    version: int | None
    """Step of the weights that it serves."""
    running: int
    """Requests in its engine."""
    generated_tokens: int
    """Since it started."""
    busy_share: float | None
    """Of the time since it started in which it had something to generate."""
    evaluates: bool
    """It does nothing but evaluate."""
    devices: list[str]
    """GPUs of its engine; none on a CPU."""


class WorkersView(_View):
    wanted: list[str]
    alive: list[str]
    """Those whose heart beats."""


class LearnerView(WorkersView):
    training: bool
    """A batch is cut and not yet trained on."""
    step: int
    """That it trains, or waits to train; from 1."""


class BottleneckView(_View):
    stage: Stage
    share: float = Field(ge=0, le=1)
    text: str
    """The number that says so, in a sentence."""


class DemandView(_View):
    """How many generators keep up with the learner, from the steps of last; what scales the run may follow it."""

    generators: int
    """Wanted: within the limits of `resources.generator.autoscale`, where it has some."""
    running: int
    """That the run has now: those of its spec where it scales itself, else those of the newest step."""
    balance: float | None
    """The number before it is rounded and held where it is near enough; None before enough steps were measured."""
    reason: str
    """In words."""


class Pipeline(_View):
    """Nothing but `groups` and `bottleneck` is there of a run that has ended."""

    live: bool
    version: int | None
    """Step of the newest weights that every ready generator serves."""
    groups: dict[str, int]
    """By state of the ledger."""
    streams: list[StreamView]
    generators: list[GeneratorView]
    verifiers: WorkersView | None
    learner: LearnerView | None
    """None without training."""
    bottleneck: BottleneckView | None
    """The slowest stage of the last steps; None before one was measured."""
    demand: DemandView | None
    """None without training."""


async def read_pipeline(bus: QuestionBus, spec: RunSpec, rows: Sequence[Mapping[str, Any]]) -> Pipeline:
    """Of a run that goes on. `rows`: the newest of metrics.jsonl. Raises BusError."""
    names = [PROMPTS, *([EVALUATIONS] if spec.evaluation.dedicated_generator else []), COMPLETIONS, SCORED]
    groups, members, version, alive, streams = await asyncio.gather(
        bus.groups.ledger(),
        bus.weights.members(),
        bus.weights.published_version(),
        _alive(bus, spec),
        asyncio.gather(*(_stream(bus, name) for name in names)),
    )
    trained = groups[GroupState.TRAINED] // max(1, spec.training.prompts_per_step)
    learners, verifiers = alive.get("learner"), alive["verifier"]
    return Pipeline(
        live=True,
        version=version.step if version is not None else None,
        groups=groups,
        streams=list(streams),
        generators=[_generator(member) for member in members],
        verifiers=verifiers,
        learner=LearnerView(**learners.model_dump(), training=groups[GroupState.BATCHED] > 0, step=trained + 1)
        if learners is not None
        else None,
        bottleneck=_slowest(rows, groups),
        demand=_demand(spec, rows) if spec.training.steps else None,
    )


def past_pipeline(groups: Mapping[str, int], rows: Sequence[Mapping[str, Any]]) -> Pipeline:
    """Of a run that has ended: its ledger, and what was slow in its last steps."""
    return Pipeline(
        live=False,
        version=None,
        groups=dict(groups),
        streams=[],
        generators=[],
        verifiers=None,
        learner=None,
        bottleneck=_slowest(rows, {}),
        demand=None,
    )


async def _alive(bus: QuestionBus, spec: RunSpec) -> dict[str, WorkersView]:
    """By role, of those that have no record of their own."""
    found: dict[str, WorkersView] = {}
    for workload in plan_workloads(spec):
        if workload.role != "generator":
            alive = await bus.registry.alive(workload.role, workload.worker_ids)
            found[workload.role] = WorkersView(wanted=workload.worker_ids, alive=sorted(alive))
    return found


async def _stream(bus: QuestionBus, name: str) -> StreamView:
    depth, oldest = await asyncio.gather(bus.streams.length(name), bus.streams.oldest(name))
    return _stream_view(name, depth, oldest)


def _stream_view(name: str, depth: int, oldest: Holder | None) -> StreamView:
    return StreamView(
        name=name,
        reader=READERS[name],
        depth=depth,
        oldest_s=oldest.held_s if oldest is not None else None,
        oldest_group=oldest.group_id if oldest is not None else None,
        oldest_worker=(oldest.worker_id or None) if oldest is not None else None,
    )


def _generator(member: pb.Member) -> GeneratorView:
    return GeneratorView(
        id=member.generator_id,
        state=member.state,
        version=member.version.step if member.HasField("version") else None,
        running=member.running,
        generated_tokens=member.generated_tokens,
        busy_share=min(1.0, member.busy_s / member.up_s) if member.up_s > 0 else None,
        evaluates=member.evaluates,
        devices=list(member.devices),
    )


def _demand(spec: RunSpec, rows: Sequence[Mapping[str, Any]]) -> DemandView:
    found = demand(spec, rows)
    running = generators_of(spec, rows)
    return DemandView(generators=found.wanted, running=running, balance=found.balance, reason=found.reason)


def _slowest(rows: Sequence[Mapping[str, Any]], groups: Mapping[str, int]) -> BottleneckView | None:
    found = bottleneck(rows, groups.get(GroupState.ISSUED, 0), groups.get(GroupState.GENERATED, 0))
    return BottleneckView(stage=found.stage, share=found.share, text=found.text) if found is not None else None
