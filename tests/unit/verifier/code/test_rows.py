"""Gold answers of `code` as rows of public data sets carry them; what cannot be read is refused by its field."""

import base64
import json
import pickle
import zlib
from typing import Any

import pytest

from services.verifier.code.gold import Asserts, BadGold, Calls, Scripts, read_gold

STDIN = [{"input": "1", "output": "2", "testtype": "stdin"}]
CALLED = [{"input": "[1]\n2", "output": "[3]", "testtype": "functional"}]
LIVE = Calls("f", (([[1], 2], [3]),))


def packed(value: object) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(value)))).decode()


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        # LiveCodeBench, whole rows and lists of their tests
        ({"public_test_cases": json.dumps(STDIN), "private_test_cases": packed(STDIN)}, Scripts((("1", "2"),) * 2)),
        ({"public_test_cases": json.dumps(CALLED), "metadata": '{"func_name": "f"}'}, LIVE),
        ({"public_test_cases": "[]", "private_test_cases": packed(CALLED), "metadata": '{"func_name": "f"}'}, LIVE),
        ({"tests": CALLED, "fn_name": "f"}, LIVE),
        ([{**CALLED[0], "metadata": {"func_name": "f"}}], LIVE),
        ({"tests": json.dumps([{**STDIN[0], "metadata": {"func_name": None}}])}, Scripts((("1", "2"),))),
        ({"tests": STDIN, "fn_name": "f"}, Scripts((("1", "2"),))),
        # SYNTHETIC-1 and what is made of it
        ({"test_cases": [{"type": "stdin_stdout", "input": "1", "output": "2"}]}, Scripts((("1", "2"),))),
        (
            {
                "verification_info": {
                    "language": "python",
                    "test_cases": [
                        {"type": "function_call", "fn_name": "f", "input": [1, 2], "output": [3]},
                        {"type": "function_call", "fn_name": "f", "input": [3, 4], "output": [7]},
                    ],
                }
            },
            Calls("f", (([1, 2], 3), ([3, 4], 7))),
        ),
        (
            {"test_cases": [{"type": "function_call", "fn_name": "f", "input": [1], "output": 3}]},
            Calls("f", (([1], 3),)),
        ),
        # APPS, TACO, PRIME, DeepCoder
        (
            {"input_output": '{"inputs": ["1"], "outputs": ["2"]}', "metadata": "of another kind"},
            Scripts((("1", "2"),)),
        ),
        ({"tests": '{"inputs": [[1]], "outputs": [[2]], "fn_name": "f"}'}, Calls("f", (([1], 2),))),
        (
            {"reward_model": {"style": "rule", "ground_truth": '{"inputs": ["1"], "outputs": ["2"]}'}},
            Scripts((("1", "2"),)),
        ),
        ({"inputs": [""], "outputs": [None], "assert_case": ["assert f(1)"]}, Asserts("assert f(1)")),
        ({"inputs": ["1"], "outputs": ["2"], "assert_case": [""], "fn_name": None}, Scripts((("1", "2"),))),
        ({"assert_case": "assert f(1)"}, Asserts("assert f(1)")),
        # AceCode, KodCode, MBPP, HumanEval
        ({"test_cases": ["assert f(1)", "assert f(2)"]}, Asserts("assert f(1)\nassert f(2)")),
        (["assert f(1)"], Asserts("assert f(1)")),
        (
            {"test": "from solution import f\ndef test_f():\n    assert f(1)"},
            Asserts("from solution import f\ndef test_f():\n    assert f(1)"),
        ),
        (
            {"test_list": ["assert f(1)"], "test_setup_code": "x = 1", "test_imports": ["import math"]},
            Asserts("import math\nx = 1\nassert f(1)"),
        ),
        (
            {"test": "def check(c):\n    pass", "entry_point": "Solution().f"},
            Asserts("def check(c):\n    pass\ncheck(Solution().f)"),
        ),
        # CodeContests
        (
            {"public_tests": {"input": ["1"], "output": ["2"]}, "private_tests": {"input": [], "output": []}},
            Scripts((("1", "2"),)),
        ),
    ],
)
def test_rows_are_read(row: Any, expected: object) -> None:
    assert read_gold(json.dumps(row)) == expected


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"tests": CALLED}, "no fn_name, and no metadata with func_name"),
        ([{**STDIN[0], "testtype": "interactive"}], "testtype 'interactive'"),
        ({"test_cases": [{"type": ["x"], "input": "", "output": ""}]}, "type \\['x'\\]"),
        ({"tests": [*STDIN, *CALLED], "fn_name": "f"}, "some of standard input and some of a function"),
        ({"test_cases": [{"fn_name": name, "input": [1], "output": 1} for name in "fg"]}, "of several functions"),
        ({"test_cases": ["assert f(1)", {"input": "1", "output": "2"}]}, "test_cases are a list"),
        ({"test_cases": "x = 1"}, "test_cases is neither JSON nor packed"),
        (
            {"private_test_cases": base64.b64encode(zlib.compress(b"cos\nsystem\n.")).decode()},
            "private_test_cases is neither",
        ),
        ({"input_output": '{"inputs": '}, "input_output is no JSON"),
        ({"verification_info": {"language": "cpp", "test_cases": STDIN}}, "language 'cpp'"),
        ({"assert_case": [1]}, "assert_case is Python source"),
        ({"assert_case": [""]}, "there are assert_case"),
        ({"question": "?", "answer": "!"}, "there are answer, question"),
        ({"tests": STDIN, "fn_name": "a b"}, "fn_name 'a b'"),
        ({"fn_name": "f", "inputs": ["x"], "outputs": ["1"]}, "input 'x' is no JSON"),
        ({"fn_name": "f", "inputs": ["1"], "outputs": ["x"]}, "output 'x' is no JSON"),
    ],
)
def test_what_is_no_test_is_refused_by_its_field(row: Any, told: str) -> None:
    with pytest.raises(BadGold, match=told):
        read_gold(json.dumps(row))
