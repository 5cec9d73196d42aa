"""`code` as the original judges of the data sets see programs: tolerance, imports, long integers, blocks, output."""

import json
from typing import Any

import pytest

from dapo.spec.tree.graders import CodeGrader
from services.verifier.graders import GradeFunction, build_grader
from tests.support.verifier.code import fenced, gold

LONG = 10**6000 + 7


@pytest.fixture(scope="module")
def grade() -> GradeFunction:
    return build_grader(CodeGrader(timeout_s=10))


def prints(expected: str) -> str:
    return gold(tests=[{"input": "", "output": expected}])


def returns(expected: Any, *arguments: Any) -> str:
    return gold(fn_name="f", tests=[{"input": list(arguments), "output": expected}])


def test_numbers_have_a_tolerance_that_an_option_takes_away(grade: GradeFunction) -> None:
    exact = build_grader(CodeGrader(timeout_s=10, tolerance=0))
    for program, expected in (
        ("print('%.7f' % (1 / 3), [2 / 3])", prints("0.33333333333 [0.66666667]")),
        ("def f(): return {'a': (0.1 + 0.2, [1 / 7])}", returns({"a": [0.3, [0.142857143]]})),
    ):
        assert grade(fenced(program), expected).correct
        assert not exact(fenced(program), expected).correct
    assert exact(fenced("print(0.5)"), prints("0.5")).correct


@pytest.mark.parametrize(
    "value",
    [
        "float('nan')",
        "float('inf')",
        "True",
        "'0.3'",
        "1e308",
        "-1e308",
        "10**400",
        "0.3 + 1e-5",
        "[0.3]",
        "None",
        "0.3 + 1e-9j",
    ],
)
def test_a_tolerance_is_no_way_to_win(grade: GradeFunction, value: str) -> None:
    liar = (
        "class Liar(float):\n    __eq__ = __le__ = __lt__ = lambda *a: True\n    def __sub__(self, other): return 0.0\n"
    )
    assert not grade(fenced(f"def f(): return {value}"), returns(0.3)).correct
    assert not grade(fenced(f"{liar}def f(): return Liar(7)"), returns(0.3)).correct
    assert not grade(fenced(f"print({value})"), prints("0.3")).correct or value == "'0.3'"
    assert not grade(fenced("def f(): return 1000001"), returns(1000000)).correct


def test_integers_may_have_any_length(grade: GradeFunction) -> None:
    with pytest.raises(ValueError, match="limit"):
        str(LONG)
    digits = "1" + "0" * 5999 + "7"
    assert grade(fenced("print(10**6000 + 7)"), prints(digits)).correct
    assert grade(
        fenced("print(int(input()) - 1)"), gold(tests=[{"input": digits, "output": digits[:-1] + "6"}])
    ).correct
    for tests in (
        f'{{"fn_name": "f", "inputs": [[{digits}]], "outputs": [{digits}]}}',
        json.dumps({"asserts": f"assert f({digits}) == {digits}"}),
    ):
        assert grade(fenced("def f(x): return x"), tests).correct
        wrong = grade(fenced("def f(x): return x + 1"), tests)
        assert (wrong.correct, wrong.failed) == (False, False)
    with pytest.raises(ValueError, match="limit"):
        str(LONG)


@pytest.mark.parametrize(
    "program",
    [
        "def f(x: List[int]) -> Optional[int]:\n    return deque(x)[0] + Counter(x)[9]",
        "def f(x):\n    heappush(x, inf)\n    return math.gcd(*x[:1]) + reduce(operator.add, [0]) + bisect_left([], 0)",
        "class Solution:\n    @cache\n    def g(self, n): return n\n    def f(self, x): return self.g(*x)",
        "setrecursionlimit(10**4)\ndef f(x):\n    return int(next(accumulate(x)) + sqrt(0)) + len(digits) - 10",
        "def f(x: Optional[ListNode]) -> int:\n    end = ListNode(x[0], ListNode())\n    return end.val + end.next.val",
        "class Solution:\n    def f(self, x: TreeNode) -> int:\n        return TreeNode(3, right=TreeNode()).val",
        "def f(x):\n    return collections.defaultdict(list).get(0, x[0]) + re.sub('a', '', 'a').count('a')",
    ],
)
def test_what_judges_import_is_there(grade: GradeFunction, program: str) -> None:
    verdict = grade(fenced(program), returns(3, [3]))
    assert verdict.correct, verdict


def test_the_names_of_a_program_are_its_own(grade: GradeFunction) -> None:
    program = "def gcd(a): return a + 1\ntime = e = 2\ndef f(x): return gcd(x) + time + e"
    assert grade(fenced(program), returns(8, 3)).correct
    assert grade(
        fenced("print(stdin.read(), file=stdout)\nprint(datetime.datetime)"), prints("\n<class 'datetime.datetime'>")
    ).correct
    # What it may use it does not define: the tests do not find it there.
    for name in ("gcd", "reduce"):
        verdict = grade(fenced("x = 1"), gold(fn_name=name, inputs=[[4, 2]], outputs=[2]))
        assert verdict.extracted == f"0 of 1 tests; test 1: NameError: the program defines no '{name}'"
        assert grade(fenced("x = 1"), gold(asserts=f"assert {name}(4, 2) == 2")).score == 0


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("import numpy_of_ours", "ModuleNotFoundError: No module named 'numpy_of_ours'"),
        ("x = undefined_name\ndef f(x): return x", "NameError: name 'undefined_name' is not defined"),
        ("def f(x): return undefined_name", "NameError: name 'undefined_name' is not defined"),
        ("def f(x):\n    return 1 +", "SyntaxError: invalid syntax"),
        ("def f(x): raise KeyError('k')", "KeyError: k"),
        ("class Odd(Exception): pass\ndef f(x): raise Odd('so')", "Odd: so"),
        ("def g(x): return x", "NameError: "),
        ("def f(x):\n    while True: print('x' * 1000)", "printed more than 64 KiB: raise output_kib"),
        ("def f(x):\n    import os\n    os._exit(3)", "the program ended"),
    ],
)  # fmt: skip
def test_an_exception_of_the_program_is_reported_as_it_is(grade: GradeFunction, program: str, told: str) -> None:
    for tests in (returns(3, 3), gold(asserts="assert f(3) == 3")):
        verdict = grade(fenced(program), tests)
        assert verdict.extracted.startswith(f"0 of 1 tests; test 1: {told}"), verdict
        assert verdict.reason == "below_threshold"


def test_tests_see_the_exceptions_of_a_program_as_it_made_them(grade: GradeFunction) -> None:
    asserts = "try:\n    f(3)\n    assert False\nexcept ValueError as error:\n    assert str(error) == 'too small: 3'"
    assert grade(fenced("def f(x): raise ValueError(f'too small: {x}')"), gold(asserts=asserts)).correct
    assert not grade(fenced("def f(x): raise ValueError(x)"), gold(asserts=asserts)).correct


def test_a_program_may_print_what_the_test_expects_however_much_it_is(grade: GradeFunction) -> None:
    lines = [f"{n / 7:.6f}" for n in range(60_000)]
    program = "for n in range(60_000): print(n / 7, end='   \\n')"
    assert grade(fenced(program), prints("\n".join(lines))).correct
    verdict = grade(fenced("while True: print('x' * 1000)"), prints("x" * 10_240))
    assert verdict.extracted == "0 of 1 tests; test 1: printed more than 104 KiB: raise output_kib"


def test_the_block_that_the_tests_need_is_run(grade: GradeFunction) -> None:
    solution = fenced("def f(x): return x")
    assert grade(solution + fenced("print(f(1))"), returns(3, 3)).correct
    assert grade(solution + fenced("print(f(1))") + fenced("1", ""), gold(asserts="assert f(3) == 3")).correct
    assert grade(fenced("print(3)") + fenced("It prints 3.", "") + fenced("3", "text"), prints("3")).correct
    assert grade(fenced("It prints 3.", ""), prints("3")).reason == "no_answer"


def test_rows_of_data_sets_are_graded(grade: GradeFunction) -> None:
    live = {"public_test_cases": json.dumps([{"input": "[1, 2]\n3", "output": "6", "testtype": "functional"}])}
    live["metadata"] = json.dumps({"func_name": "total"})
    program = fenced("class Solution:\n    def total(self, a: List[int], b: int) -> int:\n        return sum(a) + b")
    assert grade(program, json.dumps(live)).correct
    assert grade(fenced("def total(a, b): return [sum(a), b]"), json.dumps(live)).score == 0
    case = {"type": "function_call", "fn_name": "total", "input": [[1, 2], 3], "output": [6]}
    assert grade(program, gold(verification_info={"language": "python", "test_cases": [case]})).correct
    prime = gold(inputs=[""], outputs=[None], assert_case=["assert Solution().total([1, 2], 3) == 6"])
    assert grade(program, prime).correct
    del live["metadata"]
    assert grade(program, json.dumps(live)).reason == "bad_gold"
