"""An orchestrator takes over from one that died, over a real Valkey with scripted services."""

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dapo.bus import Bus, BusUnavailable
from dapo.bus.failures import FailureReason
from dapo.bus.server.connection import Argument
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.records.evaluations import read_evaluations
from dapo.records.identity import RunIdentity
from dapo.records.json_lines import read_json_lines
from dapo.spec.run import RunSpec
from services.orchestrator.control.controller import Controller
from services.orchestrator.control.issuer import NotRequeued
from services.orchestrator.records.recorder import Recorder
from tests.integration.orchestrator.test_evaluator import RULE, evaluated
from tests.support.orchestrator.control import (
    PROMPTS,
    STEPS,
    Seen,
    Workers,
    make_controller,
    make_spec,
    mixed_until,
    some_uniform,
)
from tests.support.waiting import beside

IDENTITY = RunIdentity("taken-over", "2026-01-02T03:04:05.000+00:00")


class Mortal:
    """Has a process die, as far as its bus can tell: before or after its n-th write. From then on it does nothing."""

    def __init__(self, bus: Bus, writes: int, *, undone: bool) -> None:
        """`undone`: the last write does not reach the server."""
        self.dead = asyncio.Event()
        self._left = writes
        self._undone = undone
        self._scripts, self._run = bus.control_server.scripts, bus.control_server.run
        bus.control_server.scripts = self.scripts  # type: ignore[method-assign]
        bus.control_server.run = self.run  # type: ignore[method-assign]

    async def scripts(self, name: str, prefix: str, calls: Sequence[Sequence[Argument]]) -> list[Any]:
        if name != "small_write":  # heartbeats
            self._left -= 1
        if self._left == 0 and self._undone:
            self.dead.set()
        replies = await self._scripts(name, prefix, calls)
        if self._left <= 0:
            self.dead.set()
            raise BusUnavailable("dead")
        return replies

    async def run(self, *args: Any, **options: Any) -> Any:
        if self.dead.is_set():
            raise BusUnavailable("dead")
        return await self._run(*args, **options)


async def live(bus: Bus, spec: RunSpec, seen: Seen) -> bool:
    """Whether the run came to its end in this life."""
    first = not (seen.run_dir / "spec.yaml").exists()
    recorder = Recorder.create(seen.run_dir, spec, IDENTITY) if first else Recorder.reopen(seen.run_dir, spec)
    if not first:
        await recorder.begin()
    try:
        await make_controller(bus, spec, recorder, seen).run(await bus.lease.acquire("orchestrator"))
    except BusUnavailable:
        return False
    finally:
        recorder.close()
    return True


async def live_and_die(url: str, spec: RunSpec, seen: Seen, rng: random.Random) -> int:
    """Lives of the orchestrator until the run has ended."""
    for number in range(1, 500):
        bus = await Bus.connect(url, IDENTITY.run_id, instance=f"life-{number}")
        Mortal(bus, rng.randint(1, 40), undone=rng.random() < 0.5)
        try:
            if await live(bus, spec, seen):
                return number
        finally:
            await bus.close()
    raise AssertionError("the run makes no progress")


@pytest.mark.parametrize(("seed", "staleness"), [(0, 0), (1, 1), (2, 2)])
def test_a_run_whose_orchestrator_dies_again_and_again_ends_as_if_it_had_not(
    valkey: EmbeddedValkey, tmp_path: Path, seed: int, staleness: int
) -> None:
    spec = make_spec(tmp_path, staleness=staleness)
    seen = Seen(tmp_path / "run")

    async def scenario() -> tuple[Workers, int]:
        bus = await Bus.connect(valkey.url, IDENTITY.run_id)
        await bus.runs.create(spec.model_dump_json(), "", "")
        workers = Workers(bus, some_uniform, fail=lambda group_id: int(group_id[1:]) % 11 == 5)
        working = (workers.generate("generator-0", 1), workers.verify(), workers.learn())
        try:
            async with beside(*working) as tasks, asyncio.timeout(90):
                lives = await live_and_die(valkey.url, spec, seen, random.Random(seed))
                await tasks[-1]
        finally:
            seen.ledger, seen.open = await bus.groups.ledger(), await bus.groups.open_ids()
            seen.issued = await bus.groups.issued_total()
            await bus.close()
        return workers, lives

    workers, lives = asyncio.run(scenario())
    assert lives > 5
    rows = read_json_lines(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert all(row["accuracy_mean"] is not None and row["staleness_max"] <= staleness for row in rows)
    assert [row["time_s"] for row in rows] == sorted(row["time_s"] for row in rows)
    trained = [group.group_id for batch in workers.batches for group in batch.groups]
    assert len(trained) == len(set(trained)) == STEPS * PROMPTS == seen.ledger["trained"]
    assert not seen.open
    assert sum(seen.ledger.values()) == seen.issued
    # Every prompt was issued once, in the data's order, without a gap.
    numbers = sorted(int(group_id[1:]) for group_id in workers.rows_of)
    assert numbers == list(range(len(numbers)))
    places = [workers.rows_of[f"g{number:010d}"] for number in numbers]
    assert places == [divmod(number, 23) for number in numbers]


@pytest.mark.parametrize("algorithm", [{}, {"rest_uniform_after": 1, "max_uniform_batches": 1}])
def test_at_every_moment_a_successor_would_know_what_the_orchestrator_knows(
    valkey: EmbeddedValkey, tmp_path: Path, algorithm: dict[str, Any]
) -> None:
    spec = make_spec(tmp_path, staleness=2, **algorithm)
    seen = Seen(tmp_path / "run")
    compared = 0
    requeued: set[str] = set()
    repeated: list[int] = []

    async def scenario() -> None:
        bus = await Bus.connect(valkey.url, IDENTITY.run_id)
        await bus.runs.create(spec.model_dump_json(), "", "")
        controller = make_controller(bus, spec, Recorder.create(seen.run_dir, spec, IDENTITY), seen)
        advance = controller._advance

        async def advance_and_compare() -> None:
            await advance()
            if not controller._draining:
                await requeue_failed()
                await compare(bus, controller)

        async def requeue_failed() -> None:
            for group_id in [one for one in workers.issued_at if workers.fail(one) and one not in requeued]:
                try:
                    await controller.requeue(group_id)
                except NotRequeued:  # it has not failed yet
                    continue
                requeued.add(group_id)

        async def compare(bus: Bus, controller: Controller) -> None:
            nonlocal compared
            successor = make_controller(bus, spec, controller._recorder, seen)
            successor._epoch = controller._epoch
            await successor._take_up()
            mine, others = dict(vars(controller._pacing)), dict(vars(successor._pacing))
            assert vars(mine.pop("_keep_rate")) == vars(others.pop("_keep_rate"))
            # The learner may be ahead of what the orchestrator has heard of it.
            for name in ("_trained", "_version"):
                assert others.pop(name) >= mine.pop(name)
            # So may be a group that fails.
            for known in (mine, others):
                known["_in_flight"] = {one: at for one, at in known["_in_flight"].items() if not workers.fail(one)}
            assert others == mine
            assert successor._issuer._frontier.state() == controller._issuer._frontier.state()
            for name in ("_drawn", "_requeued", "_repeats", "rested"):
                assert getattr(successor._issuer, name) == getattr(controller._issuer, name)
            assert vars(successor._settler.resting) == vars(controller._settler.resting)
            assert vars(successor._settler.streak) == vars(controller._settler.streak)
            assert {**successor._ready, **successor._passed} == {**controller._ready, **controller._passed}
            for number, metrics in controller._cut_metrics.items():
                assert successor._cut_metrics[number] == pytest.approx(metrics, nan_ok=True)
            compared += 1
            repeated.append(successor._issuer._repeats)

        controller._advance = advance_and_compare  # type: ignore[method-assign]
        fail = lambda group_id: int(group_id[1:]) % 7 == 5  # noqa: E731
        workers = Workers(bus, some_uniform, fail=fail, failure=FailureReason.GENERATION_FAILED)
        working = (workers.generate("generator-0", 1), workers.verify(), workers.learn())
        try:
            async with beside(*working), asyncio.timeout(60):
                await controller.run(await bus.lease.acquire("orchestrator"))
        finally:
            await bus.close()

    asyncio.run(scenario())
    assert compared > 30
    assert repeated[-1] > 0, "no prompt was issued once more"


@pytest.mark.parametrize("why", ["uniform", "evaluations"])
def test_a_run_whose_orchestrator_dies_again_and_again_ends_early_once(
    valkey: EmbeddedValkey, tmp_path: Path, why: str
) -> None:
    spec, last = make_spec(tmp_path, staleness=1, max_uniform_batches=5), 3 * PROMPTS
    if why == "evaluations":
        spec, last = evaluated(tmp_path, every_steps=1, prompts_in_flight=6, early_stopping=RULE), 10**6
    seen = Seen(tmp_path / "run")

    async def scenario() -> Workers:
        bus = await Bus.connect(valkey.url, IDENTITY.run_id)
        await bus.runs.create(spec.model_dump_json(), "", "")
        workers = Workers(bus, mixed_until(last), learn_s=0.8)
        working = (workers.generate("generator-0", 1), workers.verify(), workers.learn())
        try:
            async with beside(*working) as tasks, asyncio.timeout(90):
                assert await live_and_die(valkey.url, spec, seen, random.Random(3)) > 3
                await tasks[-1]
        finally:
            seen.ledger, seen.open = await bus.groups.ledger(), await bus.groups.open_ids()
            seen.issued, seen.ending = await bus.groups.issued_total(), (await bus.decisions.read()).ending
            await bus.close()
        return workers

    workers = asyncio.run(scenario())
    ending = seen.ending
    assert ending is not None
    if why == "uniform":
        assert (ending.state, ending.steps) == ("failed", 3)
        assert "dynamic sampling finds nothing to train on" in ending.message
    else:
        assert ending.state == "succeeded"
        assert read_evaluations(seen.run_dir)[-1]["step"] == ending.steps < STEPS
    assert [batch.batch for batch in workers.batches] == list(range(ending.steps))
    rows = read_json_lines(seen.run_dir / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, ending.steps + 1))
    assert seen.ledger["trained"] == ending.steps * PROMPTS
    assert seen.open == []
    assert sum(seen.ledger.values()) == seen.issued


def test_a_decision_to_end_early_binds_the_successor(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    """Though by then there would be something to train on again."""
    spec = make_spec(tmp_path, staleness=1, max_uniform_batches=3)
    seen = Seen(tmp_path / "run")

    async def scenario() -> Workers:
        bus = await Bus.connect(valkey.url, IDENTITY.run_id)
        await bus.runs.create(spec.model_dump_json(), "", "")
        workers = Workers(bus, mixed_until(2 * PROMPTS))

        async def die(_: Bus, kind: str, data: dict[str, Any]) -> None:
            if kind == "alert" and data.get("kind") == "ends_early":
                workers.correct = mixed_until(10**6)
                raise BusUnavailable("dead")

        seen.react = die
        working = (workers.generate("generator-0", 1), workers.verify(), workers.learn())
        try:
            async with beside(*working) as tasks, asyncio.timeout(60):
                assert not await live(bus, spec, seen)
                decided = (await bus.decisions.read()).ending
                assert decided is not None
                successor = await Bus.connect(valkey.url, IDENTITY.run_id, instance="successor")
                assert await live(successor, spec, seen)
                assert (await successor.decisions.read()).ending == decided
                await successor.close()
                await tasks[-1]
        finally:
            seen.open = await bus.groups.open_ids()
            await bus.close()
        return workers

    workers = asyncio.run(scenario())
    assert [batch.batch for batch in workers.batches] == [0, 1]
    assert seen.open == []
