"""What a run waits for, and when that is unusual."""

from datetime import datetime
from itertools import pairwise
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dapo.algo.progress import (
    ATTEMPTS,
    LONGEST_LOOK_S,
    Level,
    Looks,
    Oldest,
    Progress,
    Reading,
    Scene,
    Wait,
    explain,
    seconds,
)

ALERT_S, STALL_S = 30.0, 600.0
LOOKS = st.floats(0.01, 5.0)
"""Seconds between two readings."""


def reading(step: int = 1, in_training: bool = False, learning: int = 0, flow: int = 0) -> Reading:
    return Reading(step, in_training, learning, flow)


@given(st.lists(st.tuples(LOOKS, st.booleans(), st.integers(0, 1), st.integers(0, 1), st.integers(0, 1)), max_size=60))
def test_a_wait_lasts_since_the_awaited_side_has_moved(moves: list[tuple[float, bool, int, int, int]]) -> None:
    """Compared with the readings, looked at backwards. What the other side does meanwhile changes nothing."""
    progress, now, seen = Progress(ALERT_S, STALL_S), 0.0, [(0.0, reading())]
    progress.observe(reading(), now)
    for pause_s, in_training, learns, flows, steps in moves:
        now += pause_s
        last = seen[-1][1]
        current = Reading(last.step + steps, in_training, int(last.learning) + learns, int(last.flow) + flows)  # type: ignore[call-overload]
        seen.append((now, current))
        wait = progress.observe(current, now)
        same = [
            at
            for at, one in seen
            if (one.step, one.in_training) == (current.step, in_training)
            and (one.learning == current.learning if in_training else one.flow == current.flow)
            and all(later.in_training == in_training for moment, later in seen if moment >= at)
        ]
        assert wait.lasted_s == pytest.approx(now - min(same), abs=1e-6)
        assert (wait.step, wait.for_learner) == (current.step, in_training)


@given(st.lists(st.floats(0.01, ALERT_S / 6.01), min_size=1, max_size=200), st.booleans(), st.integers(1, 5))
def test_a_run_that_moves_is_never_unusual_however_long_its_step(
    looks: list[float], in_training: bool, every: int
) -> None:
    progress, now = Progress(ALERT_S, STALL_S), 0.0
    for number, pause_s in enumerate(looks):
        now += pause_s
        moved = number // every
        assert progress.observe(reading(1, in_training, moved, moved), now).level == Level.NORMAL


def test_before_a_step_has_shown_how_long_they_take_the_learner_has_time() -> None:
    progress = Progress(ALERT_S, 10 * STALL_S)
    levels = [progress.observe(reading(in_training=True), float(now)).level for now in range(int(20 * ALERT_S) + 1)]
    assert set(levels[:-1]) == {Level.NORMAL}
    assert levels[-1] == Level.UNUSUAL


@given(st.floats(0.5, 5.0))
def test_a_standstill_is_told_then_acted_upon_and_at_last_hopeless(look_s: float) -> None:
    progress, now, levels = Progress(ALERT_S, STALL_S), 0.0, []
    while not levels or levels[-1][1] != Level.HOPELESS:
        wait = progress.observe(reading(), now)
        levels.append((wait.lasted_s, wait.level))
        if wait.level >= Level.STUCK:
            progress.acted()
        now += look_s
    first = {level: next(lasted for lasted, one in levels if one == level) for level in Level}
    assert ALERT_S <= first[Level.UNUSUAL] < ALERT_S + look_s + 1e-6
    assert STALL_S <= first[Level.STUCK] < STALL_S + look_s + 1e-6
    acts = [lasted for lasted, level in levels if level >= Level.STUCK]
    assert [level for _, level in levels if level >= Level.STUCK] == (
        [Level.STUCK] * ATTEMPTS + [Level.FUTILE] * ATTEMPTS + [Level.HOPELESS]
    )
    assert all(STALL_S <= later - sooner < STALL_S + look_s + 1e-6 for sooner, later in pairwise(acts))


@given(st.lists(st.floats(0.5, 500.0), max_size=25), st.floats(0.0, 5000.0), st.none() | st.floats(1.0, 5000.0))
def test_when_a_run_is_stuck_follows_from_the_steps_that_it_has_shown(
    steps: list[float], least_s: float, given_s: float | None
) -> None:
    progress, now = Progress(ALERT_S, given_s, least_s), 0.0
    progress.observe(reading(1), now)
    for number, step_s in enumerate(steps, start=2):
        for _ in range(int(step_s // LONGEST_LOOK_S)):
            now += LONGEST_LOOK_S
            progress.observe(reading(number - 1, flow=int(now)), now)
        now += step_s % LONGEST_LOOK_S
        progress.observe(reading(number), now)
    usual_s = median(steps[-21:]) if steps else 0.0
    stall_s = progress.stall_s
    if given_s is not None:
        assert stall_s == pytest.approx(max(given_s, 5 * usual_s))
    elif len(steps) < 5:
        assert stall_s == pytest.approx(max(3600.0, least_s, 5 * usual_s))
    else:
        assert stall_s >= max(600.0, least_s, 5 * usual_s) - 1e-6
        assert stall_s <= max(3600.0, least_s, 5 * usual_s) + 1e-6
        if max(600.0, least_s) <= 20 * usual_s <= 3600.0:
            assert stall_s == pytest.approx(20 * usual_s)
    while (wait := progress.observe(reading(len(steps) + 1), now)).level < Level.STUCK:
        now += LONGEST_LOOK_S
    assert stall_s - 1e-6 <= wait.lasted_s < stall_s + LONGEST_LOOK_S + 1e-6


def test_a_restart_that_helps_for_a_moment_counts_until_the_step_is_trained() -> None:
    """Else one that hangs after some tokens, each time, would be started again for ever."""
    progress, now, flow, acts = Progress(ALERT_S, 10.0), 0.0, 0, 0
    while (level := progress.observe(reading(flow=flow), now).level) != Level.HOPELESS:
        if level >= Level.STUCK:
            progress.acted()
            acts, flow = acts + 1, flow + 1
        now += 1.0
    assert acts == 2 * ATTEMPTS
    assert progress.observe(reading(step=2), now).level == Level.NORMAL
    assert progress.observe(reading(step=2), now + 5).level == Level.NORMAL


@given(st.floats(10.0, 2000.0))
def test_what_is_usual_for_the_run_s_steps_is_not_unusual(step_s: float) -> None:
    progress, now = Progress(ALERT_S, STALL_S), 0.0

    def stand_still(step: int, lasts_s: float) -> Level:
        nonlocal now
        level = progress.observe(reading(step), now).level
        for _ in range(int(lasts_s)):
            now += 1.0
            level = max(level, progress.observe(reading(step), now).level)
        return level

    for step in range(1, 4):
        now += 1.0
        stand_still(step, step_s)
    now += 1.0
    bound_s = max(ALERT_S, 5 * (int(step_s) + 1))
    assert stand_still(4, bound_s - 2) == Level.NORMAL
    now += 1.0
    assert stand_still(5, bound_s + 2) >= Level.UNUSUAL


@given(st.floats(0.0, 1e6), st.lists(st.floats(0.0, 100.0), max_size=50))
def test_each_time_between_two_looks_counts_up_to_a_bound(first_s: float, pauses: list[float]) -> None:
    looks, now = Looks(), first_s
    assert not looks.begun
    assert looks.passed(now) == 0.0
    assert looks.begun
    for pause_s in pauses:
        now += pause_s
        assert looks.passed(now) == pytest.approx(min(pause_s, LONGEST_LOOK_S), abs=1e-6)


def test_time_in_which_nobody_looked_is_held_against_nobody() -> None:
    progress = Progress(ALERT_S, STALL_S)
    progress.observe(reading(), 0.0)
    wait = progress.observe(reading(), 3600.0)
    assert (wait.lasted_s, wait.level) == (5.0, Level.NORMAL)


SINCE = datetime(2026, 1, 2, 14, 3, 11)
GENERATORS = {"generator-0": "", "generator-1": "serves no weights"}


def scene(*oldest: Oldest, full_server: str = "", last_checkpoint: bool = False) -> Scene:
    return Scene(oldest, GENERATORS, full_server, last_checkpoint)


@pytest.mark.parametrize(
    ("for_learner", "seen", "text", "role", "workers"),
    [
        (
            *(False, scene(Oldest("generation", "g0000000123", "generator-1", SINCE))),
            "group g0000000123, held by generator-1 since 14:03:11, which serves no weights",
            *("generator", ("generator-1",)),
        ),
        (
            *(False, scene(Oldest("generation", "g0000000123", "generator-0", SINCE))),
            "group g0000000123, held by generator-0 since 14:03:11",
            *("generator", ("generator-0",)),
        ),
        (
            *(False, scene(Oldest("generation", "g0000000123", "generator-7", SINCE))),
            "group g0000000123, held by generator-7 since 14:03:11, which sends no heartbeat",
            *("generator", ("generator-7",)),
        ),
        (
            *(False, scene(Oldest("generation", "g0000000123", "", None))),
            "group g0000000123, which no generator has taken: generator-1 serves no weights",
            *("generator", ("generator-1",)),
        ),
        (
            *(False, scene(Oldest("grading", "g0000000005", "verifier-2", SINCE))),
            "the grades of group g0000000005, held by verifier-2 since 14:03:11",
            *("verifier", ("verifier-2",)),
        ),
        (
            *(False, scene(Oldest("grading", "g0000000005", "", None))),
            "the grades of group g0000000005, which no verifier has taken",
            *("verifier", ()),
        ),
        (
            *(False, scene(Oldest("decision", "g0000000005", "orchestrator-0", SINCE))),
            "the orchestrator to decide about group g0000000005",
            *(None, ("orchestrator-0",)),
        ),
        (
            *(True, scene(Oldest("generation", "g0000000123", "generator-1", SINCE), full_server="redis://a:1")),
            "the learner, which has its batch",
            *("learner", ()),
        ),
    ],
)
def test_a_sentence_names_what_is_awaited_who_has_it_and_how_long(
    for_learner: bool, seen: Scene, text: str, role: str | None, workers: tuple[str, ...]
) -> None:
    found = explain(Wait(12, for_learner, 41.3, Level.UNUSUAL), seen)
    assert found.text == f"step 12 waits 41 s for {text}"
    assert (found.role, found.workers) == (role, workers)


def test_of_several_stages_the_oldest_group_is_named_and_an_evaluation_s_last() -> None:
    wait = Wait(12, False, 41.3, Level.UNUSUAL)
    evaluated = Oldest("generation", "e0000000001", "generator-0", SINCE)
    younger = Oldest("generation", "g0000000009", "generator-0", SINCE)
    older = Oldest("grading", "g0000000008", "verifier-0", SINCE)
    assert explain(wait, scene(evaluated, older)).group_id == "g0000000008"
    assert explain(wait, scene(younger, older)).group_id == "g0000000008"
    assert explain(wait, scene(evaluated)).group_id == "e0000000001"


@pytest.mark.parametrize(
    ("seen", "text", "role"),
    [
        (
            scene(Oldest("generation", "g0000000123", "generator-1", SINCE), full_server="redis://a:1"),
            "the run waits 95 s for memory: the server at redis://a:1 has reached its own limit (maxmemory)",
            None,
        ),
        (
            scene(Oldest("generation", "e0000000001", "generator-0", SINCE), last_checkpoint=True),
            "the evaluation waits 95 s for group e0000000001, held by generator-0 since 14:03:11",
            "generator",
        ),
        (scene(last_checkpoint=True), "the run waits 95 s for the learner's last checkpoint", "learner"),
        (scene(), "the run waits 95 s, and no prompt is on its way", None),
    ],
)
def test_not_every_wait_is_a_step_s(seen: Scene, text: str, role: str | None) -> None:
    found = explain(Wait(11, False, 95.0, Level.UNUSUAL), seen)
    assert (found.text, found.role) == (text, role)


@pytest.mark.parametrize(
    ("count", "text"), [(41.4, "41 s"), (119.0, "119 s"), (721.0, "12 min"), (11100.0, "3 h 05 min")]
)
def test_durations_in_words(count: float, text: str) -> None:
    assert seconds(count) == text
