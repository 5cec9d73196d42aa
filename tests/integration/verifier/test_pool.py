"""The grading pool against graders that hang, crash, eat memory and talk."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from dapo.algo.text_statistics import measure_text
from dapo.spec.tree.graders import ExactGrader, MathDapoGrader, PythonGrader
from services.verifier.graders import Verdict
from services.verifier.grading.pool import _START_ATTEMPTS, GraderStartError, GradingPool
from services.verifier.request import GradingRequest

GRADERS = {
    "exact": ExactGrader(),
    "math_dapo": MathDapoGrader(),
    "number": PythonGrader(function="tests.support.verifier.graders:as_number"),
    "anything": PythonGrader(function="tests.support.verifier.graders:return_anything", threshold=0.5),
    "slow_start": PythonGrader(function="tests.support.verifier.slow_grader:grade"),
    "misbehaving": PythonGrader(function="tests.support.verifier.graders:misbehave", max_characters=1_000_000),
}
TIMEOUT_S = 1.0


def with_pool(
    use: Callable[[GradingPool], Awaitable[None]], *, processes: int = 2, timeout_s: float = TIMEOUT_S
) -> None:
    async def main() -> None:
        pool = GradingPool(GRADERS, timeout_s=timeout_s, processes=processes)
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
            if parent == os.getpid() and b"services.verifier.grading.child_main" in command:
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
        told = {"raise": "ValueError: raise", "memory": "MemoryError"}.get(text, "")
        assert verdicts[20] == Verdict(False, 0.0, reason, told)

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
        for _ in range(_START_ATTEMPTS - 1):
            for pid in grading_processes():
                os.kill(pid, signal.SIGKILL)
            assert all(verdict.correct for verdict in await pool.grade(ask(*["good"] * 100)))

    with_pool(use)


def test_what_needs_no_grading_gets_a_typed_verdict() -> None:
    async def use(pool: GradingPool) -> None:
        requests = [
            GradingRequest("exact", "x" * 100_001, "x"),
            GradingRequest("exact", "x", "x" * 100_001),
            GradingRequest("math_dapo", "\n" * 5_000_000 + "Answer: 3", "3"),
        ]
        verdicts = await pool.grade(requests)
        assert [verdict.reason for verdict in verdicts] == ["too_long", "bad_gold", "equal"]
        assert await pool.grade([]) == []

    with_pool(use, processes=1)


def test_a_grader_that_cannot_be_built_is_unavailable_and_costs_no_other_a_verdict(
    caplog: pytest.LogCaptureFixture,
) -> None:
    graders = {
        "absent": PythonGrader(function="no_such_module:grade"),
        "empty": PythonGrader(function="tests.support.verifier.graders:nothing"),
        "fatal": PythonGrader(function="tests.support.verifier.fatal_grader:grade"),
        **GRADERS,
    }

    async def main() -> None:
        pool = GradingPool(graders, timeout_s=TIMEOUT_S, processes=2)
        running = asyncio.create_task(pool.run())
        names = ["absent", "misbehaving", "empty", "fatal", "misbehaving"] * 20
        verdicts = await pool.grade([GradingRequest(name, "good", "good") for name in names])
        reasons = ["unavailable", "equal", "unavailable", "unavailable", "equal"] * 20
        assert [verdict.reason for verdict in verdicts] == reasons
        assert "'no_such_module:grade' cannot be imported" in verdicts[0].extracted
        assert "has no attribute 'nothing'" in verdicts[2].extracted
        assert "ends the process that makes it ready" in verdicts[3].extracted
        assert not running.done()
        running.cancel()
        await asyncio.wait([running])

    asyncio.run(main())
    assert caplog.text.count("is unavailable") == 3


@pytest.mark.parametrize(
    ("function", "told"),
    [("no_such_module:grade", "cannot be imported"), ("tests.support.verifier.fatal_grader:grade", "ends")],
)
def test_a_required_grader_that_cannot_be_built_ends_the_pool(function: str, told: str) -> None:
    async def main() -> None:
        graders = {"mine": PythonGrader(function=function)}
        pool = GradingPool(graders, timeout_s=TIMEOUT_S, required={"mine": "reward.graders.mine.function"}, processes=2)
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.timeout(60):
                await pool.run()
        assert caught.group_contains(GraderStartError, match=rf"reward\.graders\.mine\.function: .*{told}")

    asyncio.run(main())


def test_building_a_slow_grader_is_not_held_against_a_response() -> None:
    async def use(pool: GradingPool) -> None:
        assert (await pool.grade([GradingRequest("slow_start", "good", "good")]))[0].reason == "equal"

    with_pool(use, timeout_s=0.3)


@pytest.mark.parametrize(
    ("text", "reason"), [("0.4", "below_threshold"), ("1", "passed"), ("2", "bad_reply"), ("nan", "bad_reply")]
)
def test_a_function_of_the_users_gives_a_score(text: str, reason: str) -> None:
    async def use(pool: GradingPool) -> None:
        (verdict,) = await pool.grade([GradingRequest("number", text, "")])
        assert verdict.reason == reason
        assert verdict.failed == (reason == "bad_reply")

    with_pool(use)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("True", (True, 1.0, "passed", "", {})),
        ("Fraction(1, 4)", (False, 0.25, "below_threshold", "", {})),
        ("Verdict(True, 1, 'mine', 'x', {'a': Fraction(1, 2)})", (True, 1.0, "mine", "x", {"a": 0.5})),
    ],
)
def test_what_a_function_of_the_users_may_return(text: str, expected: tuple[object, ...]) -> None:
    async def use(pool: GradingPool) -> None:
        (verdict,) = await pool.grade([GradingRequest("anything", text, "")])
        assert verdict == Verdict(*expected)

    with_pool(use)


def test_anything_else_that_it_returns_is_a_bad_reply() -> None:
    told = {
        "'1'": "score '1', not a number in [0, 1]",
        "b'1'": "score b'1', not a number",
        "None": "score None, not a number",
        "[1.0]": "score [1.0], not a number",
        "1e400": "score inf, not a number",
        "10**400": "score 1000",
        "Verdict(True, 2.0, 'r')": "score 2.0, not a number",
        "Verdict(True, '1', 'r')": "score '1', not a number",
        "Verdict(True, float('nan'), 'r')": "score nan, not a number",
        "Verdict('no', 1.0, 'r')": "correct 'no', not a bool",
        "Verdict(1, 1.0, 'r')": "correct 1, not a bool",
        "Verdict(True, 1.0, None)": "reason None",
        "Verdict(True, 1.0, 'r', 3)": "extracted 3 is no text",
        "Verdict(True, 1.0, 'r', '', None)": "parts None",
        "Verdict(True, 1.0, 'r', '', {1: 1.0})": "parts {1: 1.0}",
        "Verdict(True, 1.0, 'r', '', {'a': 2.0})": "parts {'a': 2.0}",
    }

    async def use(pool: GradingPool) -> None:
        verdicts = await pool.grade([GradingRequest("anything", text, "") for text in told])
        for verdict, words in zip(verdicts, told.values(), strict=True):
            assert (verdict.correct, verdict.score, verdict.reason, dict(verdict.parts)) == (False, 0, "bad_reply", {})
            assert words in verdict.extracted

    with_pool(use)


def test_an_exception_is_told_in_the_verdict_of_the_crash() -> None:
    async def use(pool: GradingPool) -> None:
        requests = [GradingRequest("anything", text, "") for text in ("1 / 0", "{}['x']", "1 +")]
        verdicts = await pool.grade(requests)
        assert [verdict.reason for verdict in verdicts] == ["crash"] * 3
        assert [verdict.extracted for verdict in verdicts] == [
            "ZeroDivisionError: division by zero",
            "KeyError: 'x'",
            "SyntaxError: invalid syntax",
        ]

    with_pool(use)


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
        pool = GradingPool(GRADERS, timeout_s=TIMEOUT_S, processes=1, memory_mib=2**50)
        with pytest.raises(ExceptionGroup) as caught:
            await pool.run()
        assert caught.group_contains(GraderStartError, match=r"services\.verifier\.grading\.child_main` does not start")

    asyncio.run(main())
