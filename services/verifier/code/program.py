"""Runs a generated program in its confined process, as a script or as a server of calls by tests."""

import atexit
import builtins
import operator
import random
import sys
import threading
import traceback
import types
from collections.abc import Callable
from typing import Any

from services.verifier.code.rpc import ModuleName, NotSerializable, Reference, RpcConnection, decode_value, encode_value

_RECURSION_LIMIT = 1000
"""Python's own limit, which a program may change."""


def reset_interpreter(stdin: Any, stdout: Any, stderr: Any) -> None:
    """Make this fork of the template look like a fresh interpreter, but for integers of any length."""
    sys.stdin, sys.stdout, sys.stderr = stdin, stdout, stderr
    sys.argv = ["solution.py"]
    sys.setrecursionlimit(_RECURSION_LIMIT)
    sys.set_int_max_str_digits(0)
    random.seed(0)
    _run_threads_in_line()


def _run_threads_in_line() -> None:
    """Run a thread's function in `start`, as no threads are allowed. Suits programs that want a larger stack only."""

    def start(self: threading.Thread) -> None:
        try:
            self.run()
        except BaseException:  # noqa: BLE001 - as in a thread: reported, and the program goes on
            traceback.print_exc()

    threading.Thread.start = start  # type: ignore[method-assign]
    threading.Thread.join = lambda self, timeout=None: None  # type: ignore[method-assign]
    threading.Thread.is_alive = lambda self: False  # type: ignore[method-assign]
    threading.stack_size = lambda size=0: 0  # type: ignore[assignment]


def run_script(source: bytes) -> int:
    """Execute the program. Returns the exit status that the interpreter would give."""
    try:
        status = _exit_status(lambda: _execute(source, "__main__"))
        atexit._run_exitfuncs()
        sys.stdout.flush()
    except BaseException:  # noqa: BLE001 - the last resort of a script that closed its own output
        return 1
    return status


def _exit_status(action: Callable[[], object]) -> int:
    try:
        action()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        print(end.code, file=sys.stderr)  # noqa: T201
        return 1
    except BaseException:  # noqa: BLE001 - whatever a program raises, its traceback goes to its stderr
        traceback.print_exc()
        return 1
    return 0


def _execute(source: bytes, name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(compile(source, "solution.py", "exec"), module.__dict__)
    return module


def _isinstance(value: Any, kind: Any) -> bool:
    return isinstance(value, kind)


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "call": lambda function, *args, **kwargs: function(*args, **kwargs),
    "getattr": getattr,
    "setattr": setattr,
    "isinstance": _isinstance,
    **{name: getattr(builtins, name) for name in ("iter", "next", "len", "str", "repr", "bool", "hash")},
    **{
        name: getattr(operator, name)
        for name in (
            "getitem", "setitem", "delitem", "eq", "ne", "lt", "le", "gt", "ge", "add", "sub", "mul", "matmul",
            "truediv", "floordiv", "mod", "pow", "and_", "or_", "xor",
        )
    },
}  # fmt: skip


class _CallServer:
    """Executes the tests' requests on the program's objects, which the tests know by number."""

    def __init__(self, line: RpcConnection) -> None:
        self._line = line
        self._objects: list[Any] = []
        self._numbers: dict[int, int] = {}

    def serve(self, module: types.ModuleType) -> None:
        """Serve until the tests end. The module itself is object 0."""
        self._objects.append(module)
        self._line.send({"names": [name for name in vars(module) if not name.startswith("__")]})
        while True:
            self._line.send(self._answer(self._line.receive()))

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        args = [decode_value(one, self._resolve) for one in request["args"]]
        kwargs = {name: decode_value(one, self._resolve) for name, one in request["kwargs"].items()}
        try:
            value = self._encode(_OPERATIONS[request["do"]](*args, **kwargs))
            sys.stdout.flush()
            # The tests have copies of the arguments, so changes to them are sent back.
            changed = [self._encode(one) if isinstance(one, (list, dict, set, bytearray)) else None for one in args]
        except BaseException as error:  # noqa: BLE001 - the tests get whatever a program raises
            kinds = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"]
            return {"error": kinds[0], "type": type(error).__name__, "message": _message(error)[:500]}
        return {"value": value, "changed": changed}

    def _encode(self, value: Any) -> Any:
        return encode_value(value, self._refer)

    def _refer(self, value: Any) -> Reference | ModuleName:
        if isinstance(value, types.ModuleType):
            return ModuleName(value.__name__)
        number = self._numbers.setdefault(id(value), len(self._objects))
        if number == len(self._objects):
            self._objects.append(value)
        return Reference(number)

    def _resolve(self, reference: Reference | ModuleName) -> Any:
        if isinstance(reference, ModuleName):
            raise NotSerializable(reference.name)
        return self._objects[reference.number]


def _message(error: BaseException) -> str:
    """What an exception was made with, so that another one of it says the same; `str` of a KeyError adds quotes."""
    match error.args:
        case (str(only),):
            return only
    return str(error)


def run_functions(source: bytes, line: RpcConnection) -> int:
    """Execute the program's definitions, then serve calls of them."""
    found: list[types.ModuleType] = []
    return _exit_status(lambda: found.append(_execute(source, "solution"))) or _exit_status(
        lambda: _CallServer(line).serve(found[0])
    )
