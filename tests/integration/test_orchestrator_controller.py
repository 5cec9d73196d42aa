"""The control loop over real Valkey; generator, verifier and learner are scripted here and speak through the bus."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dapo.bus import Bus
from dapo.bus.embedded import EmbeddedValkey
from dapo.spec.load import parse_spec
from dapo.spec.run import RunSpec
from dapo.v1 import messages_pb2 as pb
from services.orchestrator.controller import Controller, ControllerError
from services.orchestrator.dataset import Dataset

STEPS, PROMPTS, GROUP = 10, 4, 4


@pytest.fixture(scope="module")
def valkey(tmp_path_factory):
    with EmbeddedValkey(tmp_path_factory.mktemp("valkey"), 128) as server:
        yield server


def make_spec(tmp_path: Path, *, staleness: int, alert: float = 0.05, memory_mib: int = 128, **algorithm) -> RunSpec:
    data = tmp_path / "d.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"p{i}", "answer": f"a{i}"}) + "\n" for i in range(23)))
    tree = {
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
    return parse_spec(json.dumps(tree))


@dataclass
class Workers:
    """Scripted services. `correct(group id, index)` is the verdict; `fail(group id)` says which prompts fail."""

    bus: Bus
    correct: object
    fail: object = staticmethod(lambda group_id: False)
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
            for delivery in await self.bus.consume("prompts", worker_id, count=2, block_s=0.2):
                task = await self.bus.read_task(delivery.data.decode())
                self.issued_at[task.group_id] = task.issued_version
                self.rows_of[task.group_id] = (task.epoch, task.cursor)
                await asyncio.sleep(rng.random() * 0.02)
                if self.fail(task.group_id):
                    await self.bus.fail_group(task.group_id, "prompt_too_long", stream="prompts", delivery=delivery)
                    continue
                completions = [self._completion(task, index) for index in range(task.group_size)]
                await self.bus.put_payloads({c.payload_key: b"x" for c in completions})
                await self.bus.write_completions(completions)

    def _completion(self, task: pb.PromptTask, index: int) -> pb.Completion:
        return pb.Completion(
            group_id=task.group_id,
            index=index,
            payload_key=self.bus.payload_key(task.group_id, index, 0),
            text_key=self.bus.text_key(task.group_id, index, 0),
            prompt_tokens=2,
            response_tokens=5,
            finish_reason=pb.FINISH_REASON_STOP,
            version_min=task.issued_version,
            version_max=task.issued_version,
        )

    async def verify(self) -> None:
        grades = []
        while True:
            deliveries = await self.bus.consume("completions", "verifier-0", count=64, block_s=0.2)
            for delivery in deliveries:
                completion = pb.Completion.FromString(delivery.data)
                correct = self.correct(completion.group_id, completion.index)
                reward = 1.0 if correct else -1.0
                grades.append(
                    (delivery, pb.Grade(completion=completion, correct=correct, score=correct, reward=reward))
                )
            if grades and len(grades) >= self.burst * GROUP:
                await self.bus.write_grades(grades)
                grades, self.burst = [], 0

    async def learn(self) -> None:
        """Returns when the batch that says `end` comes."""
        epoch = await self.bus.acquire_epoch("learner")
        await self.bus.set_published_version(pb.Version(incarnation=epoch, step=0), epoch)
        while True:
            for batch in await self.bus.read_batches(len(self.batches) - 1, block_s=0.2):
                if batch.end:
                    return
                self.batches.append(batch)
                await asyncio.sleep(self.learn_s)
                version = pb.Version(incarnation=epoch, step=batch.batch + 1)
                metrics = {"step_s": 0.5, "learner_wait_s": 0.1, "entropy": 1.0, "loss": 0.0}
                report = pb.StepReport(batch=batch.batch, version=version, metrics=metrics)
                await self.bus.set_published_version(version, epoch)
                await self.bus.record_step(report, [group.group_id for group in batch.groups], epoch)


@dataclass
class Seen:
    rows: list[dict] = field(default_factory=list)
    events: list[tuple[str, dict]] = field(default_factory=list)
    react: Callable[[Bus, str, dict], Awaitable[None]] | None = None
    states: list[str] = field(default_factory=list)
    ledger: dict[str, int] = field(default_factory=dict)
    issued: int = 0
    open: list[str] = field(default_factory=list)


async def run_control(url: str, run_id: str, spec: RunSpec, workers: Workers, seen: Seen) -> None:
    async def emit(kind: str, data: dict) -> None:
        seen.events.append((kind, data))
        if seen.react:
            await seen.react(bus, kind, data)

    async def change_state(state: str) -> None:
        seen.states.append(state)
        await emit("state", {"state": state})

    def record(row: dict) -> dict:
        seen.rows.append(row)
        return row

    bus = await Bus.connect(url, run_id)
    await bus.create_run(spec.model_dump_json(), "", "")
    controller = Controller(bus, spec, Dataset(spec.data), record=record, emit=emit, change_state=change_state)
    control = asyncio.create_task(controller.run())
    learner = asyncio.create_task(workers.learn())
    background = [
        asyncio.create_task(work)
        for work in (workers.generate("generator-0", 1), workers.generate("generator-1", 2), workers.verify())
    ]
    try:
        await asyncio.wait_for(control, 60)
        await asyncio.wait_for(learner, 10)
    finally:
        for task in (control, learner, *background):
            task.cancel()
        await asyncio.wait([control, learner, *background])
        seen.ledger = await bus.ledger_counts()
        seen.issued = await bus.issued_total()
        seen.open = await bus.open_groups()
        await bus.close()


def run_scripted(valkey, name: str, spec: RunSpec, correct, react=None, **options) -> tuple[Workers, Seen]:
    seen = Seen(react=react)

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


@pytest.mark.parametrize("staleness", [0, 1, 4])
def test_a_run_keeps_its_staleness_and_its_ledger(valkey, tmp_path, staleness):
    spec = make_spec(tmp_path, staleness=staleness)
    workers, seen = run_scripted(valkey, f"s{staleness}", spec, some_uniform, learn_s=0.05)
    assert [batch.batch for batch in workers.batches] == list(range(STEPS))
    assert all(len(batch.groups) == PROMPTS for batch in workers.batches)
    lags = [batch.batch - group.issued_version for batch in workers.batches for group in batch.groups]
    assert min(lags) >= 0
    assert max(lags) <= staleness
    if staleness:
        assert max(lags) > 0, "generation never ran ahead of training"
    trained = [group.group_id for batch in workers.batches for group in batch.groups]
    assert len(set(trained)) == STEPS * PROMPTS
    assert not [gid for gid in trained if int(gid[1:]) % 3 == 0], "an uninformative group was trained on"
    assert all(group.issued_version == workers.issued_at[group.group_id] for b in workers.batches for group in b.groups)
    assert seen.states == ["running", "draining"]
    assert seen.open == []
    assert sum(seen.ledger.values()) == seen.issued
    assert seen.ledger["trained"] == STEPS * PROMPTS
    assert {state for state, count in seen.ledger.items() if count} <= {"trained", "filtered", "surplus"}


def test_each_step_is_recorded_with_what_it_was_made_of(valkey, tmp_path):
    spec = make_spec(tmp_path, staleness=1)
    workers, seen = run_scripted(valkey, "recorded", spec, some_uniform)
    assert [row["step"] for row in seen.rows] == list(range(1, STEPS + 1))
    assert [row["policy_version"] for row in seen.rows] == list(range(1, STEPS + 1))
    for row, batch in zip(seen.rows, workers.batches, strict=True):
        lags = [batch.batch - group.issued_version for group in batch.groups]
        assert row["staleness_mean"] == sum(lags) / len(lags)
        assert row["staleness_max"] == max(lags)
        assert row["batch_accuracy_mean"] == 0.5
        assert row["learner_idle"] == pytest.approx(0.2)
        assert row["entropy"] == 1.0
    # Accuracy is that of all graded groups: below the 0.5 of those kept, as a third is all wrong.
    accuracies = [row["accuracy_mean"] for row in seen.rows if "accuracy_mean" in row]
    assert 0.2 < sum(accuracies) / len(accuracies) < 0.48
    assert sum(kind == "step" for kind, _ in seen.events) == STEPS


def test_without_dynamic_sampling_every_group_is_trained_on(valkey, tmp_path):
    spec = make_spec(tmp_path, staleness=0, dynamic_sampling=False)
    _, seen = run_scripted(valkey, "plain", spec, some_uniform)
    assert {state: count for state, count in seen.ledger.items() if count} == {"trained": STEPS * PROMPTS}


def test_failed_groups_are_replaced_and_told(valkey, tmp_path):
    spec = make_spec(tmp_path, staleness=1)
    _, seen = run_scripted(
        valkey, "failing", spec, lambda _, index: index == 0, fail=lambda group_id: int(group_id[1:]) % 5 == 0
    )
    assert seen.ledger["failed"] > 0
    assert seen.ledger["trained"] == STEPS * PROMPTS
    alerts = [data["message"] for kind, data in seen.events if kind == "alert"]
    assert any(alert.startswith("group g0000000000 failed: prompt_too_long") for alert in alerts)
    assert sum(seen.ledger.values()) == seen.issued


def test_a_run_whose_groups_all_fail_gives_up_in_words(valkey, tmp_path):
    spec = make_spec(tmp_path, staleness=1)
    with pytest.raises(ControllerError, match=r"the last \d+ groups all failed.*'prompt_too_long'"):
        run_scripted(valkey, "hopeless", spec, some_uniform, fail=lambda group_id: True)


def test_a_low_keep_rate_is_an_alert_and_the_run_goes_on(valkey, tmp_path):
    spec = make_spec(tmp_path, staleness=1, alert=0.5)
    _, seen = run_scripted(valkey, "low", spec, lambda gid, index: int(gid[1:]) % 5 == 0 and index == 0)
    alerts = [data["message"] for kind, data in seen.events if kind == "alert"]
    assert any("dynamic sampling keeps only" in alert for alert in alerts)
    assert seen.ledger["trained"] == STEPS * PROMPTS


MEASURED = {"accuracy_mean", "reward_mean", "response_length_mean", "truncated_share", "keep_rate"}


def test_every_step_has_numbers_though_two_batches_are_cut_at_once(valkey, tmp_path):
    spec = make_spec(tmp_path, staleness=4)
    _, seen = run_scripted(valkey, "numbers", spec, some_uniform, learn_s=0.05, burst=4 * PROMPTS)
    assert len(seen.rows) == STEPS
    assert [row["step"] for row in seen.rows if not row.keys() >= MEASURED] == []


def alerts_with(seen: Seen, text: str) -> list[str]:
    return [data["message"] for kind, data in seen.events if kind == "alert" and text in data["message"]]


def test_prompts_that_a_full_server_refused_are_issued_later_and_once(tmp_path):
    async def react(bus: Bus, kind: str, data: dict) -> None:
        if data.get("state") == "running":
            await bus.control.client.config_set("maxmemory", 1 << 16)
        elif "prompts wait" in data.get("message", ""):
            assert await bus.issued_total() == 0
            await bus.control.client.config_set("maxmemory", 1 << 26)

    spec = make_spec(tmp_path, staleness=1)
    with EmbeddedValkey(tmp_path / "valkey", 64) as server:
        workers, seen = run_scripted(server, "full", spec, some_uniform, react)
    assert len(alerts_with(seen, "prompts wait until memory is free")) == 1
    assert seen.ledger["trained"] == STEPS * PROMPTS
    assert sum(seen.ledger.values()) == seen.issued
    rows = [workers.rows_of[group_id] for group_id in sorted(workers.rows_of)]
    assert rows == [divmod(position, 23) for position in range(len(rows))], "no row is left out or comes twice"


def test_while_memory_is_short_no_prompt_is_issued_that_can_wait_for_a_step(tmp_path, monkeypatch):
    issues: list[tuple[int, int]] = []
    spec = make_spec(tmp_path, staleness=4, memory_mib=16)
    issue = Bus.issue_groups

    async def react(bus: Bus, kind: str, data: dict) -> None:
        if data.get("state") == "running":
            await bus.put_payloads({bus.payload_key("ballast", index, 0): bytes(1 << 20) for index in range(15)})
        elif "no new prompts" in data.get("message", ""):
            monkeypatch.setattr(Bus, "issue_groups", watched)

    async def watched(bus: Bus, tasks: list[pb.PromptTask], epoch: int) -> None:
        cut, trained = await bus.control.client.hmget(bus.keys.log, "next", "trained")
        issues.append((int(cut or 0), int(trained or -1) + 1))
        await issue(bus, tasks, epoch)

    with EmbeddedValkey(tmp_path / "valkey", 64) as server:
        _, seen = run_scripted(server, "crowded", spec, some_uniform, react, learn_s=0.2)
    assert len(alerts_with(seen, "above 85% of resources.redis.memory_mib = 16")) == 1
    assert seen.ledger["trained"] == STEPS * PROMPTS
    assert issues
    assert all(cut == trained for cut, trained in issues), issues
