"""How the run's own scaling follows its steps, within what there is room for."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest

from dapo.contracts.events import Alert, Event
from dapo.spec.run import RunSpec
from services.orchestrator.control import scaling
from services.orchestrator.control.scaling import Autoscaler, Scale, scales_itself
from services.orchestrator.launch.launcher import LaunchError
from services.orchestrator.runs.placement import with_replicas
from tests.support.spec import spec

AUTOSCALE = {"replicas": 1, "autoscale": {"max": 4, "window_steps": 3}}


@dataclass
class Run:
    """Stands in for a run, its log and its controller."""

    spec: RunSpec
    steps: int = 1000
    most: int = 99
    """Generators that there is room for,"""
    placed: int = 99
    """and that the launcher takes."""
    rows: list[dict[str, float | None]] = field(default_factory=list)
    scaled: list[Scale] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    async def scale(self, scale: Scale) -> None:
        if scale.replicas["generator"] > self.placed:
            raise LaunchError("the GPUs are gone")
        self.scaled.append(scale)
        self.spec = with_replicas(self.spec, scale.replicas)

    def room(self, replicas: Mapping[str, int]) -> str:
        return "needs a GPU, 0 free of 2" if replicas["generator"] > self.most else ""

    async def emit(self, event: Event) -> None:
        self.events.append(event)

    def train(self, balance: float, steps: int) -> None:
        """So many steps that so many generators would keep up with."""
        responses = self.spec.training.prompts_per_step * self.spec.sampling.group_size
        count = self.spec.resources.generator.replicas
        for _ in range(steps):
            self.rows.append(
                {
                    "step": len(self.rows) + 1,
                    "step_s": 20.0,
                    "learner_idle": 0.5,
                    "generator_idle": 0.0,
                    "generated_tokens_per_s": responses * 100 / 10 / balance * count,
                    "generators": count,
                    "keep_rate": 1.0,
                    "response_length_mean": 100.0,
                }
            )

    def counts(self) -> list[int]:
        return [scale.replicas["generator"] for scale in self.scaled]

    def alerts(self) -> list[str]:
        return [event.message for event in self.events if isinstance(event, Alert)]


def play(run: Run, *acts: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each act, and then time enough to see it."""
    monkeypatch.setattr(scaling, "_LOOK_S", 0.001)

    async def main() -> None:
        following = asyncio.create_task(Autoscaler(run, run, run, run.emit).run())
        await asyncio.sleep(0)
        for act in acts:
            act()
            await asyncio.sleep(0.05)
        following.cancel()
        await asyncio.wait({following})

    asyncio.run(main())


def test_the_number_follows_the_steps_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(spec(resources__generator=AUTOSCALE))
    steps = [lambda: run.train(4, 1)] * 9 + [lambda: run.train(0.5, 1)] * 6
    play(run, *steps, monkeypatch=monkeypatch)
    assert run.counts() == [2, 4, 2, 1]
    assert {scale.by for scale in run.scaled} == {"autoscale"}
    assert "4.0 generators keep up with the learner" in run.scaled[0].reason


def test_a_run_that_does_not_scale_itself_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(spec())
    play(run, lambda: run.train(4, 20), monkeypatch=monkeypatch)
    assert run.counts() == []
    assert scales_itself(run.spec) == ""
    why = scales_itself(spec(resources__generator=AUTOSCALE))
    assert why.startswith("generators: ")
    assert "between 1 and 4" in why


def test_what_there_is_no_room_for_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(spec(resources__generator=AUTOSCALE), most=1)
    play(run, *[lambda: run.train(4, 1)] * 9, monkeypatch=monkeypatch)
    assert run.counts() == []
    (told,) = run.alerts()
    assert told.startswith("2 generators are wanted, and there is no room: needs a GPU, 0 free of 2 (with keep rate")


def test_it_grows_as_far_as_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(spec(resources__generator={**AUTOSCALE, "replicas": 2}), most=3)
    play(run, *[lambda: run.train(4, 1)] * 9, monkeypatch=monkeypatch)
    assert run.counts() == [3]
    assert run.scaled[0].reason.endswith("For 4, which are wanted, there is no room: needs a GPU, 0 free of 2")
    assert len(run.alerts()) == 1


def test_a_launcher_that_refuses_is_told_of_once_and_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(spec(resources__generator=AUTOSCALE), placed=1)

    def give() -> None:
        run.placed = 4
        run.train(4, 1)

    play(run, *[lambda: run.train(4, 1)] * 6, give, monkeypatch=monkeypatch)
    assert run.counts() == [2]
    assert len(run.alerts()) == 1
    assert "the GPUs are gone" in run.alerts()[0]


def test_no_generator_comes_for_the_last_steps_but_one_may_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    growing = Run(spec(resources__generator=AUTOSCALE), steps=8)
    play(growing, lambda: growing.train(4, 6), monkeypatch=monkeypatch)
    assert growing.counts() == []
    shrinking = Run(spec(resources__generator={**AUTOSCALE, "replicas": 4}), steps=8)
    play(shrinking, lambda: shrinking.train(0.5, 6), monkeypatch=monkeypatch)
    assert shrinking.counts() == [2]


def test_after_a_takeover_a_window_is_measured_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(spec(resources__generator=AUTOSCALE))
    run.train(4, 20)
    play(run, lambda: run.train(4, 2), monkeypatch=monkeypatch)
    assert run.counts() == []
    play(run, lambda: run.train(4, 3), monkeypatch=monkeypatch)
    assert run.counts() == [2]
