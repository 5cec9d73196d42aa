"""Runs tests that call a program's functions, in a process of their own.

Invariant: a verdict depends on the program only through data that it sent without knowing what is expected. Values of
plain types arrive as data; other objects stay in the program's process and are proxies here. A proxy equals only
another proxy that the program calls equal, and arithmetic between proxies gives proxies. So a program decides about its
own objects, never about data (`abs(f(2) - 4) < 1e-6` cannot be won by an object with an odd subtraction).

What counts as a test is in `asserts.py`.
"""

import ast
import builtins
import json
import reprlib
import sys
import types
from collections.abc import Callable
from typing import Any

from services.verifier.code.asserts import SOLUTION, UnsupportedTests, identifiers, imported, own_modules, read
from services.verifier.code.comparison import same_value
from services.verifier.code.prelude import PYTHONS_OWN
from services.verifier.code.rpc import ModuleName, NotSerializable, Reference, RpcConnection, decode_value, encode_value

PROGRAM_ENDED = "the program ended"
"""Told of a test that the program did not live to be asked about; the grading process knows how it ended."""
_MESSAGE_CHARACTERS = 200
"""An error message is cut to this."""
_SHOWN_BITS = 4096
"""Of a larger integer only the size is shown, as its digits take long to find."""


class _ObjectProxy:
    """A proxy for an object in the program's process."""

    __slots__ = ("_number", "_program")

    def __init__(self, program: "ProgramProxy", number: int) -> None:
        object.__setattr__(self, "_program", program)
        object.__setattr__(self, "_number", number)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._program.do("call", self, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._program.do("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._program.do("setattr", self, name, value)

    def __instancecheck__(self, value: Any) -> Any:
        return isinstance(value, _ObjectProxy) and self._program.do("isinstance", value, self)


def _forwarding(operation: str) -> Callable[..., Any]:
    def forward(self: _ObjectProxy, *args: Any) -> Any:
        return self._program.do(operation, self, *args)

    return forward


def _comparing(operation: str) -> Callable[..., Any]:
    """The program is asked only about a comparison of two of its own objects."""

    def compare(self: _ObjectProxy, other: Any) -> Any:
        return self._program.do(operation, self, other) if isinstance(other, _ObjectProxy) else NotImplemented

    return compare


def _computing(operation: str) -> Callable[..., Any]:
    """The program is asked only where both operands are its own objects; a result that is data is not taken."""

    def compute(self: _ObjectProxy, other: Any) -> Any:
        found = self._program.do(operation, self, other) if isinstance(other, _ObjectProxy) else None
        return found if isinstance(found, _ObjectProxy) else NotImplemented

    return compute


for _operation in ("iter", "next", "len", "str", "repr", "bool", "hash", "getitem", "setitem", "delitem"):
    setattr(_ObjectProxy, f"__{_operation}__", _forwarding(_operation))
for _operation in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(_ObjectProxy, f"__{_operation}__", _comparing(_operation))
for _operation in ("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow", "and_", "or_", "xor"):
    setattr(_ObjectProxy, f"__{_operation.rstrip('_')}__", _computing(_operation))


class ProgramProxy:
    """The program, as the tests call it."""

    def __init__(self, line: RpcConnection) -> None:
        self._line = line
        self.started = False
        """Its definitions were executed, and it said what they are."""

    def read(self, wanted: set[str]) -> dict[str, Any]:
        """The `wanted` names that the program defines at its top level; none if it failed before it was asked."""
        try:
            module = _ObjectProxy(self, 0)
            defined = self._line.receive()["names"]
            self.started = True
            return {name: self.do("getattr", module, name) for name in defined if name in wanted}
        except Exception:  # noqa: BLE001 - what is no list of names is as good as none
            return {}

    def do(self, operation: str, *args: Any, **kwargs: Any) -> Any:
        """Raises what the program raised, as its nearest built-in exception class; _ProgramEnded if it is gone."""
        request = {
            "do": operation,
            "args": [encode_value(one, _refer) for one in args],
            "kwargs": {name: encode_value(one, _refer) for name, one in kwargs.items()},
        }
        try:
            self._line.send(request)
            reply = self._line.receive()
        except (EOFError, BrokenPipeError) as error:
            raise _ProgramEnded from error
        if "error" in reply:
            raise _exception(reply["error"], str(reply["message"]), str(reply["type"]))
        for mine, changed in zip(args, reply["changed"], strict=True):
            if changed is not None:
                _overwrite(mine, self._decode(changed))
        return self._decode(reply["value"])

    def _decode(self, data: Any) -> Any:
        return decode_value(data, self._resolve)

    def _resolve(self, reference: Reference | ModuleName) -> Any:
        if isinstance(reference, Reference):
            return _ObjectProxy(self, reference.number)
        module = sys.modules.get(reference.name)
        if module is None or reference.name.partition(".")[0] == "services":
            raise ValueError(f"no module {reference.name!r}")
        return module


def _refer(value: Any) -> Reference:
    if isinstance(value, _ObjectProxy):
        return Reference(value._number)
    if isinstance(value, types.ModuleType):  # it may be the program's choice, so it must not count as the tests' fault
        raise TypeError("a module cannot be passed to a program")
    raise NotSerializable(f"a {type(value).__name__} cannot be passed to a program")


def _exception(name: str, message: str, kind_of_program: str) -> Exception:
    kind = getattr(builtins, name, None)
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        kind = Exception
    try:
        error = kind(message)
    except TypeError:  # UnicodeDecodeError and the like want more
        error = ValueError(message)
    error.__cause__ = _RaisedByProgram(f"{kind_of_program}: {message}")
    return error


class _RaisedByProgram(Exception):
    """The cause of an exception that the program raised, in the program's words."""


class _ProgramEnded(EOFError):
    """The program is gone."""


def _overwrite(mine: Any, changed: Any) -> None:
    if type(mine) is type(changed) and mine != changed:
        if isinstance(mine, (list, bytearray)):
            mine[:] = changed
        elif isinstance(mine, (dict, set)):
            mine.clear()
            mine.update(changed)


def _namespace(tree: ast.Module, program: dict[str, Any]) -> dict[str, Any]:
    solution = types.ModuleType(SOLUTION)
    solution.__dict__.update(program)
    solution.__dict__["__all__"] = []  # an `import *` may replace nothing: the names are there already
    sys.modules[SOLUTION] = solution
    taken = imported(tree)
    found = {name: value for name, value in program.items() if name not in PYTHONS_OWN and name not in taken}
    found.update({name: sys.modules[name] for name in own_modules(tree)})
    return {**found, "__name__": "tests", "__builtins__": dict(PYTHONS_OWN)}


def _passes(action: Callable[[], object]) -> str:
    """Run `action`. Returns an error message, empty on success. Raises UnsupportedTests."""
    try:
        action()
    except _ProgramEnded:
        return PROGRAM_ENDED
    except BaseException as error:
        if isinstance(error.__cause__, _RaisedByProgram):
            return str(error.__cause__)[:_MESSAGE_CHARACTERS]
        if isinstance(error, (NotSerializable, ModuleNotFoundError)):
            raise UnsupportedTests(f"{type(error).__name__}: {error}") from error
        return f"{type(error).__name__}: {error}"[:_MESSAGE_CHARACTERS]
    return ""


Tell = Callable[[Any], None]
"""Writes one result."""


def run_asserts(source: bytes, program: ProgramProxy, tell: Tell) -> None:
    """For each test, writes true or an error message; {"bad_gold": …} if the tests cannot be run.

    If a statement fails that is no test, so do all tests after it; if there is none, it counts as one more test.
    """
    try:
        tree, statements = read(source.decode())
        namespace = _namespace(tree, program.read(identifiers(tree)))
        broken = untold = ""
        for is_test, code in statements:
            wrong = broken or _passes(lambda code=code: exec(code, namespace))  # type: ignore[misc]
            if wrong and not program.started:
                wrong = PROGRAM_ENDED
            if is_test:
                tell(wrong or True)
                untold = ""
            elif not broken:
                broken = untold = wrong
        if untold:
            tell(untold)
    except UnsupportedTests as error:
        tell({"bad_gold": str(error)})


def run_calls(source: bytes, program: ProgramProxy, tell: Tell) -> None:
    """The same for {"function": name, "calls": [[arguments, result], …], "tolerance": …}, see `comparison.py`.

    A tuple equals a list of the same items.
    """
    task = json.loads(source)
    names = program.read({task["function"], "Solution"})
    for arguments, expected in task["calls"]:

        def action(arguments: Any = arguments, expected: Any = expected) -> None:
            if not program.started:
                raise _ProgramEnded
            found = _as_json(_find_function(names, task["function"])(*arguments))
            if not same_value(found, expected, task["tolerance"]):
                raise AssertionError(f"{_shown(found)} for {_shown(expected)}")

        tell(_passes(action) or True)


def _find_function(names: dict[str, Any], name: str) -> Any:
    """A function at the top level, else a method of a class `Solution`, as in LeetCode. Raises NameError."""
    if name in names:
        return names[name]
    if "Solution" not in names:
        raise NameError(f"the program defines no {name!r}")
    return getattr(names["Solution"](), name)


def _as_json(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_as_json(one) for one in value]
    if isinstance(value, dict):
        return {str(key): _as_json(one) for key, one in value.items()}
    return value


class _Shown(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        return super().repr_int(x, level) if x.bit_length() <= _SHOWN_BITS else f"<{x.bit_length()} bits>"


def _shown(value: Any) -> str:
    return f"{_Shown().repr(value):.80}"
