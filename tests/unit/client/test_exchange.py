"""When a request is sent again, and what its path is."""

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dapo.client import ServiceError, changes, reads
from dapo.client.exchange import Outcome, Pause, Request, exchanges
from dapo.client.paths import run_path

BROKEN = httpx.ReadError("reset")


def play(asking, outcomes: list[Outcome], repeat: bool = True) -> tuple[list[Request | Pause], object]:
    """What is done in turn, and what that gives, or the error that it ends with."""
    steps, left = [], iter(outcomes)
    exchange, outcome = exchanges(asking, repeat=repeat), None
    try:
        while True:
            steps.append(exchange.send(outcome))
            outcome = None if isinstance(steps[-1], Pause) else next(left)
    except StopIteration as end:
        return steps, end.value
    except ServiceError as error:
        return steps, error


def ok(value: object) -> httpx.Response:
    return httpx.Response(200, json=value)


def pauses(steps: list[Request | Pause]) -> list[float]:
    return [step.seconds for step in steps if isinstance(step, Pause)]


def test_a_read_is_sent_three_times_at_most() -> None:
    steps, found = play(reads.get("r"), [BROKEN, httpx.Response(503), ok({"id": "r"})])
    assert (len(steps), found) == (5, {"id": "r"})
    steps, found = play(reads.get("r"), [BROKEN, BROKEN, BROKEN, ok({})])
    assert (len(steps), str(found)) == (5, "the run service does not answer: reset")
    assert sum(pauses(steps)) < 2


@pytest.mark.parametrize(
    "outcome", [httpx.ReadTimeout(""), httpx.ConnectTimeout(""), httpx.Response(500), httpx.Response(404)]
)
def test_what_would_not_be_better_is_not_sent_again(outcome: Outcome) -> None:
    steps, found = play(reads.get("r"), [outcome])
    assert len(steps) == 1
    assert isinstance(found, ServiceError)


def test_a_stop_waits_for_its_checkpoint_and_no_longer_than_the_service_does() -> None:
    spec = ok({"yaml": "checkpoint:\n  on_stop_s: 300.0\n"})
    steps, found = play(changes.stop("r"), [spec, httpx.ReadTimeout("")])
    assert [(step.method, step.silence_s) for step in steps] == [("GET", 60.0), ("POST", 420.0)]
    assert isinstance(found, ServiceError)
    assert "nothing has come for 420 s" in str(found)
    assert "checkpoint.on_stop_s = 300 s" in str(found)
    spec = ok({"yaml": "checkpoint:\n  on_stop_s: 60.0\n  mirror: s3://bucket\n  mirror_wait_s: 200.0\n"})
    steps, found = play(changes.stop("r"), [spec, httpx.ReadTimeout("")])
    assert [step.silence_s for step in steps] == [60.0, 380.0]
    assert "its copy (checkpoint.mirror_wait_s = 200 s)" in str(found)


@pytest.mark.parametrize("spec", ["", "[1]", "checkpoint: {}", "a: [", "checkpoint: {on_stop_s: soon}"])
def test_a_stop_needs_a_run_service(spec: str) -> None:
    steps, found = play(changes.stop("r"), [ok({"yaml": spec})])
    assert len(steps) == 1
    assert "is it one (dapo serve)" in str(found)


def test_a_connection_that_is_not_made_is_told_in_words() -> None:
    assert "no connection within 10 s" in str(play(reads.get("r"), [httpx.ConnectTimeout("")])[1])


def test_nothing_is_sent_again_where_that_is_not_wanted() -> None:
    assert len(play(reads.get("r"), [BROKEN], repeat=False)[0]) == 1


@pytest.mark.parametrize(("asked", "wait"), [("2", [2.0]), ("0", [0.2]), ("60", []), ("soon", [0.2])])
def test_the_service_says_when_to_come_back_unless_that_is_late(asked: str, wait: list[float]) -> None:
    busy = httpx.Response(429, headers={"Retry-After": asked})
    assert pauses(play(reads.get("r"), [busy, ok({})])[0]) == wait


def test_a_read_that_is_too_slow_says_for_how_long() -> None:
    assert "nothing has come for 60 s" in str(play(reads.get("r"), [httpx.ReadTimeout("")])[1])


def test_a_list_goes_on_to_its_last_page() -> None:
    pages = [ok({"runs": [1, 2], "next": "c"}), ok({"runs": [3], "next": None})]
    steps, found = play(reads.list_runs(labels=["team=a", "night"]), pages)
    assert found == [1, 2, 3]
    assert [step.query.get("cursor") for step in steps if isinstance(step, Request)] == [None, "c"]
    assert httpx.QueryParams(steps[0].query).get_list("label") == ["team=a", "night"]


@given(st.lists(st.text(min_size=1), min_size=1, max_size=3).filter(lambda parts: not {".", ".."} & set(parts)))
def test_whatever_a_part_of_a_path_is_it_stays_one(parts: list[str]) -> None:
    try:
        "".join(parts).encode()
    except UnicodeEncodeError:
        return  # No text: a lone surrogate.
    raw = httpx.Client(base_url="http://h").build_request("GET", run_path(*parts)).url.raw_path.decode()
    assert [httpx.QueryParams(f"a={one}".replace("+", "%2B"))["a"] for one in raw.split("/")[3:]] == parts
