"""`code`: a generated program is run against tests, see the package `services.verifier.code`."""

import json
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

from dapo.spec.tree.graders import CodeGrader
from services.verifier.code.asserts import UnsupportedTests, count_tests, wanted_names
from services.verifier.code.comparison import same_text
from services.verifier.code.gold import Asserts, BadGold, Calls, Scripts, read_gold
from services.verifier.code.sandbox import Sandbox, SandboxStartError, ScriptResult
from services.verifier.code.testing import PROGRAM_ENDED
from services.verifier.graders.reading.code_blocks import choose_program, python_blocks
from services.verifier.graders.verdict import Grader, GraderSetupError, Verdict, scored, wrong

_MIN_TIMEOUT_S = 0.1


def make_code(options: CodeGrader) -> Grader:
    """Raises GraderSetupError if programs cannot be confined on this machine."""
    try:
        sandbox = Sandbox(options)
    except SandboxStartError as error:
        raise GraderSetupError(str(error)) from error

    def grade(text: str, gold: str) -> Verdict:
        blocks = python_blocks(text)
        if not blocks:
            return wrong("no_answer")
        deadline = time.monotonic() + options.timeout_s
        try:
            with _integers_of_any_length():
                task = read_gold(gold)
                source = choose_program(blocks, _wanted(task)).encode(errors="replace")
                if isinstance(task, Scripts):
                    results = _run_scripts(sandbox, source, task, deadline, options.tolerance)
                else:
                    results = _run_tests(sandbox, source, task, deadline, options)
        except BadGold as error:
            return wrong("bad_gold", str(error))
        return _verdict(results, options.threshold)

    def gold_problem(gold: str) -> str:
        try:
            with _integers_of_any_length():
                task = read_gold(gold)
                if isinstance(task, Asserts):
                    _count(task.source, tuple(options.modules))
        except BadGold as error:
            return str(error)
        return ""

    return Grader(grade, gold_problem)


@contextmanager
def _integers_of_any_length() -> Iterator[None]:
    """Golds and outputs may hold integers beyond Python's limit of 4,300 digits, which is for texts from strangers."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(limit)


def _wanted(task: Scripts | Calls | Asserts) -> Collection[str]:
    """Names that the tests need of the program."""
    if isinstance(task, Scripts):
        return ()
    return (task.function,) if isinstance(task, Calls) else _names(task.source)


def _verdict(results: Sequence[str], threshold: float) -> Verdict:
    """From an error message for each test; empty for one that passed."""
    passed = results.count("")
    first = next((f"; test {number}: {one}" for number, one in enumerate(results, 1) if one), "")
    return scored(passed / len(results), threshold, f"{passed} of {len(results)} tests{first}")


def _run_scripts(sandbox: Sandbox, source: bytes, task: Scripts, deadline: float, tolerance: float) -> list[str]:
    results = []
    for given, expected in task.tests:
        left = deadline - time.monotonic()
        if left > 0:
            outcome = sandbox.run_script(source, given.encode(), left, len(expected.encode()))
            results.append(_judge(outcome, expected, tolerance))
        else:
            results.append("no time left")
    return results


def _judge(outcome: ScriptResult, expected: str, tolerance: float) -> str:
    if outcome.status is None:
        return "took too long"
    if outcome.status != 0:
        return outcome.error or f"ended with status {outcome.status}"
    same = same_text(outcome.output.decode(errors="replace"), expected, tolerance)
    return "" if same else "printed something else"


def _run_tests(
    sandbox: Sandbox, source: bytes, task: Calls | Asserts, deadline: float, options: CodeGrader
) -> list[str]:
    """Raises BadGold."""
    if isinstance(task, Calls):
        role, count = "calls", len(task.tests)
        tests = json.dumps({"function": task.function, "calls": task.tests, "tolerance": options.tolerance})
    else:
        role, count, tests = "asserts", _count(task.source, tuple(options.modules)), task.source
    told, ended = sandbox.run_tests(source, tests.encode(), role, max(deadline - time.monotonic(), _MIN_TIMEOUT_S))
    for one in told:
        if isinstance(one, dict):
            raise BadGold(one["bad_gold"])
    results = ["" if one is True else (ended or one) if one == PROGRAM_ENDED else one for one in told]
    return results + [ended or "not reached in time"] * (count - len(told))


@lru_cache(16)  # the responses of a group come one after another
def _names(source: str) -> frozenset[str]:
    return frozenset(wanted_names(source))


@lru_cache(16)
def _count(source: str, modules: tuple[str, ...]) -> int:
    try:
        count = count_tests(source, modules)
    except UnsupportedTests as error:
        raise BadGold(str(error)) from error
    if not count:
        raise BadGold("nothing among the asserts checks anything: write an assert, or a function test_…")
    return count
