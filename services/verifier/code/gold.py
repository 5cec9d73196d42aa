"""Gold answers of `code`: the forms in which data sets carry tests."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple


class BadGold(ValueError):
    """The gold answer is not in a form that `code` reads. The message says why."""


class Scripts(NamedTuple):
    """The program reads its standard input and prints."""

    tests: tuple[tuple[str, str], ...]
    """(input, expected output)."""


class Calls(NamedTuple):
    """A function is called with JSON values."""

    function: str
    tests: tuple[tuple[list[Any], Any], ...]
    """(arguments, expected result)."""


class Asserts(NamedTuple):
    """Python that calls the program's functions."""

    source: str


def read_gold(text: str) -> Scripts | Calls | Asserts:
    """The tests of a gold answer, in any of these forms:

    {"tests": [{"input": …, "output": …}, …]}, or the list alone; {"inputs": […], "outputs": […]} (APPS, TACO, verl);
    either with "fn_name" for calls, whose arguments are lists, or strings with one JSON value in each line: then a
    string is one JSON value as output, too;
    {"asserts": "…"} with Python source, or a list of statements (MBPP);
    {"test": "def check(candidate): …", "entry_point": name} (HumanEval). Raises BadGold.
    """
    try:
        gold = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadGold(f"no JSON: {error}") from error
    if isinstance(gold, list):
        gold = {"tests": gold}
    if not isinstance(gold, dict):
        raise BadGold(f"a {type(gold).__name__}, not an object with tests, inputs and outputs, or asserts")
    if "asserts" in gold:
        return _asserts(gold["asserts"])
    if "entry_point" in gold:
        return _asserts([gold.get("test"), f"check({gold['entry_point']})"])
    inputs, outputs = _pairs(gold)
    function = gold.get("fn_name")
    if function is None:
        return Scripts(tuple(zip(map(_as_text, inputs), map(_as_text, outputs), strict=True)))
    if not isinstance(function, str) or not function.isidentifier():
        raise BadGold(f"fn_name {function!r} is no name")
    return Calls(
        function,
        tuple(zip(map(_arguments, inputs), _results(inputs, outputs, unwrap="tests" not in gold), strict=True)),
    )


def _asserts(found: Any) -> Asserts:
    parts = [found] if isinstance(found, str) else found
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise BadGold("asserts are Python source, or a list of it")
    source = "\n".join(parts)
    if not source.strip():
        raise BadGold("no asserts")
    return Asserts(_checked(source))


def _pairs(gold: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    inputs, outputs = gold.get("inputs"), gold.get("outputs")
    if "tests" in gold:
        tests = gold["tests"]
        if not isinstance(tests, list) or not all(
            isinstance(one, dict) and {"input", "output"} <= one.keys() for one in tests
        ):
            raise BadGold('tests are a list of {"input": …, "output": …}')
        inputs, outputs = [one["input"] for one in tests], [one["output"] for one in tests]
    if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs):
        raise BadGold("neither tests, nor as many outputs as inputs, nor asserts")
    if not inputs:
        raise BadGold("no tests")
    return inputs, outputs


def _as_text(value: Any) -> str:
    """Lines may come as a list."""
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value) + "\n"
    if not isinstance(value, str):
        raise BadGold(f"input and output of a test are text, not {type(value).__name__}; calls need fn_name")
    return _checked(value)


def _checked(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadGold(f"a test is no text: {error}") from error
    return text


def _arguments(value: Any) -> list[Any]:
    if isinstance(value, str):
        return [_json_value(line) for line in value.splitlines() if line.strip()]
    return value if isinstance(value, list) else [value]


def _results(inputs: Sequence[Any], outputs: Sequence[Any], *, unwrap: bool) -> list[Any]:
    """Expected results. A string whose input is a string is JSON; `unwrap` takes each out of its list of one (TACO)."""
    if unwrap and all(isinstance(one, list) and len(one) == 1 for one in outputs):
        return [one[0] for one in outputs]
    return [
        _json_value(output) if isinstance(given, str) and isinstance(output, str) else output
        for given, output in zip(inputs, outputs, strict=True)
    ]


def _json_value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadGold(f"{text[:40]!r} is no JSON: {error}") from error
