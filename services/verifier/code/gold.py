"""Gold answers of `code`: the forms in which data sets carry tests."""

import base64
import json
import pickletools
import zlib
from collections.abc import Iterator, Mapping, Sequence
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


class _Case(NamedTuple):
    """One test of a list, as it is written."""

    given: Any
    expected: Any
    calls: bool | None
    """Whether it calls a function; None where it does not say."""
    function: str | None
    unwrap: bool
    """The result may stand in a list of one (APPS, TACO)."""


_WRAPPERS = ("verification_info", "input_output", "reward_model", "ground_truth")
"""Columns that hold the tests, as an object or as text: SYNTHETIC-1, APPS and TACO, verl."""
_ASSERTS = ("asserts", "assert_case", "test_list", "test", "test_code")
_PREPARATION = ("import_prefix", "test_imports", "test_setup_code")
_CASES = (
    *("tests", "test_cases", "public_test_cases", "private_test_cases"),
    *("official_tests", "public_tests", "private_tests", "generated_tests"),
)
_FUNCTION = ("fn_name", "func_name", "metadata")
_PACKED = {*_WRAPPERS, *_CASES, "inputs", "outputs"}
_KINDS = {"stdin": False, "stdin_stdout": False, "functional": True, "function_call": True}
_UNPACKED_BYTES = 256 << 20


def read_gold(text: str) -> Scripts | Calls | Asserts:
    """The tests of a gold answer, in any of these forms, or a row with one of them in a field of `_WRAPPERS`:

    {"tests": [{"input": …, "output": …}, …]} or another of `_CASES`, or the list alone; {"inputs": […], "outputs": […]}
    (APPS, TACO, verl); either with "fn_name" for calls, whose arguments are lists, or strings with one JSON value in
    each line: then a string is one JSON value as output, too. A test may say its kind in "testtype" or "type" and the
    function in "fn_name" or "metadata" (LiveCodeBench, SYNTHETIC-1);
    {"asserts": "…"} or another of `_ASSERTS` with Python source, or a list of statements (MBPP, PRIME, AceCode);
    {"test": "def check(candidate): …", "entry_point": name} (HumanEval). Raises BadGold.
    """
    return _read(_json(text, "the gold answer"))


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadGold(f"{what} is no JSON: {error}") from error


def _read(gold: Any) -> Scripts | Calls | Asserts:
    if isinstance(gold, list):
        gold = {"tests": gold}
    if not isinstance(gold, dict):
        raise BadGold(f"a {type(gold).__name__}, not an object with tests, inputs and outputs, or asserts")
    row = {name: _decoded(name, value) for name, value in gold.items() if value is not None}
    for name in _WRAPPERS:
        if name in row:
            inner = row[name] if isinstance(row[name], dict) else {"tests": row[name]}
            return _read({**{outer: row[outer] for outer in _FUNCTION if outer in row}, **inner})
    if str(row.get("language", "python")).lower() not in ("python", "python3"):
        raise BadGold(f"language {row['language']!r}: only programs in Python are run")
    if statements := _statements(row):
        return _asserts(row, statements)
    if isinstance(nested := row.get("tests"), dict):
        return _read({"fn_name": _function(row), **nested})
    return _task([case for name in _CASES for case in _cases(row, name)] or list(_pairs(row)), _function(row))


def _decoded(name: str, value: Any) -> Any:
    """A field of a row, out of the JSON text where it is packed in one."""
    if not isinstance(value, str) or name not in _PACKED:
        return value
    return _json(value if value.lstrip().startswith(("{", "[")) else _unpacked(value, name), name)


def _unpacked(text: str, name: str) -> str:
    """LiveCodeBench packs its private tests: base64 of zlib of a pickled string. It is read, never unpickled."""
    try:
        unpacking = zlib.decompressobj()
        pickled = unpacking.decompress(base64.b64decode(text, validate=True), _UNPACKED_BYTES)
        if unpacking.unconsumed_tail:
            raise BadGold(f"{name}: more than {_UNPACKED_BYTES >> 20} MiB")
        (found,) = [value for code, value, _ in pickletools.genops(pickled) if "UNICODE" in code.name]
    except (ValueError, zlib.error) as error:
        if isinstance(error, BadGold):
            raise
        raise BadGold(f"{name} is neither JSON nor packed as LiveCodeBench does") from error
    return str(found)


def _statements(row: Mapping[str, Any]) -> list[str]:
    """Python source of the tests; empty where they are of another kind, or the field for it is blank (PRIME)."""
    for name in (*_ASSERTS, *_CASES):
        found = row.get(name, [])
        if name in _ASSERTS:
            found = [found] if isinstance(found, str) else found
            if not _texts(found):
                raise BadGold(f"{name} is Python source, or a list of it")
        if _texts(found) and any(map(str.strip, found)):
            return list(found)
    return []


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _asserts(row: Mapping[str, Any], statements: Sequence[str]) -> Asserts:
    parts: list[str] = []
    for name in _PREPARATION:
        value = row.get(name, [])
        parts += [value] if isinstance(value, str) else value if _texts(value) else []
    parts += statements
    if "entry_point" in row and "def check(" in parts[-1] and "\ncheck(" not in parts[-1]:
        parts.append(f"check({row['entry_point']})")
    return Asserts(_checked("\n".join(filter(str.strip, parts))))


def _cases(row: Mapping[str, Any], name: str) -> Iterator[_Case]:
    """Those of a list of tests, or of a table with their columns (CodeContests)."""
    found = row.get(name, [])
    if isinstance(found, dict):
        yield from _pairs({"inputs": found.get("input"), "outputs": found.get("output")})
    elif isinstance(found, list) and all(isinstance(one, dict) and {"input", "output"} <= one.keys() for one in found):
        for one in found:
            yield _Case(one["input"], one["output"], _calls(one), _function(one), one.get("type") == "function_call")
    else:
        raise BadGold(f'{name} are a list of {{"input": …, "output": …}}, or of Python source')


def _calls(case: Mapping[str, Any]) -> bool | None:
    field = "testtype" if "testtype" in case else "type"
    kind = case.get(field)
    if kind is None:
        return None
    if not isinstance(kind, str) or kind not in _KINDS:
        raise BadGold(f"{field} {kind!r}: only {', '.join(_KINDS)} are read")
    return _KINDS[kind]


def _pairs(row: Mapping[str, Any]) -> Iterator[_Case]:
    inputs, outputs = row.get("inputs"), row.get("outputs")
    if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs):
        fields = ", ".join(sorted(row))[:100] or "no fields"
        raise BadGold(f"neither tests, nor as many outputs as inputs, nor asserts: there are {fields}")
    for given, expected in zip(inputs, outputs, strict=True):
        yield _Case(given, expected, None, None, True)


def _function(row: Mapping[str, Any]) -> str | None:
    """The function that a row, or one test, says is called."""
    metadata = row.get("metadata")
    if isinstance(metadata, str) and metadata.lstrip().startswith("{"):
        metadata = _json(metadata, "metadata")
    of_metadata = metadata.get("func_name") if isinstance(metadata, dict) else None
    name = row.get("fn_name") or row.get("func_name") or of_metadata
    if not name:
        return None
    if not isinstance(name, str) or not name.isidentifier():
        raise BadGold(f"fn_name {name!r} is no name")
    return name


def _task(cases: Sequence[_Case], function: str | None) -> Scripts | Calls:
    if not cases:
        raise BadGold("no tests")
    functions = {case.function for case in cases if case.function} or {function} - {None}
    kinds = {bool(functions) if case.calls is None else case.calls for case in cases}
    if len(functions) > 1 or len(kinds) > 1:
        raise BadGold("the tests are of several functions, or some of standard input and some of a function")
    if kinds == {False}:
        return Scripts(tuple((_as_text(case.given), _as_text(case.expected)) for case in cases))
    if not functions:
        raise BadGold("tests of a function, but no fn_name, and no metadata with func_name, says which")
    (name,) = functions
    arguments = [_arguments(case.given) for case in cases]
    return Calls(str(name), tuple(zip(arguments, _results(cases), strict=True)))


def _as_text(value: Any) -> str:
    """Lines may come as a list."""
    if _texts(value):
        return _checked("\n".join(value) + "\n")
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
        return [_json(line, f"input {line[:40]!r}") for line in value.splitlines() if line.strip()]
    return value if isinstance(value, list) else [value]


def _results(cases: Sequence[_Case]) -> list[Any]:
    """Expected results. A string whose input is a string is JSON."""
    if all(case.unwrap and isinstance(case.expected, list) and len(case.expected) == 1 for case in cases):
        return [case.expected[0] for case in cases]
    return [
        _json(case.expected, f"output {case.expected[:40]!r}")
        if isinstance(case.given, str) and isinstance(case.expected, str)
        else case.expected
        for case in cases
    ]
