from hypothesis import given
from hypothesis import strategies as st

from services.generator.engine.silence import Silence


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def listening(*rids: str) -> tuple[Silence, Clock]:
    clock = Clock()
    silence = Silence(clock)
    for rid in rids:
        silence.heard(rid)
    return silence, clock


def test_a_request_is_silent_from_its_beginning_or_its_last_token() -> None:
    silence, clock = listening("one", "two", "three")
    clock.now = 6.0
    silence.heard("two")
    silence.ended("three")
    clock.now = 10.0
    assert silence.longer_than(10.0) == ["one"]
    assert silence.longer_than(4.0) == ["one", "two"]
    clock.now = 16.0
    assert silence.longer_than(10.0) == ["one", "two"]


def test_an_engine_that_is_halted_or_has_a_queue_excuses_all() -> None:
    silence, clock = listening("one")
    clock.now = 9.0
    silence.halt()
    clock.now = 100.0
    assert silence.longer_than(10.0) == []
    silence.excuse()
    clock.now = 109.0
    assert silence.longer_than(10.0) == []
    clock.now = 110.0
    assert silence.longer_than(10.0) == ["one"]


@given(
    st.lists(st.tuples(st.sampled_from(["wait", "hear", "excuse"]), st.integers(0, 5)), max_size=40), st.integers(1, 10)
)
def test_what_was_heard_or_excused_within_the_bound_is_never_lost(steps: list[tuple[str, int]], limit: int) -> None:
    silence, clock = listening("one")
    spoken = 0.0
    for step, seconds in steps:
        clock.now += seconds
        if step == "hear":
            silence.heard("one")
        if step == "excuse":
            silence.excuse()
        if step != "wait":
            spoken = clock.now
        assert bool(silence.longer_than(limit)) == (clock.now - spoken >= limit)
