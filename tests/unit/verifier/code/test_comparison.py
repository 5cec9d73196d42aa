"""What `code` takes for equal: numbers have a tolerance where one is floating-point, all else has none."""

import math
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from services.verifier.code.comparison import close, same_text, same_value

TOLERANCE = 1e-6
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
NUMBERS = st.integers() | st.floats()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


class Liar(float):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = float.__hash__


@given(FLOATS, st.floats(min_value=-0.5, max_value=0.5))
def test_half_the_tolerance_is_within_it_and_twice_is_not(expected: float, part: float) -> None:
    slack = TOLERANCE * max(1.0, abs(expected))
    assume(math.isfinite(abs(expected) + 4 * slack))
    assert close(expected + part * slack, expected, TOLERANCE)
    assert not close(expected + 2 * slack, expected, TOLERANCE)
    assert not close(expected - 2 * slack, expected, TOLERANCE)


@given(st.integers(), st.integers())
def test_integers_are_equal_to_the_last_digit(found: int, expected: int) -> None:
    assert close(found, expected, TOLERANCE) == (found == expected)
    assert same_text(str(found), str(expected), TOLERANCE) == (found == expected)


@given(st.integers(min_value=-(10**15), max_value=10**15), st.integers(min_value=1, max_value=1000))
def test_an_integer_that_is_expected_is_not_met_by_a_float_beside_it(expected: int, off: int) -> None:
    assert close(float(expected), expected, TOLERANCE)
    assert not close(float(expected + off), expected, TOLERANCE)


@given(NUMBERS, NUMBERS)
def test_neither_nan_nor_infinity_is_near_anything_else(found: Any, expected: Any) -> None:
    for odd in (math.nan, math.inf, -math.inf):
        assert close(odd, expected, TOLERANCE) == (odd == expected)
        assert close(found, odd, TOLERANCE) == (found == odd)


@pytest.mark.parametrize(
    ("found", "expected"), [(10**400, 1.5), (1.5, 10**400), (-1.7e308, 1.7e308), (2**53, 2.0**53 + 2)]
)
def test_numbers_too_large_for_a_float_are_compared_as_they_are(found: Any, expected: Any) -> None:
    assert close(found, expected, TOLERANCE) == (found == 2**53)
    assert not close(2.0**53, 2**53 + 1, TOLERANCE)


@given(JSON, JSON)
def test_without_a_tolerance_values_are_equal_as_data_is(found: Any, expected: Any) -> None:
    assert same_value(expected, expected, TOLERANCE)
    if same_value(found, expected, 0.0):
        assert found == expected
        assert repr(shape(found)) == repr(shape(expected))


def shape(value: Any) -> Any:
    """Where booleans are."""
    if isinstance(value, list):
        return [shape(one) for one in value]
    if isinstance(value, dict):
        return {key: shape(value[key]) for key in sorted(value)}
    return isinstance(value, bool)


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        ([0.1 + 0.2, [1 / 3]], [0.3, [0.333333333]], True),
        ({"a": [2 / 3]}, {"a": [0.66666667]}, True),
        ({"a": [0.67]}, {"a": [0.66666667]}, False),
        ({"a": 0.5, "b": 0.5}, {"a": 0.5}, False),
        ([0.5], [0.5, 0.5], False),
        (3, 3.0, True),
        (2.9999999999, 3, True),
        (True, 1, False),
        (True, 1.0, False),
        (1.0, True, False),
        ({"a": True}, {"a": 1}, False),
        ([[False]], [[0.0]], False),
        ("0.3000000001", "0.3", False),
        ("0.3", 0.3, False),
        (None, 0.0, False),
        (0.3 + 1e-9j, 0.3, False),
        (Liar(5), 0.3, True),
    ],
)
def test_only_integers_and_floats_have_a_tolerance(found: Any, expected: Any, same: bool) -> None:
    """The last is a reminder: objects never come here with a type of their own, as `rpc.py` decodes to plain ones."""
    assert same_value(found, expected, TOLERANCE) == same


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ("0.333333\n", "0.333333333333\n"),
        ("2.5", "2.50"),
        ("3", "3.0"),
        ("1e-7", "0.0"),
        ("-0.0", "0"),
        ("1E+2 x", "100.0 x  \n\n"),
        ("[0.3333333333333333, 0.14285714285714285]", "[0.333333333, 0.142857143]"),
        ("(0.5000000001,0.25)", "(0.5,0.25)"),
        ("x = 0.30000000000000004.", "x = 0.3."),
        ("50.0%", "50%"),
        (".5", "0.5"),
        ("case 1: 0.50", "case 1: 0.5"),
        ("total:0.50,x=1.0", "total:0.5,x=1"),
        ("1.0->2.0", "1->2"),
        ("[1.0, -2.0]", "[1, -2]"),
        ("3.0: yes", "3: yes"),
        ("a 1\nb 2.0", "a 1\nb 2"),
        ("1" + "0" * 5000, "1" + "0" * 5000),
    ],
)
def test_numbers_in_texts_are_compared_as_numbers(found: str, expected: str) -> None:
    assert same_text(found, expected, TOLERANCE)
    assert same_text(found, expected, 0.0) == (found.split() == expected.split())


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ("0.3334", "0.333333333333"),
        ("1000001", "1000000"),
        ("7", "007"),
        ("1.10.0", "1.1.0"),
        ("v1.10", "v1.1"),
        ("12:30.0", "12:30"),
        ("12.0:30", "12:30"),
        ("12:-30.0", "12:-30"),
        ("2024-01.0", "2024-01"),
        ("1.0/2", "1/2"),
        ("3/4.0", "3/4"),
        ("2x-1.0", "2x-1"),
        ("1.0-beta", "1-beta"),
        ("5'6.0", "5'6"),
        ("2*3.0", "2*3"),
        ("5-3.0", "5-3"),
        ("0.5  0.5", "0.5 0.5"),
        ("0.5 0.5", "0.5\n0.5"),
        ("0.5", "0.5 0.5"),
        ("0.5\n0.5", "0.5"),
        ("nan", "0.5"),
        ("inf", "1e400"),
        ("1e401", "1e400"),
        ("1e999999999", "0.5"),
        ("0x10", "16.0"),
        ("1_0.0", "10.0"),
        ("٣.0", "3.0"),
        ("True", "1.0"),
        ("yes 0.5", "no 0.5"),
        ("", "0.0"),
        ("1e" + "9" * 5000, "1.0"),
        ("9" * 1_000_000, "1.0"),
        ("1." + "9" * 1_000_000 + "x", "2.0"),
    ],
)
def test_what_is_no_equal_number_is_another_text(found: str, expected: str) -> None:
    assert not same_text(found, expected, TOLERANCE)
    assert not same_text(expected, found, TOLERANCE)


def test_the_expected_number_says_how_far_off_one_may_be() -> None:
    assert same_text("1000000", "1000000.9", TOLERANCE)
    assert not same_text("1000000.9", "1000000", TOLERANCE)


@given(st.text(alphabet="0123456789.+-eE \nx_", max_size=30), st.text(alphabet="0123456789.+-eE \nx_", max_size=30))
def test_any_texts_are_compared_and_equal_ones_are_equal(found: str, expected: str) -> None:
    assert same_text(found, found, TOLERANCE)
    assert same_text(found, expected, 0.0) <= same_text(found, expected, TOLERANCE)
