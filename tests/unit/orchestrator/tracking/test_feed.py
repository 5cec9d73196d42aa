"""A feed tells its sink all there is, at the sink's pace, whatever the sink does."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dapo.spec.load import parse_spec
from services.orchestrator.tracking import feed as feed_module
from services.orchestrator.tracking.feed import Feed
from services.orchestrator.tracking.sink import Told, TrackedRun, Trained

SPEC = parse_spec(json.dumps({"model": {"path": "/m"}, "data": {"path": "/d.jsonl"}}))
WAIT_S = 30.0


class Scripted:
    """Does as `act` has it, which gets each call's name and step, before it notes the call."""

    rewinds = False
    forgets = False

    def __init__(self, calls: list[tuple[str, Any]], act: Callable[[str, Any], None]) -> None:
        self._calls, self._act = calls, act

    def _do(self, name: str, what: Any) -> None:
        self._act(name, what)
        self._calls.append((name, what))

    def begin(self, run: TrackedRun, told: Told) -> None:
        self._do("begin", told.step)

    def step(self, row: Any, record: int, trained: Trained | None) -> None:
        self._do("step", row["step"])

    def evaluation(self, row: Any, record: int) -> None:
        self._do("evaluation", row["step"])

    def alert(self, message: str) -> None:
        self._do("alert", message)

    def end(self, state: str, message: str) -> None:
        self._do("end", state)

    def close(self) -> None:
        self._calls.append(("close", None))


class Rewinding(Scripted):
    rewinds = True


class Forgetting(Rewinding):
    forgets = True


class Fed:
    """A feed of a run in a folder, and what its sink was told."""

    def __init__(
        self, folder: Path, rows: int, act: Callable[[str, Any], None] = lambda name, what: None, kind: type = Scripted
    ) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.rows: list[dict[str, Any]] = [{"step": step} for step in range(1, rows + 1)]
        self.evaluations: list[dict[str, Any]] = []
        run = TrackedRun("run-1", folder, SPEC)
        self.feed = Feed("wandb", lambda: kind(self.calls, act), run, self.rows, self.evaluations)
        self.feed.start()

    def train(self, step: int) -> None:
        self.rows.append({"step": step})
        self.feed.tell(step)

    def end(self) -> list[tuple[str, Any]]:
        self.feed.end("succeeded", "")
        self.feed.join(WAIT_S)
        return self.calls

    def steps(self) -> list[int]:
        return [what for name, what in self.calls if name == "step"]


def test_a_sink_is_told_each_thing_once_and_the_end_last(tmp_path: Path) -> None:
    fed = Fed(tmp_path, 0)
    for step in range(1, 4):
        fed.train(step)
    fed.evaluations.append({"set": "exam", "step": 2})
    fed.feed.alert("a generator was lost")
    calls = fed.end()
    assert calls[0] == ("begin", 0)
    assert calls[-2:] == [("end", "succeeded"), ("close", None)]
    assert fed.steps() == [1, 2, 3]
    assert ("evaluation", 2) in calls
    assert ("alert", "a generator was lost") in calls
    assert fed.feed.finished
    assert fed.feed.last_words(1.0) is None
    assert fed.feed.words() == []


@given(first=st.integers(0, 6), kept=st.integers(0, 6), last=st.integers(0, 8))
def test_a_run_that_goes_on_tells_no_step_twice_where_the_first_word_stands(
    tmp_path_factory: pytest.TempPathFactory, first: int, kept: int, last: int
) -> None:
    """It ends after `first` steps, goes on behind `kept` of them, and comes to `last`."""
    kept = min(kept, first)
    folder = tmp_path_factory.mktemp("run")
    before = Fed(folder, first)
    before.end()
    after = Fed(folder, kept)
    for step in range(kept + 1, last + 1):
        after.train(step)
    after.end()
    assert before.steps() + after.steps() == list(range(1, max(first, last, kept) + 1))


@given(first=st.integers(0, 6), kept=st.integers(0, 6), last=st.integers(0, 8))
def test_a_sink_that_rewinds_is_told_again_what_is_trained_again(
    tmp_path_factory: pytest.TempPathFactory, first: int, kept: int, last: int
) -> None:
    kept = min(kept, first)
    folder = tmp_path_factory.mktemp("run")
    Fed(folder, first, kind=Rewinding).end()
    after = Fed(folder, kept, kind=Rewinding)
    for step in range(kept + 1, last + 1):
        after.train(step)
    assert after.end()[0] == ("begin", kept)
    assert after.steps() == list(range(kept + 1, last + 1))


def test_what_an_earlier_start_could_not_tell_is_told_by_the_next(tmp_path: Path) -> None:
    def refuse(name: str, what: Any) -> None:
        if (name, what) == ("step", 2):
            raise ConnectionError("gone")

    before = Fed(tmp_path, 3, refuse)
    before.end()
    assert before.steps() == [1]
    words = before.feed.last_words(1.0)
    assert words is not None
    assert "lacks 2 steps and 0 evaluations" in words
    assert "gone" in words
    after = Fed(tmp_path, 3)
    after.end()
    assert after.steps() == [2, 3]


def test_a_sink_that_fails_is_begun_anew_and_told_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "_PAUSE_S", 0.01)
    monkeypatch.setenv("WANDB_API_KEY", "canary-of-wandb")
    failures, told = [0], threading.Event()

    def act(name: str, what: Any) -> None:
        if name == "step" and what == 2 and failures[0] < 3:
            failures[0] += 1
            raise RuntimeError("no answer to canary-of-wandb\nat all")
        if name == "step" and what == 3:
            told.set()

    fed = Fed(tmp_path, 3, act)
    assert told.wait(WAIT_S)
    calls = fed.end()
    assert [call for call in calls if call[0] == "begin"] == [("begin", 0), *[("begin", 1)] * 3]
    assert len([call for call in calls if call[0] == "close"]) == 4
    assert fed.steps() == [1, 2, 3]
    words = fed.feed.words()
    assert words == [
        "tracking.wandb: RuntimeError: no answer to *** at all. The run goes on; it is tried again, and told then "
        "what it lacks",
        "tracking.wandb goes on, and has all steps up to 3",
    ]
    assert fed.feed.last_words(1.0) is None


def test_a_sink_that_hangs_is_told_of_and_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "SILENT_S", 0.0)
    hanging, free = threading.Event(), threading.Event()

    def act(name: str, what: Any) -> None:
        if name == "step":
            hanging.set()
            free.wait(WAIT_S)

    fed = Fed(tmp_path, 2, act)
    assert hanging.wait(WAIT_S)
    for number in range(300):
        fed.feed.alert(f"alert {number}")
    assert fed.feed.words() == ["tracking.wandb has not answered for 0 s; the run goes on"]
    assert fed.feed.words() == []
    fed.feed.end("succeeded", "")
    fed.feed.join(0.01)
    words = fed.feed.last_words(0.01)
    assert words is not None
    assert "lacks 2 steps" in words
    assert "it was not done within 0.01 s. 44 alerts or traces were left out" in words
    fed.feed.leave()
    free.set()
    fed.feed.join(WAIT_S)
    assert ("end", "succeeded") not in fed.calls


@pytest.mark.parametrize("knows", [True, False])
def test_a_call_that_comes_back_after_others_lead_leaves_their_note_alone(tmp_path: Path, knows: bool) -> None:
    """A process that was frozen does not know it yet."""
    hanging, free = threading.Event(), threading.Event()

    def act(name: str, what: Any) -> None:
        if name == "step":
            hanging.set()
            free.wait(WAIT_S)

    before = Fed(tmp_path, 1, act)
    assert hanging.wait(WAIT_S)
    if knows:
        before.feed.leave()
    after = Fed(tmp_path, 4)
    after.end()
    free.set()
    before.end()
    assert not before.feed.finished
    assert Told.model_validate_json((tmp_path / "tracking" / "wandb.json").read_bytes()).step == 4


@pytest.mark.parametrize(("kind", "times"), [(Rewinding, 1), (Forgetting, 2)])
def test_an_evaluation_ahead_of_its_step_is_told_again_only_to_a_place_that_forgets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type, times: int
) -> None:
    monkeypatch.setattr(feed_module, "_PAUSE_S", 0.01)
    failures, told, evaluated = [0], threading.Event(), threading.Event()

    def act(name: str, what: Any) -> None:
        if name == "alert" and not failures[0]:
            failures[0] += 1
            raise ConnectionError("gone")
        if name == "alert":
            told.set()
        if name == "evaluation":
            evaluated.set()

    fed = Fed(tmp_path, 1, act, kind)
    fed.evaluations.append({"set": "exam", "step": 2})
    fed.feed.tell(1)
    assert evaluated.wait(WAIT_S)
    fed.feed.alert("a generator was lost")
    assert told.wait(WAIT_S)
    assert [call for call in fed.end() if call[0] == "evaluation"] == [("evaluation", 2)] * times


def test_a_note_that_is_damaged_is_told_and_nothing_comes_twice(tmp_path: Path) -> None:
    (tmp_path / "tracking").mkdir()
    (tmp_path / "tracking" / "wandb.json").write_text("{")
    fed = Fed(tmp_path, 2)
    assert {name for name, _ in fed.end()} == {"close"}
    words = fed.feed.last_words(1.0)
    assert words is not None
    assert "Invalid JSON" in words
