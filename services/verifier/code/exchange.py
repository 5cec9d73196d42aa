"""Python values as data, and calls as lines of JSON, between a program and the tests that call it.

Both ends are sandboxed and either may send nonsense: whatever is read becomes plain data or a Reference, or raises.
"""

import json
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any, BinaryIO, NamedTuple

_MAX_LINE = 64 << 20
_SAFE_INTEGER = 1 << 53


class Reference(NamedTuple):
    """An object that stays with the program."""

    number: int


class ModuleName(NamedTuple):
    """A module that the program imported, which the tests get as their own."""

    name: str


class Unsendable(Exception):
    """A value that is no data."""


Refer = Callable[[Any], Reference | ModuleName]
"""What stands for a value that is no data. Raises Unsendable."""


def encode(value: Any, refer: Refer) -> Any:
    """As JSON: None, booleans, strings, floats and usual integers as they are, all else as a list with a tag.

    A value of a subclass becomes one of its base, e.g. a Counter a dict. Raises Unsendable.
    """
    match value:
        case None | bool() | str():
            return value if value is None or isinstance(value, bool) else str(value)
        case int():
            return int(value) if -_SAFE_INTEGER < value < _SAFE_INTEGER else ["int", hex(value)]
        case float():
            return float(value)
        case Reference():
            return ["ref", value.number]
        case list() | tuple() | set() | frozenset():
            return [_base(value, (list, tuple, set, frozenset)), [encode(one, refer) for one in value]]
        case dict():
            return ["dict", [[encode(key, refer), encode(one, refer)] for key, one in value.items()]]
        case bytes() | bytearray():
            return [_base(value, (bytes, bytearray)), value.hex()]
        case complex():
            return ["complex", [value.real, value.imag]]
        case range():
            return ["range", [hex(value.start), hex(value.stop), hex(value.step)]]
        case Fraction():
            return ["Fraction", [hex(value.numerator), hex(value.denominator)]]
        case Decimal():
            return ["Decimal", str(value)]
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return encode(value.tolist(), refer)
    found = refer(value)
    return ["ref", found.number] if isinstance(found, Reference) else ["module", found.name]


def _base(value: Any, bases: tuple[type, ...]) -> str:
    return next(base.__name__ for base in bases if isinstance(value, base))


_DECODERS: dict[str, Callable[[Any, Callable[[Any], Any]], Any]] = {
    "int": lambda data, decode: int(data, 16),
    "list": lambda data, decode: [decode(one) for one in data],
    "tuple": lambda data, decode: tuple(decode(one) for one in data),
    "set": lambda data, decode: {decode(one) for one in data},
    "frozenset": lambda data, decode: frozenset(decode(one) for one in data),
    "dict": lambda data, decode: {decode(key): decode(one) for key, one in data},
    "bytes": lambda data, decode: bytes.fromhex(data),
    "bytearray": lambda data, decode: bytearray.fromhex(data),
    "complex": lambda data, decode: complex(*map(float, data)),
    "range": lambda data, decode: range(*(int(part, 16) for part in data)),
    "Fraction": lambda data, decode: Fraction(*(int(part, 16) for part in data)),
    "Decimal": lambda data, decode: Decimal(data),
}


def decode(data: Any, resolve: Callable[[Reference | ModuleName], Any]) -> Any:
    """The value; references are what `resolve` makes of them. Raises whatever malformed data makes Python raise."""
    if not isinstance(data, list):
        return data
    tag, content = data
    if tag == "ref":
        return resolve(Reference(int(content)))
    if tag == "module":
        return resolve(ModuleName(str(content)))
    return _DECODERS[tag](content, lambda one: decode(one, resolve))


class Line:
    """Messages both ways over two pipes."""

    def __init__(self, reader: BinaryIO, writer: BinaryIO) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, message: Any) -> None:
        self._writer.write(json.dumps(message).encode() + b"\n")
        self._writer.flush()

    def receive(self) -> Any:
        """Raises EOFError where the other end is gone or sends too much, ValueError or RecursionError for nonsense."""
        line = self._reader.readline(_MAX_LINE)
        if not line.endswith(b"\n"):
            raise EOFError("the other end of the line is gone")
        return json.loads(line)
