"""`code`: a generated program is run against tests, see the package `services.verifier.code`."""

import json
import time
from collections.abc import Sequence
from functools import lru_cache

from dapo.spec.tree.graders import CodeGrader
from services.verifier.code.asserts import UnsupportedTests, count_tests
from services.verifier.code.gold import Asserts, BadGold, Calls, Scripts, read_gold
from services.verifier.code.sandbox import Sandbox, SandboxStartError, ScriptResult
from services.verifier.graders.verdict import Grader, GraderSetupError, Verdict, scored, wrong

_MIN_TIMEOUT_S = 0.1
_LANGUAGES = ("", "python", "python3", "py")


def extract_program(text: str) -> str:
    """The last fenced block of Python that is closed; the whole text where there is no fence at all."""
    program, language = "", ""
    block: list[str] | None = None
    for line in text.split("\n"):
        mark = line.strip()
        if not mark.startswith("```"):
            if block is not None:
                block.append(line)
        elif block is None:
            block, language = [], mark.strip("`").strip().lower()
        else:
            if language in _LANGUAGES:
                program = "\n".join(block)
            block = None
    return program if "```" in text else text


def make_code(options: CodeGrader) -> Grader:
    """Raises GraderSetupError if programs cannot be confined on this machine."""
    try:
        sandbox = Sandbox(options)
    except SandboxStartError as error:
        raise GraderSetupError(str(error)) from error

    def grade(text: str, gold: str) -> Verdict:
        program = extract_program(text)
        if not program.strip():
            return wrong("no_answer")
        deadline = time.monotonic() + options.timeout_s
        source = program.encode(errors="replace")
        try:
            task = read_gold(gold)
            if isinstance(task, Scripts):
                results = _run_scripts(sandbox, source, task, deadline)
            else:
                results = _run_tests(sandbox, source, task, deadline, tuple(options.modules))
        except BadGold as error:
            return wrong("bad_gold", str(error))
        return _verdict(results, options.threshold)

    def gold_problem(gold: str) -> str:
        try:
            task = read_gold(gold)
            if isinstance(task, Asserts):
                _count(task.source, tuple(options.modules))
        except BadGold as error:
            return str(error)
        return ""

    return Grader(grade, gold_problem)


def _verdict(results: Sequence[str], threshold: float) -> Verdict:
    """From an error message for each test; empty for one that passed."""
    passed = results.count("")
    first = next((f"; test {number}: {one}" for number, one in enumerate(results, 1) if one), "")
    return scored(passed / len(results), threshold, f"{passed} of {len(results)} tests{first}")


def _run_scripts(sandbox: Sandbox, source: bytes, task: Scripts, deadline: float) -> list[str]:
    results = []
    for given, expected in task.tests:
        left = deadline - time.monotonic()
        results.append(
            _judge(sandbox.run_script(source, given.encode(), left), expected) if left > 0 else "no time left"
        )
    return results


def _judge(outcome: ScriptResult, expected: str) -> str:
    if outcome.status is None:
        return "took too long"
    if outcome.status != 0:
        return outcome.error or f"ended with status {outcome.status}"
    same = _lines(outcome.output.decode(errors="replace")) == _lines(expected)
    return "" if same else "printed something else"


def _lines(text: str) -> list[str]:
    """White space at the ends of lines, and empty lines at the end, do not count."""
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _run_tests(
    sandbox: Sandbox, source: bytes, task: Calls | Asserts, deadline: float, modules: tuple[str, ...]
) -> list[str]:
    """Raises BadGold."""
    if isinstance(task, Calls):
        role, count = "calls", len(task.tests)
        tests = json.dumps({"function": task.function, "calls": task.tests})
    else:
        role, count, tests = "asserts", _count(task.source, modules), task.source
    told, error = sandbox.run_tests(source, tests.encode(), role, max(deadline - time.monotonic(), _MIN_TIMEOUT_S))
    for one in told:
        if isinstance(one, dict):
            raise BadGold(one["bad_gold"])
    missing = error or "not reached in time"
    return ["" if one is True else one for one in told] + [missing] * (count - len(told))


@lru_cache(16)  # the responses of a group come one after another
def _count(source: str, modules: tuple[str, ...]) -> int:
    try:
        count = count_tests(source, modules)
    except UnsupportedTests as error:
        raise BadGold(str(error)) from error
    if not count:
        raise BadGold("nothing among the asserts checks anything: write an assert, or a function test_…")
    return count
