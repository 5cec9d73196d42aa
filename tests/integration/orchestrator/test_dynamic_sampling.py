"""Dynamic sampling that finds nothing, and prompts that rest, over a real Valkey with scripted services."""

import asyncio
import random
import re
from itertools import pairwise
from pathlib import Path

import pytest

from dapo.algo.frontier import DataPart, Frontier
from dapo.bus import Bus
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.records.json_lines import read_json_lines
from services.orchestrator.records.recorder import Recorder
from tests.integration.orchestrator.survival.test_takeover import IDENTITY, live, live_and_die
from tests.integration.orchestrator.test_evaluator import evaluated
from tests.support.orchestrator.control import (
    PROMPTS,
    STEPS,
    Seen,
    Workers,
    make_spec,
    mixed_until,
    run_scripted,
)
from tests.support.orchestrator.stage import Stage, run_stage, services
from tests.support.waiting import beside, eventually


def number(group_id: str) -> int:
    return int(group_id[1:])


def counted(message: str) -> tuple[int, int]:
    """Groups that were all correct and all wrong."""
    found = re.search(r"of the last (\d+) groups (\d+) were all correct and (\d+) all wrong", message)
    assert found is not None, message
    groups, correct, wrong = map(int, found.groups())
    assert correct + wrong == groups
    return correct, wrong


def alerts(seen: Seen, kind: str) -> list[str]:
    return [data["message"] for name, data in seen.events if name == "alert" and data.get("kind") == kind]


def test_sampling_that_finds_nothing_ends_the_run_in_words_and_keeps_what_was_trained(
    valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    spec = make_spec(tmp_path, staleness=1, max_uniform_batches=5)
    workers, seen = run_scripted(valkey, "uniform", spec, mixed_until(3 * PROMPTS))
    ending = seen.ending
    assert ending is not None
    assert (ending.state, ending.steps) == ("failed", 3)
    correct, wrong = counted(ending.message)
    assert seen.ledger["filtered"] >= correct + wrong >= 5 * PROMPTS
    assert correct > wrong > 0
    for words in (
        "harder data",
        "dapo data inspect --grader",
        "dapo runs samples",
        "algorithm.max_uniform_batches = 5",
    ):
        assert words in ending.message
    (told,) = alerts(seen, "uniform_groups")
    assert 2 * PROMPTS <= sum(counted(told)) < 5 * PROMPTS
    assert alerts(seen, "ends_early") == [f"the run ends with step 3: {ending.message}"]
    # The learner has had its end mark, and every group is accounted for.
    assert [batch.batch for batch in workers.batches] == [0, 1, 2]
    assert [row["step"] for row in seen.rows] == [1, 2, 3]
    assert seen.states == ["running", "draining"]
    assert seen.open == []
    assert sum(seen.ledger.values()) == seen.issued
    assert seen.ledger["trained"] == 3 * PROMPTS


def test_without_a_limit_people_are_told_of_each_streak_and_the_run_goes_on(
    valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    spec = make_spec(tmp_path, staleness=0, max_uniform_batches=None)
    _, seen = run_scripted(
        *(valkey, "streaks", spec, lambda group_id, index: number(group_id) % 30 < 8 and index % 2 == 0)
    )
    assert seen.ending is None
    assert seen.ledger["trained"] == STEPS * PROMPTS
    told = alerts(seen, "uniform_groups")
    assert len(told) >= 3
    assert all(counted(message)[0] == 0 and "harder data" not in message for message in told)


def test_what_is_evaluated_is_left_when_the_run_fails(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    """A grader that is out of reach would hold it for half an hour a problem."""
    spec = evaluated(tmp_path, at_start=False, every_steps=1, algorithm={"max_uniform_batches": 3})
    _, seen = run_scripted(valkey, "left", spec, mixed_until(2 * PROMPTS), silent=lambda group_id: group_id[0] == "e")
    assert seen.ending is not None
    assert seen.open == []
    assert sum(seen.ledger.values()) == seen.issued
    assert any(kind == "evaluation" for kind, _ in seen.events)
    assert not (seen.run_dir / "evaluations.jsonl").exists()


def test_the_run_has_failed_once_a_checkpoint_covers_what_was_trained(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    async def play(stage: Stage) -> None:
        bus = await stage.bus()
        async with services(bus) as workers:
            workers.correct = mixed_until(2 * PROMPTS)
            await workers.learn()
            assert stage.states()[-1] == "draining"
            await bus.batches.commit_checkpoint(1, await bus.lease.acquire("learner"))
            await eventually(lambda: stage.states()[-1] == "failed")
        await bus.close()

    spec = make_spec(tmp_path, staleness=1, max_uniform_batches=2)
    stage = run_stage(spec, tmp_path / "run", play, url=valkey.url)
    summary = stage.summary()
    assert (summary["state"], summary["steps"], summary["steps_total"]) == ("failed", 2, STEPS)
    assert summary["message"].startswith("dynamic sampling finds nothing to train on: of the last ")
    assert sum(counted(summary["message"])) >= 2 * PROMPTS


ROWS, WRONG, UNIFORM = 12, 3, 6
"""Rows of the data; the first are all wrong whenever they are asked, the next all correct, the others mixed."""


def verdict(row: int, index: int) -> bool:
    return index % 2 == 0 if row >= UNIFORM else row >= WRONG


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize(("after", "epochs"), [(1, 1), (2, 3)])
def test_rows_rest_and_the_others_keep_their_order(
    valkey: EmbeddedValkey, tmp_path: Path, after: int, epochs: int, dies: bool
) -> None:
    spec = make_spec(tmp_path, staleness=1, rows=ROWS, rest_uniform_after=after, rest_epochs=epochs)
    order = Frontier([DataPart(ROWS)], seed=spec.seed, shuffle=True)
    seen = Seen(tmp_path / "run")

    async def scenario() -> Workers:
        bus = await Bus.connect(valkey.url, IDENTITY.run_id)
        await bus.runs.create(spec.model_dump_json(), "", "")

        def correct(group_id: str, index: int) -> bool:
            return verdict(order.item(*workers.rows_of[group_id]).row, index)

        workers = Workers(bus, correct)
        working = (workers.generate("generator-0", 1), workers.verify(), workers.learn())
        try:
            async with beside(*working) as tasks, asyncio.timeout(90):
                if dies:
                    await live_and_die(valkey.url, spec, seen, random.Random(after))
                else:
                    await live(bus, spec, seen)
                await tasks[-1]
        finally:
            seen.ledger, seen.issued = await bus.groups.ledger(), await bus.groups.issued_total()
            await bus.close()
        return workers

    workers = asyncio.run(scenario())
    assert seen.ledger["trained"] == STEPS * PROMPTS
    assert sum(seen.ledger.values()) == seen.issued
    numbers = sorted(workers.rows_of)
    assert [int(group_id[1:]) for group_id in numbers] == list(range(len(numbers)))
    places = [workers.rows_of[group_id] for group_id in numbers]
    assert places == sorted(set(places))

    last_epoch, last_cursor = places[-1]
    everything = [divmod(place, ROWS) for place in range(last_epoch * ROWS + last_cursor + 1)]
    left_out = [place for place in everything if place not in set(places)]
    asked = {(epoch, order.item(epoch, cursor).row) for epoch, cursor in places}
    assert left_out, "no row ever rested"
    for epoch, cursor in left_out:
        row = order.item(epoch, cursor).row
        assert row < UNIFORM
        earlier = [before for before, one in asked if one == row and before < epoch]
        assert len(earlier) >= after
        assert epoch - max(earlier) <= epochs
    # What was measured with a step is a part of what was left out up to the last prompt.
    rested = [row["rested_prompts"] for row in read_json_lines(seen.run_dir / "metrics.jsonl")]
    assert rested == sorted(rested)
    assert 0 < rested[-1] <= len(left_out)
    assert (
        Recorder.reopen(seen.run_dir, spec).summary(
            state="succeeded", message="", ledger=seen.ledger, issued=seen.issued, restarts=0, elapsed_s=1.0
        )["rested_prompts"]
        == rested[-1]
    )


def test_where_every_row_rests_they_are_asked_again_when_they_have_rested(
    valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    spec = make_spec(tmp_path, staleness=0, rows=2, rest_uniform_after=1, rest_epochs=7, max_uniform_batches=6)
    seen = Seen(tmp_path / "run")

    async def scenario() -> Workers:
        bus = await Bus.connect(valkey.url, IDENTITY.run_id)
        await bus.runs.create(spec.model_dump_json(), "", "")
        workers = Workers(bus, lambda group_id, index: True)
        working = (workers.generate("generator-0", 1), workers.verify(), workers.learn())
        try:
            async with beside(*working) as tasks, asyncio.timeout(60):
                await live(bus, spec, seen)
                await tasks[-1]
        finally:
            seen.ledger, seen.ending = await bus.groups.ledger(), (await bus.decisions.read()).ending
            await bus.close()
        return workers

    workers = asyncio.run(scenario())
    assert seen.ending is not None
    assert seen.ledger["filtered"] >= 6 * PROMPTS
    epochs = sorted({epoch for epoch, _ in workers.rows_of.values()})
    assert 1 < max(later - earlier for earlier, later in pairwise(epochs)) <= 8
