"""A run's control loop over real Valkey with scripted services: generators, verifier and learner speak by the bus."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dapo.bus import Bus
from dapo.bus.failures import FailureReason
from dapo.bus.parts.decisions import Ending
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.contracts.events import Event, StateChanged
from dapo.records.identity import RunIdentity
from dapo.spec.load import parse_spec
from dapo.spec.run import RunSpec
from dapo.v1 import messages_pb2 as pb
from services.orchestrator.control.controller import Controller
from services.orchestrator.control.evaluator import Evaluator
from services.orchestrator.records.recorder import Recorder
from services.orchestrator.runs.inputs import open_inputs
from tests.support.waiting import beside

STEPS, PROMPTS, GROUP = 10, 4, 4

Tree = dict[str, Any]
Verdict = Callable[[str, int], bool]
"""Of a response, by group id and index."""
Reaction = Callable[[Bus, str, dict], Awaitable[None]]


def make_spec(
    tmp_path: Path,
    *,
    staleness: int,
    alert: float = 0.05,
    memory_mib: int = 128,
    rows: int = 23,
    tree: Tree | None = None,
    **algorithm: Any,
) -> RunSpec:
    """Of `rows` prompts; `tree` holds sections beside those that are set here."""
    data = tmp_path / "d.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"p{i}", "answer": f"a{i}"}) + "\n" for i in range(rows)))
    sections = {
        "seed": 5,
        "model": {"path": "./m"},
        "data": {"path": str(data)},
        "sampling": {"group_size": GROUP, "max_response_tokens": 8},
        "reward": {"overlong_buffer_tokens": 3},
        "training": {"steps": STEPS, "prompts_per_step": PROMPTS, "updates_per_step": 2},
        "asynchrony": {"max_staleness": staleness, "low_keep_rate_alert": alert},
        "algorithm": algorithm,
        "resources": {"redis": {"memory_mib": memory_mib}},
    }
    return parse_spec(json.dumps(merge(sections, tree or {})))


def merge(sections: Tree, more: Tree) -> Tree:
    return {**sections, **{name: {**sections.get(name, {}), **section} for name, section in more.items()}}


@dataclass
class Workers:
    """Scripted services. `correct(group id, index)` is the verdict; `fail(group id)` says which prompts fail."""

    bus: Bus
    correct: Verdict
    fail: object = staticmethod(lambda group_id: False)
    failure: FailureReason = FailureReason.PROMPT_TOO_LONG
    silent: object = staticmethod(lambda group_id: False)
    """Which prompts are never answered."""
    learn_s: float = 0.0
    burst: int = 0
    """Grades are held back until so many groups are generated, then written at once."""
    batches: list[pb.TrainBatch] = field(default_factory=list)
    issued_at: dict[str, int] = field(default_factory=dict)
    rows_of: dict[str, tuple[int, int]] = field(default_factory=dict)
    served: list[int] = field(default_factory=list)

    async def generate(self, worker_id: str, seed: int) -> None:
        rng = random.Random(seed)
        while True:
            claimed = await self.bus.streams.claim_dead("prompts", "generator", worker_id, count=64)
            for delivery in claimed or await self.bus.streams.consume("prompts", worker_id, count=2, block_s=0.2):
                task = await self.bus.groups.read_task(delivery.data.decode())
                self.issued_at[task.group_id] = task.issued_version
                self.rows_of[task.group_id] = (task.epoch, task.cursor)
                await asyncio.sleep(rng.random() * 0.02)
                if self.silent(task.group_id):
                    continue
                if self.fail(task.group_id):
                    await self.bus.groups.fail(task.group_id, self.failure, stream="prompts", delivery=delivery)
                    continue
                await self.answer(task)

    async def answer(self, task: pb.PromptTask) -> None:
        completions = [self._completion(task, index) for index in range(task.group_size)]
        await self.bus.payloads.put({c.payload_key: b"x" for c in completions})
        await self.bus.payloads.put({c.text_key: f"{c.group_id}[{c.index}]".encode() for c in completions})
        await self.bus.groups.write_completions(completions)

    def _completion(self, task: pb.PromptTask, index: int) -> pb.Completion:
        return pb.Completion(
            group_id=task.group_id,
            index=index,
            payload_key=self.bus.payloads.payload_key(task.group_id, index, 0),
            text_key=self.bus.payloads.text_key(task.group_id, index, 0),
            prompt_tokens=2,
            response_tokens=5,
            finish_reason=pb.FINISH_REASON_STOP,
            version_min=task.issued_version,
            version_max=task.issued_version,
        )

    async def verify(self) -> None:
        grades = []
        while True:
            claimed = await self.bus.streams.claim_dead("completions", "verifier", "verifier-0", count=64)
            new = await self.bus.streams.consume("completions", "verifier-0", count=64, block_s=0.2)
            for delivery in [*claimed, *new]:
                completion = pb.Completion.FromString(delivery.data)
                correct = self.correct(completion.group_id, completion.index)
                reward = 1.0 if correct else -1.0
                grades.append(
                    (delivery, pb.Grade(completion=completion, correct=correct, score=correct, reward=reward))
                )
            if grades and len(grades) >= self.burst * GROUP:
                await self.bus.groups.write_grades(grades)
                grades, self.burst = [], 0

    async def learn(self) -> None:
        """Returns when the batch that says `end` comes."""
        epoch = await self.bus.lease.acquire("learner")
        await self.bus.weights.publish_version(pb.Version(incarnation=epoch, step=0), epoch)
        while True:
            for batch in await self.bus.batches.read(len(self.batches) - 1, block_s=0.2):
                if batch.end:
                    return
                self.batches.append(batch)
                await asyncio.sleep(self.learn_s)
                version = pb.Version(incarnation=epoch, step=batch.batch + 1)
                metrics = {"step_s": 0.5, "learner_wait_s": 0.1, "entropy": 1.0, "loss": 0.0}
                report = pb.StepReport(batch=batch.batch, version=version, metrics=metrics)
                await self.bus.weights.publish_version(version, epoch)
                await self.bus.batches.record_step(report, [group.group_id for group in batch.groups], epoch)


@dataclass
class Seen:
    run_dir: Path
    rows: list[dict] = field(default_factory=list)
    events: list[tuple[str, dict]] = field(default_factory=list)
    react: "Reaction | None" = None
    states: list[str] = field(default_factory=list)
    ledger: dict[str, int] = field(default_factory=dict)
    issued: int = 0
    open: list[str] = field(default_factory=list)
    ending: Ending | None = None


def make_controller(bus: Bus, spec: RunSpec, recorder: Recorder, seen: Seen) -> Controller:
    async def emit(event: Event) -> None:
        seen.events.append((event.kind, event.data()))
        if seen.react:
            await seen.react(bus, event.kind, event.data())

    async def change_state(state: str) -> None:
        seen.states.append(state)
        await emit(StateChanged(state=state))

    inputs = open_inputs(spec)
    evaluator = Evaluator(bus, spec, inputs.evaluation, record=recorder.keep_evaluation, emit=emit)
    return Controller(
        bus, spec, inputs.training, recorder=recorder, evaluator=evaluator, emit=emit, change_state=change_state
    )


async def run_control(url: str, run_id: str, spec: RunSpec, workers: Workers, seen: Seen) -> None:
    bus = await Bus.connect(url, run_id)
    await bus.runs.create(spec.model_dump_json(), "", "")
    recorder = Recorder.create(seen.run_dir, spec, RunIdentity(run_id, "2026-01-02T03:04:05.000+00:00"))
    seen.rows = recorder.rows
    controller = make_controller(bus, spec, recorder, seen)
    control, learner = controller.run(await bus.lease.acquire("orchestrator")), workers.learn()
    working = (workers.generate("generator-0", 1), workers.generate("generator-1", 2), workers.verify())
    try:
        async with beside(control, learner, *working) as (steering, learning, *_):
            await asyncio.wait_for(steering, 60)
            await asyncio.wait_for(learning, 10)
    finally:
        seen.ledger = await bus.groups.ledger()
        seen.issued = await bus.groups.issued_total()
        seen.open = await bus.groups.open_ids()
        seen.ending = controller.ending
        await bus.close()


def run_scripted(
    valkey: EmbeddedValkey, name: str, spec: RunSpec, correct: Verdict, react: Reaction | None = None, **options: Any
) -> tuple[Workers, Seen]:
    """Runs beside the data of `spec`, in a folder of its own."""
    seen = Seen(Path(spec.data.path or "").parent / f"run-{name}", react=react)

    async def scenario() -> Workers:
        bus = await Bus.connect(valkey.url, name)
        workers = Workers(bus, correct, **options)
        try:
            await run_control(valkey.url, name, spec, workers, seen)
        finally:
            await bus.close()
        return workers

    return asyncio.run(scenario()), seen


def some_uniform(group_id: str, index: int) -> bool:
    """A third of the groups are all wrong, the rest mixed."""
    return int(group_id[1:]) % 3 != 0 and index % 2 == 0


def mixed_until(last: int) -> Verdict:
    """Verdicts: groups up to that number are mixed, of the later ones three are all correct for each that is all
    wrong."""

    def correct(group_id: str, index: int) -> bool:
        if group_id[0] == "e" or int(group_id[1:]) <= last:
            return index % 2 == 0
        return int(group_id[1:]) % 4 != 0

    return correct
