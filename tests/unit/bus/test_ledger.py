from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dapo.bus.keys import Keys
from dapo.bus.ledger import DISCARDED, OPEN, SETTLED, TRANSITIONS, GroupState
from dapo.bus.server import scripts


def test_every_state_is_declared_and_reachable() -> None:
    reached = {GroupState.ISSUED}
    for _ in GroupState:
        reached |= {target for state in reached for target in TRANSITIONS[state]}
    assert reached == set(GroupState) == set(TRANSITIONS)


def test_terminal_states_are_those_without_a_way_out() -> None:
    terminal = DISCARDED | {GroupState.TRAINED}
    assert {state for state, targets in TRANSITIONS.items() if not targets} == terminal
    assert not OPEN & terminal
    assert set(GroupState) - OPEN - terminal == {GroupState.BATCHED}


def test_a_drain_can_close_every_open_group() -> None:
    assert all(GroupState.SURPLUS in TRANSITIONS[state] for state in OPEN)


def test_a_scored_group_can_be_settled_in_every_way() -> None:
    assert all(state in TRANSITIONS[GroupState.SCORED] for state in SETTLED)


@given(st.lists(st.integers(min_value=0), max_size=20))
def test_every_path_ends_and_no_batched_group_is_dropped(choices: list[int]) -> None:
    """The one way back, that of a lost response, is bounded elsewhere."""
    state, path = GroupState.ISSUED, [GroupState.ISSUED]
    for choice in choices:
        targets = sorted(TRANSITIONS[state] - {GroupState.ISSUED})
        if not targets:
            break
        state = targets[choice % len(targets)]
        path.append(state)
    assert len(path) == len(set(path)) <= 6
    assert not (GroupState.BATCHED in path and set(path) & DISCARDED)


def test_scripts_carry_exactly_the_declared_transitions() -> None:
    line = next(line for line in scripts.sources()["settle_group"].splitlines() if line.startswith("local ALLOWED"))
    for source in GroupState:
        for target in GroupState:
            assert (f'["{source}>{target}"] = true' in line) == (target in TRANSITIONS[source])


def test_every_script_file_is_loaded() -> None:
    files = {entry.name.removesuffix(".lua") for entry in (resources.files("dapo.bus.server") / "lua").iterdir()}
    assert files - {"prelude"} == set(scripts.SCRIPTS) == set(scripts.sources())


@pytest.mark.parametrize("run_id", ["", "a b", "x}y", "-a", "a" * 129, "a/b", "ü"])
def test_run_ids_that_would_break_keys_are_refused(run_id: str) -> None:
    with pytest.raises(ValueError, match="run id"):
        Keys(run_id)


def test_keys_of_a_run_share_one_hash_tag() -> None:
    keys = Keys("2026-01-01.x_1")
    names = [keys.run, keys.group("g0"), keys.payload("g0", 1, 2), keys.stream("prompts"), keys.commands("generator-0")]
    assert all(name.startswith("dapo:{2026-01-01.x_1}:") for name in names)
    with pytest.raises(ValueError, match="stream 'grades' is none of prompts, evaluations, completions, scored"):
        keys.stream("grades")
