"""What `code` is made of: data on the line between a program and its tests, the filter's instructions, gold answers."""

import json
import struct
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.verifier.code.asserts import UnsupportedTests, count_tests
from services.verifier.code.gold import Asserts, BadGold, Calls, Scripts, read_gold
from services.verifier.code.rpc import ModuleName, NotSerializable, Reference, decode_value, encode_value
from services.verifier.code.seccomp import build_filter
from services.verifier.graders.reading.code_blocks import choose_program, python_blocks

KEYS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
HASHABLE = st.recursive(
    KEYS
    | st.fractions()
    | st.decimals(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.builds(range, st.integers(), st.integers()),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=8,
)
DATA = st.recursive(
    HASHABLE | st.binary().map(bytearray),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(HASHABLE, inner, max_size=4) | st.sets(HASHABLE, max_size=4)
    ),
    max_leaves=16,
)


def refuse(value: Any) -> Any:
    raise NotSerializable(type(value).__name__)


def shape(value: Any) -> Any:
    """The value with its types, so that True is not 1."""
    if isinstance(value, dict):
        return sorted(((repr(shape(key)), shape(one)) for key, one in value.items()), key=repr)
    if isinstance(value, (set, frozenset)):
        return type(value).__name__, sorted(repr(shape(one)) for one in value)
    if isinstance(value, (list, tuple)):
        return type(value).__name__, [shape(one) for one in value]
    return type(value).__name__, repr(value)


@given(DATA)
def test_data_arrives_as_it_was(value: Any) -> None:
    arrived = decode_value(json.loads(json.dumps(encode_value(value, refuse))), refuse)
    assert shape(arrived) == shape(value)


def test_subclasses_arrive_as_their_base() -> None:
    class Evil(int):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = int.__hash__

    arrived = decode_value(
        encode_value([Evil(3), type("S", (str,), {})("x"), type("L", (list,), {})([1])], refuse), refuse
    )
    assert shape(arrived) == shape([3, "x", [1]])


def test_objects_become_references() -> None:
    seen: list[Any] = []

    def refer(value: Any) -> Reference | ModuleName:
        seen.append(value)
        return ModuleName("m") if value is json else Reference(len(seen))

    arrived = decode_value(encode_value({"a": [object, json]}, refer), lambda reference: reference)
    assert arrived == {"a": [Reference(1), ModuleName("m")]}
    with pytest.raises(NotSerializable):
        encode_value(lambda: 0, refuse)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.text(max_size=9)
        | st.sampled_from(["int", "list", "dict", "ref"]),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_nonsense_becomes_data_or_raises(data: Any) -> None:
    try:
        found = decode_value(data, lambda reference: None)
    except (ValueError, TypeError, KeyError, ArithmeticError):
        return
    numbers = {bool, range, int, float, complex, Fraction, Decimal}
    assert type(found) in {type(None), str, bytes, bytearray, list, tuple, set, frozenset, dict, *numbers}


LOAD, EQUAL, GREATER_EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x50001, 0x50026, 0x80000000
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def run_filter(machine: str, number: int, *arguments: int, architecture: int | None = None) -> int:
    """What the kernel would answer."""
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("=IIQ6Q", number, architecture or ARCHITECTURES[machine], 0, *padded)
    instructions = list(struct.iter_unpack("=HBBI", build_filter(machine)))
    at = value = 0
    while True:
        code, if_true, if_false, operand = instructions[at]
        at += 1
        match code:
            case 0x20:
                (value,) = struct.unpack_from("=I", data, operand)
            case 0x06:
                return operand
            case _:
                holds = {EQUAL: value == operand, GREATER_EQUAL: value >= operand, ANY_BIT: bool(value & operand)}[code]
                at += if_true if holds else if_false


NAMED = {
    # read write close futex exit_group getrandom; openat socket clone execve kill ptrace prctl io_uring_setup;
    # mmap mprotect; newfstatat
    "x86_64": ((0, 1, 3, 202, 231, 318), (257, 41, 56, 59, 62, 101, 157, 425, 2, 57), (9, 10), 262),
    "aarch64": ((63, 64, 57, 98, 94, 278), (56, 198, 220, 221, 129, 117, 167, 425), (222, 226), 79),
}


@pytest.mark.parametrize("machine", NAMED)
def test_the_filter_allows_little(machine: str) -> None:
    allowed, refused, executable, stat = NAMED[machine]
    assert {run_filter(machine, number) for number in allowed} == {ALLOW}
    assert {run_filter(machine, number) for number in refused} == {EPERM}
    assert run_filter(machine, 435) == ENOSYS
    for number in executable:
        assert run_filter(machine, number, 0, 4096, 3) == ALLOW
        assert run_filter(machine, number, 0, 4096, 7) == EPERM
    assert run_filter(machine, stat, 0, 0, 0, 0x1000) == ALLOW
    assert run_filter(machine, stat, 0, 0, 0, 0) == EPERM
    assert sum(run_filter(machine, number) == ALLOW for number in range(1024)) <= 40


@pytest.mark.parametrize("machine", NAMED)
def test_another_architecture_ends_the_process(machine: str) -> None:
    other = next(number for name, number in ARCHITECTURES.items() if name != machine)
    for architecture in (other, 0x40000003):  # i386
        assert run_filter(machine, 0, architecture=architecture) == KILL
    assert run_filter(machine, 0x40000000) == KILL


@pytest.mark.parametrize(
    ("gold", "expected"),
    [
        ({"tests": [{"input": "1", "output": "2"}]}, Scripts((("1", "2"),))),
        ([{"input": "1", "output": "2", "testtype": "stdin"}], Scripts((("1", "2"),))),
        ({"inputs": [["1", "2"]], "outputs": [["3"]]}, Scripts((("1\n2\n", "3\n"),))),
        ({"fn_name": "f", "inputs": [[1, "x"]], "outputs": [None]}, Calls("f", (([1, "x"], None),))),
        ({"fn_name": "f", "inputs": ["1\n[2]\n"], "outputs": ["[3]"]}, Calls("f", (([1, [2]], [3]),))),
        ({"fn_name": "f", "inputs": [[1], [2]], "outputs": [[3], [4]]}, Calls("f", (([1], 3), ([2], 4)))),
        ({"fn_name": "f", "inputs": [[1], [2]], "outputs": [[3], [4, 5]]}, Calls("f", (([1], [3]), ([2], [4, 5])))),
        ({"fn_name": "f", "tests": [{"input": [[3]], "output": [3]}]}, Calls("f", (([[3]], [3]),))),
        ({"fn_name": "f", "tests": [{"input": ["a"], "output": "3"}]}, Calls("f", ((["a"], "3"),))),
        ({"fn_name": "f", "tests": [{"input": "3\n4", "output": "[5]"}]}, Calls("f", (([3, 4], [5]),))),
        ({"fn_name": "f", "inputs": [["a"], ["b"]], "outputs": ["3", "x"]}, Calls("f", ((["a"], "3"), (["b"], "x")))),
        ({"fn_name": "f", "inputs": ["1", "2"], "outputs": ["[3]", "[4]"]}, Calls("f", (([1], [3]), ([2], [4])))),
        ({"asserts": ["a", "b"]}, Asserts("a\nb")),
        ({"test": "def check(c): pass", "entry_point": "f"}, Asserts("def check(c): pass\ncheck(f)")),
    ],
)
def test_gold_answers_come_in_several_forms(gold: Any, expected: object) -> None:
    assert read_gold(json.dumps(gold)) == expected


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("assert f(1)\nprint('x')\nimport random\nrandom.seed(0)\nx = f(2)\nassert x", 2),
        ("def check(c):\n    assert c(1)\ncheck(f)\nfor c in (f,):\n    check(c)", 2),
        (
            "def same(a, b):\n  if a != b:\n    raise AssertionError\ndef check(c):\n  same(c(1), 1)\ncheck(f)",
            1,
        ),
        ("def check(c):\n    return c(1) == 1\ncheck(f)", 0),
        ("def test_f():\n    f(1)\ndef helper():\n    assert f(1)", 1),
        ("class Case:\n    def run(self):\n        assert f(1)\nCase().run()", 1),
        ("try:\n    f(1)\nexcept ValueError:\n    pass\nelse:\n    raise AssertionError('none raised')", 1),
        ("import numpy as np\nnp.testing.assert_equal(f(1), 2)\nfrom numpy.testing import *\nassert_equal(1, 1)", 1),
        ("from numpy.testing import assert_equal\nassert_equal(f(1), 2)", 1),
        ("assert_equal(f(1), 2)\nf.assert_all()\nfrom solution import assert_x\nassert_x()", 0),
        ("if __name__ == '__main__':\n    assert f(1)", 0),
        ("print('hello')", 0),
    ],
)
def test_only_what_checks_something_counts_as_a_test(source: str, count: int) -> None:
    assert count_tests(source) == count


@pytest.mark.parametrize(
    "source",
    [
        "import unittest\nclass A(unittest.TestCase):\n    def test_a(self):\n        self.assertEqual(f(1), 2)",
        "from unittest import *\nclass A(TestCase):\n    def test_a(self):\n        assert f(1)",
        "import unittest\nassert f(1)\nunittest.main(exit=False)",
    ],
)
def test_test_cases_of_unittest_are_refused_in_words(source: str) -> None:
    with pytest.raises(UnsupportedTests, match="unittest are not run here"):
        count_tests(source)


def test_modules_that_tests_use_come_from_their_own_import() -> None:
    for name in ("np", "pandas", "torch"):
        with pytest.raises(UnsupportedTests, match=f"use {name} without importing it"):
            count_tests(f"assert {name}.x(f(1))\nfrom solution import {name}\nimport solution as {name}")
    with pytest.raises(UnsupportedTests, match="use polars without"):
        count_tests("assert polars.x(f(1))", ["polars.testing"])
    assert count_tests("assert polars.x(f(1))") == 1
    for bound in ("import numpy as np", "np = Maker()", "from numpy import linalg as np", "def g(np): pass"):
        assert count_tests(f"{bound}\nassert np.x(f(1))", ["numpy"]) == 1


FIELDS = ["tests", "inputs", "outputs", "asserts", "fn_name", "entry_point", "test", "input", "output"]
FIELDS += ["test_cases", "assert_case", "metadata", "func_name", "testtype", "type", "input_output", "language"]
JSON = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(FIELDS), inner),
)


@given(st.text() | JSON.map(json.dumps))
def test_any_gold_answer_is_read_or_refused_in_words(text: str) -> None:
    with suppress(BadGold):
        assert isinstance(read_gold(text), (Scripts, Calls, Asserts))


@given(st.text(alphabet="`python \nx"), st.sampled_from(["", "python", "py"]))
def test_the_last_closed_block_is_found_after_any_text_without_fences(text: str, language: str) -> None:
    before = text.replace("```", "")
    program = "x = 1\nprint(x)"
    blocks = python_blocks(f"{before}\n```{language}\n{program}\n```\n{before}")
    assert choose_program(blocks, ()) == program
