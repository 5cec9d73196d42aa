"""What an agent does next: pure, over every state."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dapo.bus.agents import Answer, Order
from dapo.spec.workloads import MODULES, plan_workloads
from services.agent.rule import ORPHANED_S, Move, next_move, refusal
from tests.support.spec import spec

MINE = Order("run", "generator-0", "generator", MODULES["generator"], "runs/run", number="7")
OTHER = replace(MINE, worker_id="generator-1", number="8")
LED = Answer(MINE, stop=False, run="led")

answers = st.builds(
    Answer,
    order=st.sampled_from([None, MINE, OTHER]),
    stop=st.booleans(),
    run=st.sampled_from(["led", "awaits", "over"]),
)
states = st.fixed_dictionaries(
    {"runs": st.booleans(), "answer": answers, "leaving": st.booleans(), "unled_s": st.floats(0, 2 * ORPHANED_S)}
)


def move(
    held: Order | None, answer: Answer, *, runs: bool = False, leaving: bool = False, unled_s: float = 0.0
) -> Move:
    return next_move(held, runs=runs, answer=answer, leaving=leaving, unled_s=unled_s)


@given(state=states)
def test_nothing_is_started_beside_a_worker_nor_while_leaving(state: dict) -> None:
    assert next_move(MINE, **state) != Move.START
    if state["leaving"]:
        assert next_move(None, **state) != Move.START


@given(state=states)
def test_a_process_is_never_forgotten(state: dict) -> None:
    if next_move(MINE, **state) == Move.CLEAR:
        assert not state["runs"]


@given(state=states)
def test_a_worker_that_was_taken_away_ends(state: dict) -> None:
    taken = state["answer"].order != MINE or state["answer"].stop
    if taken:
        assert next_move(MINE, **state) == (Move.END if state["runs"] else Move.CLEAR)


def test_an_order_is_started_and_then_left_to_run() -> None:
    assert move(None, LED) == Move.START
    assert move(MINE, LED, runs=True) == Move.REST
    assert move(None, LED._replace(order=None)) == Move.REST


def test_one_that_ended_by_itself_is_kept_until_somebody_has_seen_it() -> None:
    assert move(MINE, LED) == Move.REST
    assert move(MINE, LED._replace(stop=True)) == Move.CLEAR


def test_an_order_that_was_withdrawn_before_it_was_seen_is_cleared() -> None:
    assert move(None, LED._replace(stop=True)) == Move.CLEAR


def test_a_worker_whose_run_is_over_ends_at_once_and_one_without_a_leader_in_time() -> None:
    awaits = LED._replace(run="awaits")
    assert move(MINE, LED._replace(run="over"), runs=True) == Move.END
    assert move(MINE, awaits, runs=True, unled_s=ORPHANED_S / 2) == Move.REST
    assert move(MINE, awaits, runs=True, unled_s=ORPHANED_S) == Move.END


def test_what_a_plan_gives_its_workers_is_not_refused() -> None:
    for workload in plan_workloads(spec()):
        environment = {**workload.environment, "DAPO_RUN_ID": "run", "HF_HUB_OFFLINE": "1"}
        order = Order("run", workload.worker_ids[0], workload.role, workload.module, "runs/run", 0, environment, "1")
        assert refusal(order, workload.role) == ""


@pytest.mark.parametrize(
    ("order", "says"),
    [
        (replace(MINE, role="verifier", module=MODULES["verifier"]), "an agent for the role generator does not run"),
        (replace(MINE, module="http.server"), "does not run http.server as generator"),
        (replace(MINE, environment={"DAPO_A": "1", "LD_PRELOAD": "x.so"}), "may not set LD_PRELOAD"),
        (replace(MINE, environment={"PYTHONPATH": "x"}), "may not set PYTHONPATH"),
        (replace(MINE, environment={"HF_HUB_CACHE": "/home"}), "may not set HF_HUB_CACHE"),
        (replace(MINE, worker_id="../../evil"), "'../../evil' is no id of a run or worker"),
        (replace(MINE, worker_id=".."), "'..' is no id"),
        (replace(MINE, run_id="r/../.."), "'r/../..' is no id"),
    ],
)
def test_what_could_run_other_code_or_write_elsewhere_is_refused(order: Order, says: str) -> None:
    assert says in refusal(order, "generator")
