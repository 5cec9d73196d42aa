"""Runs that end before their last step, over a real Valkey with scripted services."""

import asyncio
import random
from pathlib import Path

import pytest

from dapo.algo.early_stopping import reason_to_stop
from dapo.bus import Bus
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.records.evaluations import read_evaluations
from dapo.records.json_lines import read_json_lines
from tests.integration.orchestrator.test_evaluator import evaluated
from tests.integration.orchestrator.test_takeover import IDENTITY, live_and_die
from tests.support.orchestrator.control import PROMPTS, STEPS, Seen, Workers, make_spec, run_scripted
from tests.support.orchestrator.stage import Stage, run_stage, services
from tests.support.waiting import eventually


def number(group_id: str) -> int:
    return int(group_id[1:])


def until(last: int):
    """Verdicts: groups up to that number are mixed, of the later ones three are all correct for each that is all
    wrong."""

    def correct(group_id: str, index: int) -> bool:
        if group_id[0] == "e" or number(group_id) <= last:
            return index % 2 == 0
        return number(group_id) % 4 != 0

    return correct


def alerts(seen: Seen, kind: str) -> list[str]:
    return [data["message"] for name, data in seen.events if name == "alert" and data.get("kind") == kind]


def test_sampling_that_finds_nothing_ends_the_run_in_words_and_keeps_what_was_trained(
    valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    spec = make_spec(tmp_path, staleness=1, max_uniform_batches=5)
    workers, seen = run_scripted(valkey, "uniform", spec, until(3 * PROMPTS))
    ending = seen.ending
    assert ending is not None
    assert (ending.state, ending.steps) == ("failed", 3)
    assert "of the last 20 groups 15 were all correct and 5 all wrong" in ending.message
    for words in (
        "harder data",
        "dapo data inspect --grader",
        "dapo runs samples",
        "algorithm.max_uniform_batches = 5",
    ):
        assert words in ending.message
    (told,) = alerts(seen, "uniform_groups")
    assert "of the last 8 groups 6 were all correct and 2 all wrong" in told
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
    assert all("0 were all correct" in message and "harder data" not in message for message in told)


def test_what_is_evaluated_is_left_when_the_run_fails(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    """A grader that is out of reach would hold it for half an hour a problem."""
    spec = evaluated(tmp_path, at_start=False, every_steps=1, algorithm={"max_uniform_batches": 3})
    _, seen = run_scripted(valkey, "left", spec, until(2 * PROMPTS), silent=lambda group_id: group_id[0] == "e")
    assert seen.ending is not None
    assert seen.open == []
    assert sum(seen.ledger.values()) == seen.issued
    assert any(kind == "evaluation" for kind, _ in seen.events)
    assert not (seen.run_dir / "evaluations.jsonl").exists()


def test_the_run_has_failed_once_a_checkpoint_covers_what_was_trained(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    async def play(stage: Stage) -> None:
        bus = await stage.bus()
        async with services(bus) as workers:
            workers.correct = until(2 * PROMPTS)
            await workers.learn()
            assert stage.states()[-1] == "draining"
            await bus.batches.commit_checkpoint(1, await bus.lease.acquire("learner"))
            await eventually(lambda: stage.states()[-1] == "failed")
        await bus.close()

    spec = make_spec(tmp_path, staleness=1, max_uniform_batches=2)
    stage = run_stage(spec, tmp_path / "run", play, url=valkey.url)
    summary = stage.summary()
    assert (summary["state"], summary["steps"], summary["steps_total"]) == ("failed", 2, STEPS)
    assert summary["message"].startswith("dynamic sampling finds nothing to train on: of the last 8 groups")


RULE = {"set": "exam", "patience": 1}


def test_evaluations_that_do_not_rise_end_the_run_as_on_its_last_step(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    spec = evaluated(tmp_path, every_steps=1, prompts_in_flight=6, early_stopping=RULE)
    workers, seen = run_scripted(valkey, "patience", spec, until(10**6), learn_s=0.5)
    ending = seen.ending
    assert ending is not None
    assert ending.state == "succeeded"
    assert ending.message.startswith("exam has not risen above avg@3 = 0.6667 of step 0 up to step ")
    # What was cut by then is trained, and its last version evaluated.
    assert 1 <= ending.steps < STEPS
    assert len(workers.batches) == ending.steps == len(seen.rows)
    rows = read_evaluations(seen.run_dir)
    assert rows[-1]["step"] == ending.steps
    assert (rows[-1]["version_min"], rows[-1]["version_max"]) == (ending.steps, ending.steps)
    assert seen.open == []
    assert sum(seen.ledger.values()) == seen.issued
    assert seen.states == ["running", "draining"]
    # Who goes on from the same evaluations, with nothing decided, decides the same.
    assert reason_to_stop(spec.evaluation.early_stopping, rows) == ending.message


def test_a_base_model_that_is_good_enough_is_not_trained(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    spec = evaluated(tmp_path, every_steps=5, early_stopping={"set": "exam", "threshold": 0.6})
    workers, seen = run_scripted(valkey, "good", spec, until(10**6))
    assert seen.ending is not None
    assert (seen.ending.state, seen.ending.steps) == ("succeeded", 0)
    assert "exam has reached avg@3 = 0.6667 at step 0" in seen.ending.message
    assert workers.batches == []
    assert [row["step"] for row in read_evaluations(seen.run_dir)] == [0]
    assert seen.open == []


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
        workers = Workers(bus, until(last), learn_s=0.8)
        tasks = [asyncio.create_task(work) for work in (workers.generate("generator-0", 1), workers.verify())]
        learning = asyncio.create_task(workers.learn())
        try:
            async with asyncio.timeout(90):
                assert await live_and_die(valkey.url, spec, seen, random.Random(3)) > 3
                await learning
        finally:
            for task in (*tasks, learning):
                task.cancel()
            await asyncio.wait({*tasks, learning})
            seen.ledger, seen.open = await bus.groups.ledger(), await bus.groups.open_ids()
            seen.issued, seen.ending = await bus.groups.issued_total(), (await bus.decisions.read()).ending
            await bus.close()
        return workers

    workers = asyncio.run(scenario())
    ending = seen.ending
    assert ending is not None
    if why == "uniform":
        assert (ending.state, ending.steps) == ("failed", 3)
        assert "of the last 20 groups" in ending.message
    else:
        assert ending.state == "succeeded"
        assert read_evaluations(seen.run_dir)[-1]["step"] == ending.steps < STEPS
    assert [batch.batch for batch in workers.batches] == list(range(ending.steps))
    rows = read_json_lines(seen.run_dir / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, ending.steps + 1))
    assert seen.ledger["trained"] == ending.steps * PROMPTS
    assert seen.open == []
    assert sum(seen.ledger.values()) == seen.issued
