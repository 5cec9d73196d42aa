"""`code` on honest programs: the forms of tests, and what a program may do."""

import json

import pytest

from dapo.spec.tree.graders import CodeGrader
from services.verifier.graders import GradeFunction, GraderSetupError, build_grader
from tests.support.verifier.code import RIGHT, fenced, gold

ADD = "def add(a, b):\n    return a + b"
STACK = """
class Stack:
    def __init__(self, items=()):
        self.items = list(items)
    def push(self, item):
        self.items.append(item)
    def pop(self):
        if not self.items:
            raise IndexError("empty")
        return self.items.pop()
    def __len__(self):
        return len(self.items)
    def __eq__(self, other):
        return self.items == other.items
    def __add__(self, other):
        return Stack(self.items + other.items)
    def __iter__(self):
        return iter(self.items)
"""


@pytest.fixture(scope="module")
def grade() -> GradeFunction:
    return build_grader(CodeGrader(timeout_s=10))


def test_a_right_program_passes_and_a_partly_right_one_gets_its_share(grade: GradeFunction) -> None:
    assert grade(fenced(RIGHT), gold()).correct
    half = grade(fenced("print(3)"), gold())
    assert (half.correct, half.score, half.reason) == (False, 0.5, "below_threshold")
    assert half.extracted == "1 of 2 tests; test 2: printed something else"


@pytest.mark.parametrize(
    "program",
    [
        "import sys\nprint(sum(int(x) for x in sys.stdin.read().split()))",
        "import os\nos.write(1, str(sum(map(int, os.read(0, 100).split()))).encode())",
        "print(sum(map(int, open(0).read().split())), end='  \\n\\n\\n')",
        "import sys\nsys.stdout.write(str(sum(map(int, sys.stdin.buffer.read().split()))))\nsys.exit()",
        "import atexit, sys\natexit.register(lambda: sys.stdout.write('3' if '1 2' in text else '42'))\ntext = input()",
        "import threading, sys\nthreading.stack_size(1 << 26)\nsys.setrecursionlimit(10**6)\n"
        "def main():\n    print(sum(map(int, input().split())))\n"
        "t = threading.Thread(target=main)\nt.start()\nt.join()",
        "if __name__ == '__main__':\n    print(sum(map(int, input().split())))",
        "from collections import *; import heapq, itertools, math, re, functools, bisect, string, random, time\n"
        "from typing import List\nfrom dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\n"
        "time.sleep(0.01)\nprint(P(sum(map(int, input().split()))).x)",
        "import sys, functools\nsys.setrecursionlimit(10**6)\n@functools.lru_cache(None)\n"
        "def f(n):\n    return n and 1 + f(n - 1)\nassert f(20000) == 20000\nprint(sum(map(int, input().split())))",
    ],
)
def test_what_programs_usually_do_works(grade: GradeFunction, program: str) -> None:
    verdict = grade(fenced(program), gold())
    assert verdict.correct, verdict


def test_the_last_python_block_counts(grade: GradeFunction) -> None:
    for text in (
        fenced("print(0)") + fenced(RIGHT),
        fenced(RIGHT) + fenced("ls", "bash") + "```python\nprint(0)",
        fenced(RIGHT, ""),
        fenced(RIGHT, "Python3"),
        RIGHT,
    ):
        assert grade(text, gold()).correct, text
    assert grade(fenced("ls", "bash"), gold()).reason == "no_answer"
    assert grade("  \n", gold()).reason == "no_answer"
    assert grade("I do not know.", gold()).score == 0


@pytest.mark.parametrize(
    "tests",
    [
        gold(fn_name="add", inputs=[[1, 2], [[1], [2]]], outputs=[3, [1, 2]]),
        gold(fn_name="add", inputs=["1\n2", '"a"\n"b"'], outputs=["3", '"ab"']),
        gold(fn_name="add", inputs=[[1, 2], [3, 4]], outputs=[[3], [7]]),
        gold(fn_name="add", tests=[{"input": [1, 2], "output": 3}]),
        gold(asserts="assert add(1, 2) == 3\nassert add([1], [2]) == [1, 2]\nassert abs(add(0.1, 0.2) - 0.3) < 1e-9"),
        gold(asserts=["import math", "assert math.isclose(add(0.1, 0.2), 0.3)", "assert add((1,), (2,)) == (1, 2)"]),
        gold(asserts="from solution import add\ndef test_one():\n    assert add(2**70, 1) == 2**70 + 1"),
        gold(asserts="import solution\nassert solution.add('a', 'b') == 'ab'\nassert add(b'a', b'b') == b'ab'"),
        gold(test="def check(candidate):\n    assert candidate(1, 2) == 3\n", entry_point="add"),
        gold(asserts="try:\n    add(1, 'a')\n    assert False\nexcept TypeError:\n    pass"),
        gold(asserts="for a in range(20):\n    assert add(a, 1) == a + 1"),
        gold(inputs=[], outputs=[], asserts="assert add(float('inf'), 1) == float('inf')"),
    ],
)
def test_functions_are_called(grade: GradeFunction, tests: str) -> None:
    assert grade(fenced(ADD), tests).correct, grade(fenced(ADD), tests)
    wrong = grade(fenced("def add(a, b):\n    return a - b if type(a) is type(b) is int else None"), tests)
    assert not wrong.correct, wrong
    assert not wrong.failed, wrong


def test_a_leetcode_solution_is_found(grade: GradeFunction) -> None:
    program = "class Solution:\n    def add(self, a, b):\n        return a + b"
    assert grade(fenced(program), gold(fn_name="add", inputs=[[1, 2]], outputs=[3])).correct
    assert grade(fenced(program), gold(asserts="assert Solution().add(1, 2) == 3")).correct


def test_objects_of_the_program_can_be_used(grade: GradeFunction) -> None:
    asserts = """
s = Stack()
s.push(4)
s.push("x")
assert len(s) == 2
assert s.pop() == "x"
assert s.items == [4]
assert [*s] == [4]
assert isinstance(s, Stack)
assert s == Stack([4])
assert s != Stack([5])
assert (s + s).items == [4, 4]
s.pop()
try:
    s.pop()
    raise SystemExit
except IndexError as error:
    assert "empty" in str(error)
assert not s
"""
    verdict = grade(fenced(STACK), gold(asserts=asserts))
    assert verdict.correct, verdict


def test_what_a_function_does_to_its_arguments_is_seen(grade: GradeFunction) -> None:
    asserts = "a, b = [3, 1], {}\nchange(a, b)\nassert a == [1, 3]\nassert b == {'k': {1, 2}}"
    program = "def change(a, b):\n    a.sort()\n    b['k'] = {1, 2}"
    assert grade(fenced(program), gold(asserts=asserts)).correct


def test_an_output_of_a_test_is_taken_as_it_is(grade: GradeFunction) -> None:
    tests = gold(tests=[{"input": [[3]], "output": [3]}], fn_name="f")
    assert grade(fenced("def f(x):\n    return x"), tests).correct
    assert not grade(fenced("def f(x):\n    return x[0]"), tests).correct
    texts = gold(fn_name="f", inputs=[["3"], ["x"]], outputs=["3", "x"])
    assert grade(fenced("def f(x):\n    return x"), texts).correct


def test_what_only_prepares_tests_earns_nothing_and_may_fail_them(grade: GradeFunction) -> None:
    asserts = "print('hello')\nimport random\nrandom.seed(0)\nassert f(1) == 1\n"
    assert grade(fenced("def f(x):\n    return 2"), gold(asserts=asserts)).score == 0
    honest = fenced("def f(x):\n    return x")
    assert grade(honest, gold(asserts=asserts)).extracted == "1 of 1 tests"
    last = grade(honest, gold(asserts=asserts + "check = f([2])[3]"))
    assert (last.correct, last.extracted) == (False, "1 of 2 tests; test 2: IndexError: list index out of range")


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "no JSON",
        "3",
        "{}",
        "[]",
        '{"tests": []}',
        '{"tests": [{"input": "1"}]}',
        '{"inputs": ["1"], "outputs": []}',
        '{"inputs": [1], "outputs": [2]}',
        '{"asserts": ""}',
        '{"asserts": "x = 1"}',
        '{"asserts": "assert ("}',
        '{"asserts": "print(add(1, 2))"}',
        '{"asserts": "assert np.allclose(add(1, 2), 3)"}',
        '{"asserts": "import unittest\\nclass A(unittest.TestCase):\\n    def test_a(self):\\n        assert 1"}',
        '{"asserts": "return"}',
        '{"asserts": "assert \'\\\\ud800\' or \\ud800"}',
        '{"tests": [{"input": "\\ud800", "output": "1"}]}',
        '{"asserts": "import no_such_module_here\\nassert True"}',
        '{"asserts": "assert add(lambda: 0, 1)"}',
        '{"fn_name": "a b", "inputs": ["1"], "outputs": ["2"]}',
        "[" * 100_000,
    ],
)
def test_a_gold_answer_that_cannot_be_read_is_a_failure_of_the_grading(grade: GradeFunction, bad: str) -> None:
    verdict = grade(fenced(ADD), bad)
    assert (verdict.reason, verdict.failed, verdict.score) == ("bad_gold", True, 0)


def test_grading_is_deterministic(grade: GradeFunction) -> None:
    program = "import random\nprint({'a', 'b', 'c', 'd'}, random.random(), hash('x'))"
    seen = gold(tests=[{"input": "", "output": "?"}])
    outputs = {
        grade(fenced(program + "\nraise Exception(f'{random.random()} {hash(\"x\")}')"), seen).extracted
        for _ in range(3)
    }
    other = build_grader(CodeGrader(timeout_s=10))
    outputs.add(other(fenced(program + "\nraise Exception(f'{random.random()} {hash(\"x\")}')"), seen).extracted)
    assert len(outputs) == 1


def test_further_modules_are_there_where_the_spec_names_them() -> None:
    pytest.importorskip("numpy")
    grade = build_grader(CodeGrader(timeout_s=20, modules=["numpy"]))
    tests = gold(fn_name="f", inputs=[[[1, 2]]], outputs=[[2, 4]])
    verdict = grade(fenced("import numpy as np\ndef f(x):\n    return np.array(x) * 2"), tests)
    assert verdict.correct, verdict
    with pytest.raises(GraderSetupError, match="no_such_module"):
        build_grader(CodeGrader(modules=["no_such_module"]))


def test_large_tests_go_through(grade: GradeFunction) -> None:
    numbers = list(range(300_000))
    tests = gold(fn_name="f", inputs=[[numbers]], outputs=[sum(numbers)])
    assert grade(fenced("f = sum"), tests).correct
    lines = json.dumps({"tests": [{"input": " ".join(map(str, numbers)), "output": str(sum(numbers))}]})
    assert grade(fenced(RIGHT), lines).correct
