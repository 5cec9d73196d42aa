"""The grading pool against graders that hang, crash, eat memory and talk."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from dapo.algo.text_statistics import measure_text
from services.verifier.graders import Verdict
from services.verifier.pool import START_ATTEMPTS, GraderStartError, GradingPool, GradingRequest

MODULES = ["tests.integration.verifier_graders"]
TIMEOUT_S = 1.0


def with_pool(
    use: Callable[[GradingPool], Awaitable[None]], *, processes: int = 2, timeout_s: float = TIMEOUT_S
) -> None:
    async def main() -> None:
        pool = GradingPool(timeout_s=timeout_s, processes=processes, modules=MODULES)
        running = asyncio.create_task(pool.run())
        using = asyncio.create_task(use(pool))
        await asyncio.wait([running, using], return_when=asyncio.FIRST_COMPLETED)
        assert not running.done(), running.exception()
        running.cancel()
        await asyncio.wait([running])
        await using
        assert grading_processes() == []

    asyncio.run(main())


def grading_processes() -> list[int]:
    """Grading processes that this one started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if parent == os.getpid() and b"services.verifier.sandbox" in command:
                found.append(int(entry.name))
    return found


def ask(*texts: str, gold: str = "good") -> list[GradingRequest]:
    return [GradingRequest("misbehaving", text, gold) for text in texts]


@pytest.mark.parametrize(
    ("text", "reason"),
    [("hang", "timeout"), ("hang in C", "timeout"), ("exit", "crash"), ("raise", "crash"), ("memory", "crash")],
)
@pytest.mark.parametrize("processes", [1, 2])
def test_a_bad_grading_costs_one_verdict(text: str, reason: str, processes: int) -> None:
    async def use(pool: GradingPool) -> None:
        verdicts = await pool.grade(ask(*["good"] * 20, text, *["bad"] * 60, *["good"] * 20))
        assert [verdict.reason for verdict in verdicts] == [
            *["equal"] * 20,
            reason,
            *["different"] * 60,
            *["equal"] * 20,
        ]
        assert verdicts[20] == Verdict(False, 0.0, reason)

    with_pool(use, processes=processes)


def test_several_bad_gradings_cost_one_verdict_each() -> None:
    async def use(pool: GradingPool) -> None:
        texts = ["exit", "good", "hang", "good", "raise", "good", "hang"]
        verdicts = await pool.grade(ask(*texts))
        assert [verdict.reason for verdict in verdicts] == [
            "crash", "equal", "timeout", "equal", "crash", "equal", "timeout",
        ]  # fmt: skip

    with_pool(use)


def test_a_hanging_grading_does_not_hold_up_others() -> None:
    async def use(pool: GradingPool) -> None:
        order: list[str] = []

        async def grade(text: str) -> None:
            (verdict,) = await pool.grade(ask(text))
            order.append(verdict.reason)

        await grade("good")
        hanging = asyncio.create_task(grade("hang"))
        await asyncio.sleep(0.1)  # the hanging one goes out in a message of its own
        for _ in range(5):
            await grade("good")
        await hanging
        assert order == ["equal"] * 6 + ["timeout"]

    with_pool(use, timeout_s=5.0)


def test_a_grader_cannot_forge_verdicts_by_talking() -> None:
    async def use(pool: GradingPool) -> None:
        verdicts = await pool.grade(ask("talk", "bad", "good"))
        assert [verdict.reason for verdict in verdicts] == ["different", "different", "equal"]
        assert verdicts[0].extracted == ""

    with_pool(use)


def test_a_process_killed_from_outside_costs_no_verdict() -> None:
    async def use(pool: GradingPool) -> None:
        assert (await pool.grade(ask("good")))[0].correct
        # A process may still be starting when it is killed; as many failed starts in a row as allowed end the pool.
        for _ in range(START_ATTEMPTS - 1):
            for pid in grading_processes():
                os.kill(pid, signal.SIGKILL)
            assert all(verdict.correct for verdict in await pool.grade(ask(*["good"] * 100)))

    with_pool(use)


def test_what_needs_no_grading_gets_a_typed_verdict() -> None:
    async def use(pool: GradingPool) -> None:
        requests = [
            GradingRequest("no such grader", "good", "good"),
            GradingRequest("exact", "x" * 100_001, "x"),
            GradingRequest("exact", "x", "x" * 100_001),
            GradingRequest("math_dapo", "\n" * 5_000_000 + "Answer: 3", "3"),
        ]
        verdicts = await pool.grade(requests)
        assert [verdict.reason for verdict in verdicts] == ["unknown_grader", "too_long", "too_long", "equal"]
        assert verdicts[0].extracted == "no such grader"
        assert await pool.grade([]) == []

    with_pool(use, processes=1)


def test_texts_are_measured_beside_the_grading() -> None:
    async def use(pool: GradingPool) -> None:
        texts = ["wait", "a b c d " * 100, "", "\ud800 ½"]
        verdicts, measured = await asyncio.gather(pool.grade(ask(*texts)), pool.measure(texts, ["WAIT"]))
        assert [verdict.correct for verdict in verdicts] == [False] * 4
        assert measured == [measure_text(text, ["WAIT"]) for text in texts]
        assert await pool.measure([], []) == []

    with_pool(use)


def test_a_pattern_that_takes_forever_costs_the_measure_of_its_text_alone(caplog: pytest.LogCaptureFixture) -> None:
    patterns = [r"(a+)+$"]

    async def use(pool: GradingPool) -> None:
        texts = ["good", "a" * 60 + "b", "bad"]
        measured, verdicts = await asyncio.gather(pool.measure(texts, patterns), pool.grade(ask(*texts)))
        assert [verdict.reason for verdict in verdicts] == ["equal", "different", "different"]
        assert measured == [measure_text("good", patterns), None, measure_text("bad", patterns)]

    with_pool(use, processes=1)
    assert "not measured (timeout): look at metrics.reflection_patterns" in caplog.text


def test_a_process_that_cannot_start_is_an_error_that_names_its_command() -> None:
    async def main() -> None:
        pool = GradingPool(timeout_s=TIMEOUT_S, processes=1, memory_mib=2**50)
        with pytest.raises(ExceptionGroup) as caught:
            await pool.run()
        assert caught.group_contains(GraderStartError, match=f"sandbox {2**50}")

    asyncio.run(main())
