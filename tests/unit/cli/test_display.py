"""What is shown of a run while it goes on: what it waits for, the live panel at every width, plain lines."""

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from dapo.cli.display.displays import LiveDisplay, PlainDisplay
from dapo.cli.display.panel import panel
from dapo.cli.display.picture import RunPicture
from dapo.cli.display.waiting import Pace, Waiting
from dapo.cli.display.words import duration, show
from dapo.client import Run, RunEvent
from dapo.contracts.events import (
    WAITING,
    WAITING_OVER,
    Alert,
    Event,
    Scaled,
    ServiceChanged,
    StateChanged,
    StepFinished,
)
from dapo.terminal import sparkline

FUTURE = 10**10
"""Seconds since 1970, long after the tests."""


def sent(event: Event, at_s: float = FUTURE) -> RunEvent:
    return RunEvent(f"{round(1000 * at_s)}-0", event.kind, event.data())


def run(**changes: Any) -> Run:
    facts = {"id": "r-1", "state": "running", "run_dir": "/r", "message": "", "step": 1, "steps_total": 10}
    return Run(**{**facts, "created_at": "", "ledger": {}, **changes})  # type: ignore[typeddict-item]


def test_what_is_awaited_follows_the_events() -> None:
    waiting = Waiting(10)
    assert "Redis" in waiting.text
    for worker, role in (("generator-0", "generator"), ("generator-1", "generator"), ("learner-0", "learner")):
        waiting.update(ServiceChanged(worker_id=worker, role=role, state="launched"))
    assert waiting.text == "starting SGLang (generator-0, generator-1) and loading the model…"
    for worker in ("generator-0", "generator-1"):
        waiting.update(ServiceChanged(worker_id=worker, role="generator", state="ready"))
    assert "first weights" in waiting.text
    waiting.update(StateChanged(state="running"))
    assert "first batch" in waiting.text
    waiting.update(StepFinished(row={"step": 1}))
    assert waiting.text == ""
    waiting.update(StateChanged(state="draining"))
    assert "last steps" in waiting.text
    waiting.update(StateChanged(state="stopped"))
    assert waiting.text == ""
    waiting.update(StateChanged(state="starting"))
    assert "Redis" in waiting.text


def test_a_standstill_is_awaited_until_the_run_goes_on() -> None:
    told = Alert(cause=WAITING, message="step 2 waits 41 s for group g0000000123")
    for end in (Alert(cause=WAITING_OVER, message="step 2 goes on"), StepFinished(row={"step": 2})):
        waiting = Waiting(10)
        waiting.update(StateChanged(state="running"))
        waiting.update(StepFinished(row={"step": 1}))
        waiting.update(told)
        waiting.update(Alert(message="something else"))
        assert waiting.text == told.message
        waiting.update(end)
        assert waiting.text == ""


def test_while_a_run_stands_still_no_time_is_left_to_tell() -> None:
    picture = RunPicture("r-1", 10)
    for step in (1, 2):
        picture.event(sent(StepFinished(row={**ROW, "step": step}), 100.0 + 4 * step))
    assert picture.left_s() == pytest.approx(8 * 4.0)
    told = picture.event(sent(Alert(cause=WAITING, message="step 3 waits 41 s for the learner")))
    assert (told is not None and told.text, picture.left_s()) == ("alert: step 3 waits 41 s for the learner", None)
    picture.event(sent(Alert(cause=WAITING_OVER, message="step 3 goes on")))
    assert picture.left_s() == pytest.approx(8 * 4.0)


def test_a_notice_is_told_and_is_no_alert() -> None:
    notice = Alert(message="the run goes on behind step 4", severity="notice")
    told = RunPicture("r-1", 10).event(sent(notice))
    assert told is not None
    assert (told.text, told.style) == (notice.message, "dim")
    scaled = Scaled(role="generator", before=1, after=3, reason="the learner waits", by="autoscale")
    told = RunPicture("r-1", 10).event(sent(scaled))
    assert told is not None
    assert told.text == "generators 1 → 3: the learner waits"
    told = RunPicture("r-1", 10).event(sent(Alert(message="look")))
    assert told is not None
    assert (told.text, told.style) == ("alert: look", "yellow")


def test_time_left() -> None:
    pace = Pace()
    pace.update(1, 100.0)
    assert pace.left_s(10) is None
    pace.update(2, 104.0)
    pace.update(3, 106.0)
    assert pace.left_s(10) == pytest.approx(7 * 3.0)
    pace.update(2, 200.0)
    assert pace.left_s(10) is None, "the run has gone back to a checkpoint"
    assert duration(3725) == "1:02:05"


def test_the_time_of_a_run_is_that_since_it_was_last_started() -> None:
    picture = RunPicture("r-1", 10)
    for state, at_s in (("starting", 50), ("stopped", 60), ("starting", 1000), ("running", 1010)):
        picture.event(sent(StateChanged(state=state), at_s))
    assert picture.elapsed_s(1030) == 30
    picture.event(sent(StateChanged(state="succeeded"), 1040))
    assert (picture.elapsed_s(9999), picture.left_s()) == (40, None)


def test_what_is_awaited_is_told_without_an_event() -> None:
    picture = RunPicture("r-1", 10)
    picture.snapshot(run(state="starting"), {**PIPELINE, "generators": [generator(0), generator(1, state="starting")]})
    assert picture.awaited == "starting SGLang (generator-1) and loading the model…"


def test_a_run_that_is_queued_says_its_place_and_why() -> None:
    picture = RunPicture("r-1", 10)
    picture.snapshot(run(state="queued", message="needs 2 GPUs, 1 free of 4", queue_position=3), {})
    assert picture.awaited == "3 in the queue: needs 2 GPUs, 1 free of 4"
    picture.event(sent(StateChanged(state="starting")))
    assert (picture.queue_position, "Redis" in picture.awaited) == (None, True)


ROW = {"step": 3, "accuracy_mean": 0.25, "reward_mean": None, "generated_tokens_per_s": 2417.6, "policy_version": 3}


def test_off_a_terminal_each_step_is_one_plain_line() -> None:
    out = io.StringIO()
    with PlainDisplay(Console(file=out, width=40), RunPicture("r-1", 10)) as display:
        display.event(sent(StateChanged(state="starting")))
        display.event(sent(StateChanged(state="starting")))
        display.event(sent(Alert(message="look [here]")))
        display.event(sent(StepFinished(row=ROW)))
    lines = out.getvalue().splitlines()
    assert lines[1] == "alert: look [here]"
    assert len(lines) == 3
    assert lines[2].startswith("step 3/10  accuracy 0.250  reward –")
    assert "tokens/s 2,418" in lines[2]


def test_off_a_terminal_a_place_in_the_queue_is_told_when_it_changes() -> None:
    out = io.StringIO()
    with PlainDisplay(Console(file=out), RunPicture("r-1", 10)) as display:
        for place in (2, 2, 1):
            display.snapshot(
                run(state="queued", message=f"needs 2 GPUs, {place} runs before", queue_position=place), {}
            )
    assert out.getvalue() == (
        "2 in the queue: needs 2 GPUs, 2 runs before\n1 in the queue: needs 2 GPUs, 1 runs before\n"
    )


def test_what_was_told_before_one_looked_is_not_told_as_news() -> None:
    out = io.StringIO()
    with LiveDisplay(Console(file=out, force_terminal=True, width=80), RunPicture("r-1", 10)) as display:
        for number in range(5):
            display.event(sent(Alert(message=f"old {number}"), 1000.0 + number))
        display.event(sent(Alert(message="new")))
        display.note("stopping…")
    text = out.getvalue()
    assert "stopping…" in text
    assert text.count("alert: new") == 1
    last = text[text.rindex("stopping…") :]
    assert [f"old {number}" in last for number in range(5)] == [False, False, True, True, True]


FULL_ROW = {
    "step": 123, "accuracy_mean": 0.25, "reward_mean": -0.812, "response_length_mean": 12345.6, "entropy": 0.123,
    "keep_rate": 0.5, "staleness_mean": 1.25, "policy_version": 123, "generated_tokens_per_s": 1112417.6,
}  # fmt: skip


def generator(number: int, **changes: Any) -> dict[str, Any]:
    facts = {"id": f"generator-{number}", "state": "ready", "version": 122, "running": 1024, "generated_tokens": 5}
    return {**facts, "busy_share": 0.97, "evaluates": False, "devices": [], **changes}


PIPELINE = {
    "live": True,
    "version": 122,
    "groups": {"issued": 3},
    "streams": [
        {"name": "prompts", "reader": "generator", "depth": 1234, "oldest_s": 12.2, "oldest_group": "g0000000001"},
        {"name": "completions", "reader": "verifier", "depth": 56, "oldest_s": None, "oldest_group": None},
        {"name": "scored", "reader": "orchestrator", "depth": 7, "oldest_s": 0.0, "oldest_group": None},
    ],
    "generators": [generator(0), generator(1, state="updating", version=None, busy_share=None)],
    "verifiers": {"wanted": ["verifier-0", "verifier-1"], "alive": ["verifier-0"]},
    "learner": {"wanted": ["learner-0"], "alive": ["learner-0"], "training": False, "step": 124},
    "bottleneck": {"stage": "generation", "share": 0.62, "text": "the learner waits for its batch 62 % of a step"},
}


def full_picture() -> RunPicture:
    picture = RunPicture("a-run-with-a-long-name-of-its-own-20261126-1849", 1000)
    picture.event(sent(StateChanged(state="starting"), 1000.0))
    for step in range(1, 124):
        picture.event(sent(StepFinished(row={**FULL_ROW, "step": step, "reward_mean": step / 100}), 1000.0 + step))
    picture.snapshot(run(step=123, steps_total=1000), PIPELINE)
    return picture


def shown(picture: RunPicture, width: int, note: str = "") -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(panel(picture, width, 2000.0, note))
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [120, 80, 60])
def test_the_panel_fits_and_loses_nothing(width: int) -> None:
    lines = shown(full_picture(), width, "waiting for the run service")
    assert max(map(len, lines)) <= width
    assert len(lines) <= 24
    text = "\n".join(lines)
    for word in ("a-run-with-a-long-name-of-its-own-20261126-1849", "running", "waiting for the run service"):
        assert word in text
    for word in ("0.250", "12345.6", "0.123", "0.50", "1.25", "1,112,418", "123/1000", "0:16:40", "left 0:14:37"):
        assert word in text
    for heading in ("accuracy", "reward", "length", "entropy", "keep rate", "staleness", "version", "tokens/s"):
        assert heading in text
    assert "▁" in text
    assert "+0.010 → +1.230" in text
    (slowest,) = [line for line in lines if line.startswith("▶")]
    assert slowest.split() == ["▶", "generation", "1,234", "12", "s", "1", "of", "2", "generators", "ready"]
    others = [" ".join(line.split()) for line in lines if line.startswith("  ")]
    assert {"grading 56 – 1 of 2 verifiers", "training 7 0 s waits for step 124"} <= set(others)
    assert "weights – – version 122" in others
    assert "slowest: generation, the learner waits for its batch 62 % of a step" in " ".join(lines)
    (late,) = [line for line in lines if line.startswith("generator-1")]
    assert late.split() == ["generator-1", "updating", "–", "1,024", "–"]


@given(st.integers(20, 130), st.integers(0, 30))
def test_no_line_of_the_panel_is_longer_than_the_terminal_is_wide(width: int, generators: int) -> None:
    picture = full_picture()
    picture.pipeline = {**PIPELINE, "generators": [generator(number) for number in range(generators)]}
    assert max(map(len, shown(picture, width))) <= width


def test_of_many_generators_those_that_are_not_ready_are_shown() -> None:
    picture = RunPicture("r-1", 10)
    many = [generator(number, state="starting" if number == 15 else "ready") for number in range(20)]
    picture.snapshot(run(), {**PIPELINE, "generators": many})
    lines = [" ".join(line.split()) for line in shown(picture, 80)]
    assert "generator-15 starting 122 1,024 97 %" in lines
    assert "and 14 more, 14 of them ready" in lines


def test_a_run_that_has_ended_shows_what_is_left_to_know_of_it() -> None:
    ended = {"live": False, "streams": [], "generators": [], "verifiers": None, "learner": None, "version": None}
    picture = RunPicture("r-1", 10)
    picture.snapshot(run(state="failed", message="the learner has ended"), {**PIPELINE, **ended})
    text = "\n".join(shown(picture, 60))
    assert "run r-1  failed: the learner has ended" in text
    assert "slowest: generation" in text
    assert "generators ready" not in text
    assert "Redis" not in text


@pytest.mark.parametrize("width", [40, 20])
def test_the_live_display_cuts_no_number_and_no_heading(width: int) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=width, color_system=None)
    with LiveDisplay(console, RunPicture("r-1", 1000)) as display:
        for step in (122, 123):
            display.event(sent(StepFinished(row={**FULL_ROW, "step": step})))
    text = out.getvalue()
    for word in ("0.250", "-0.812", "12345.6", "0.123", "0.50", "1.25", "1,112,418", "123/1000", "left", "0:00:0"):
        assert word in text
    for heading in ("accuracy", "reward", "length", "entropy", "keep rate", "staleness", "version", "tokens/s"):
        assert heading in text


def test_show() -> None:
    assert show({"x": float("nan")}, "x", "{:.1f}") == "–"
    assert show({}, "x", "{:.1f}") == "–"
    assert show({"x": 2}, "x", "{:.1f}") == "2.0"


VALUES = st.lists(st.none() | st.floats(width=64), max_size=50)


@given(VALUES, st.integers(1, 30))
def test_a_sparkline_fits_its_width_and_has_its_extremes(values: list[float | None], width: int) -> None:
    line = sparkline(values, width)
    assert len(line) <= min(width, len(values))
    assert set(line) <= set(" ▁▂▃▄▅▆▇█")


def test_a_sparkline_is_the_means_of_what_has_no_room() -> None:
    assert sparkline([0.0, None, 1.0], 3) == "▁ █"
    assert sparkline([0.0, 0.0, 4.0, 4.0, 8.0, 8.0], 3) == "▁▅█"
    assert sparkline([2.0, 2.0], 9) == "▄▄"
    assert sparkline([None], 9) == ""
