"""How much one caller may ask for."""

from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.orchestrator.security.limits import RateLimit, StreamLimit, TooManyRequests


@given(st.integers(1, 600), st.lists(st.floats(0, 30), max_size=80))
def test_in_no_minute_are_more_taken_than_the_rate_and_one_burst(per_minute: int, pauses: list[float]) -> None:
    limit, now, taken = RateLimit(per_minute), 0.0, []
    for pause in pauses:
        now += pause
        try:
            limit.take("ada", now)
            taken.append(now)
        except TooManyRequests:
            pass
    for start in taken:
        within = sum(start <= one < start + 60 for one in taken)
        assert within <= per_minute + max(1, per_minute / 6) + 1e-6


def test_whoever_waits_as_told_is_taken_and_others_are_not_touched() -> None:
    limit = RateLimit(60)
    for _ in range(10):
        limit.check("ada", 0.0)
        limit.take("ada", 0.0)
    with pytest.raises(TooManyRequests, match="more than 60 requests a minute") as refused:
        limit.check("ada", 0.0)
    with pytest.raises(TooManyRequests, match="more than 60 requests a minute"):
        limit.take("ada", 0.0)
    limit.take("bob", 0.0)
    limit.take("ada", refused.value.retry_after_s)


def test_streams_count_while_they_are_open() -> None:
    limit = StreamLimit(2, 3)
    with ExitStack() as stack:
        for caller in ("ada", "ada", "bob"):
            stack.enter_context(limit.one(caller))
        for caller in ("ada", "eve"):
            with pytest.raises(TooManyRequests), limit.one(caller):
                pass
    with limit.one("eve"):
        pass
