"""`remote` against real HTTP servers that answer well, badly, late or not at all."""

import asyncio
import time
from functools import partial
from typing import Any

import pytest

from dapo.spec.tree.graders import RemoteGrader, WeightedGrader
from services.verifier.grading.dispatch import Grading
from services.verifier.grading.pool import GraderStartError
from services.verifier.remote import client
from services.verifier.remote.circuit_breaker import CircuitBreaker
from services.verifier.request import GradingRequest
from tests.support.verifier.http_service import Answer, Service, serving
from tests.support.verifier.remote import FAST, grade, use


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_FIRST_PAUSE_S", 0.02)


def remote(service: Service, **options: Any) -> RemoteGrader:
    return RemoteGrader(url=service.url, **{**FAST, **options})


def score_by_length(number: int, body: Any) -> Answer:
    return Answer({"scores": [len(item["response"]) / 10 for item in body["items"]]})


def test_batches_are_scored_in_order() -> None:
    with serving(score_by_length) as service:
        verdicts = grade(remote(service, batch_size=4, threshold=0.5), *["x" * (n % 11) for n in range(1, 11)])
        assert [verdict.score for verdict in verdicts] == [n / 10 for n in range(1, 11)]
        assert [verdict.correct for verdict in verdicts] == [n >= 5 for n in range(1, 11)]
        assert sorted(len(call["items"]) for call in service.calls) == [2, 4, 4]
        assert service.calls[0]["items"][0].keys() == {"prompt", "response", "gold"}
        assert (service.calls[0]["items"][0]["prompt"], service.calls[0]["items"][0]["gold"]) == ("Why?", "42")


def test_results_may_bring_their_own_verdict_and_reason() -> None:
    results = [
        {"score": 0.9, "correct": False, "reason": "looks right, is not"},
        {"score": 0.1, "correct": True},
        {"score": 0.5},
    ]
    with serving(lambda number, body: Answer({"results": results})) as service:
        verdicts = grade(remote(service), "a", "b", "c")
    assert [(one.correct, one.score, one.reason, one.extracted) for one in verdicts] == [
        (False, 0.9, "below_threshold", "looks right, is not"),
        (True, 0.1, "passed", ""),
        (True, 0.5, "passed", ""),
    ]


def test_a_service_is_not_sent_what_was_thought() -> None:
    with serving(score_by_length) as service:
        verdicts = grade(remote(service), "<think>a</think>b", "<think>a")
        assert [item["response"] for call in service.calls for item in call["items"]] == ["b"]
    assert [(one.reason, one.unclosed_thinking) for one in verdicts] == [
        ("below_threshold", False),
        ("no_answer", True),
    ]


def test_nobody_is_asked_about_an_empty_or_too_long_response() -> None:
    with serving(score_by_length) as service:
        verdicts = grade(remote(service, max_characters=9), " \n", "x" * 10, "xxxxxx")
        assert [one.reason for one in verdicts] == ["no_answer", "too_long", "passed"]
        assert len(service.calls) == 1
        assert len(service.calls[0]["items"]) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[" * 100_000,
        [],
        None,
        {},
        {"scores": 1},
        {"scores": []},
        {"scores": [1, 1]},
        {"scores": ["1"]},
        {"scores": [True]},
        {"scores": [None]},
        {"scores": [-0.1]},
        {"scores": [1.01]},
        b'{"scores": [NaN]}',
        b'{"scores": [Infinity]}',
        {"results": [1]},
        {"results": [{}]},
        {"results": [{"score": 1, "correct": "yes"}]},
        {"results": [{"score": 1, "reason": 3}]},
    ],
)
def test_a_malformed_reply_is_a_failure(body: Any) -> None:
    with serving(lambda number, _: Answer(body)) as service:
        (verdict,) = grade(remote(service), "x")
        assert (verdict.correct, verdict.score, verdict.reason) == (False, 0, "bad_reply")
        assert verdict.failed
        assert len(service.calls) == 1


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(status: int) -> None:
    def answer(number: int, body: Any) -> Answer:
        return score_by_length(number, body) if number == 3 else Answer("busy", status)

    with serving(answer) as service:
        (verdict,) = grade(remote(service), "x" * 8)
        assert (verdict.score, len(service.calls)) == (0.8, 3)


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 422, 204])
def test_what_will_not_pass_is_not_tried_again(status: int) -> None:
    with serving(lambda number, body: Answer("no such model", status)) as service:
        (verdict,) = grade(remote(service), "x")
        assert (verdict.reason, verdict.failed, len(service.calls)) == ("unavailable", True, 1)
        assert f"status {status}" in verdict.extracted


def test_after_the_last_try_it_is_unavailable() -> None:
    with serving(lambda number, body: Answer("down", 503)) as service:
        (verdict,) = grade(remote(service, retries=1), "x")
        assert (verdict.reason, len(service.calls)) == ("unavailable", 2)
    (verdict,) = grade(remote(service, retries=1), "x")  # nobody listens there any more
    assert verdict.reason == "unavailable"
    assert "ConnectError" in verdict.extracted


def test_a_slow_answer_is_given_up_at_the_deadline() -> None:
    with serving(lambda number, body: Answer({"scores": [1]}, delay_s=20)) as service:
        began = time.monotonic()
        (verdict,) = grade(remote(service, timeout_s=0.3, retries=1), "x")
        assert time.monotonic() - began < 10
        assert (verdict.reason, len(service.calls)) == ("unavailable", 2)
        assert "no answer within 0.3 s" in verdict.extracted


@pytest.mark.parametrize("wait", ["1", "date"])
def test_retry_after_is_obeyed(wait: str) -> None:
    def answer(number: int, body: Any) -> Answer:
        stamp = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 2))
        retry = {"Retry-After": stamp if wait == "date" else wait}
        return score_by_length(number, body) if number == 2 else Answer("busy", 429, retry)

    with serving(answer) as service:
        (verdict,) = grade(remote(service), "x")
        assert verdict.score == 0.1
        assert service.times[1] - service.times[0] > 0.9


def test_a_service_that_fails_again_and_again_is_left_alone_then_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "CircuitBreaker", partial(CircuitBreaker, failures=3, open_s=1.0))
    healthy = False

    def answer(number: int, body: Any) -> Answer:
        return score_by_length(number, body) if healthy else Answer("down", 500)

    with serving(answer) as service:
        request = [GradingRequest("mine", "x" * 10, "")]

        async def action(grading: Grading) -> None:
            nonlocal healthy
            for _ in range(20):
                assert (await grading.grade(request))[0].reason == "unavailable"
            assert len(service.calls) == 3
            await asyncio.sleep(1.1)
            assert (await grading.grade(request))[0].reason == "unavailable"
            assert len(service.calls) == 4, "one on trial"
            healthy = True
            await asyncio.sleep(1.1)
            verdicts = await asyncio.gather(*(grading.grade(request) for _ in range(5)))
            assert sum(found[0].correct for found in verdicts) >= 1
            assert (await grading.grade(request))[0].correct

        use({"mine": remote(service, retries=0)}, action)


def test_no_more_requests_are_in_flight_than_allowed() -> None:
    with serving(lambda number, body: Answer({"scores": [1.0]}, delay_s=0.05)) as service:
        verdicts = grade(remote(service, batch_size=1, concurrency=3), *["x"] * 20)
        assert all(verdict.correct for verdict in verdicts)
        assert service.busiest == 3


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(score_by_length) as service:
        with pytest.raises(GraderStartError, match=r"mine.*api_key_env 'MY_KEY' is not set.*Set it"):
            grade(remote(service, api_key_env="MY_KEY"), "x")
        monkeypatch.setenv("MY_KEY", "s3cret")
        grade(remote(service, api_key_env="MY_KEY"), "x")
        assert service.headers["authorization"] == "Bearer s3cret"


def test_local_graders_do_not_wait_for_a_service() -> None:
    with serving(lambda number, body: Answer({"scores": [1.0]}, delay_s=1.5)) as service:

        async def action(grading: Grading) -> None:
            await grading.grade([GradingRequest("exact", "x", "x")])  # the process has started
            slow = asyncio.create_task(grading.grade([GradingRequest("mine", "x", "x")]))
            await asyncio.sleep(0.05)
            began = time.monotonic()
            for _ in range(20):
                assert (await grading.grade([GradingRequest("exact", "x", "x")]))[0].correct
            assert time.monotonic() - began < 1.0
            assert not slow.done()
            assert (await slow)[0].correct

        use({"mine": remote(service, timeout_s=20)}, action)


def test_a_weighted_sum_fails_with_its_part() -> None:
    with serving(lambda number, body: Answer("down", 500)) as service:
        graders = {
            "mine": remote(service, retries=0),
            "both": WeightedGrader(parts={"mine": 1, "exact": 3}, threshold=0.5),
        }

        async def action(grading: Grading) -> None:
            assert not grading.is_local("both")
            (verdict,) = await grading.grade([GradingRequest("both", "x", "x")])
            assert (verdict.correct, verdict.reason, dict(verdict.parts)) == (
                False,
                "unavailable",
                {"mine": 0, "exact": 1},
            )

        use(graders, action)
