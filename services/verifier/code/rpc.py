"""Remote calls between a program and the tests that call it: values as data, messages as lines of JSON.

Either end may send anything. What is received becomes plain data or a Reference, or raises.
"""

import json
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any, BinaryIO, NamedTuple

_MAX_LINE_BYTES = 64 << 20
_SAFE_INTEGER = 1 << 53


class Reference(NamedTuple):
    """An object that stays in the program's process, by number."""

    number: int


class ModuleName(NamedTuple):
    """A module that the program imported. The tests get their own copy of it."""

    name: str


class NotSerializable(Exception):
    """A value that cannot be sent as data."""


Refer = Callable[[Any], Reference | ModuleName]
"""What to send for a value that is no data. Raises NotSerializable."""


def encode_value(value: Any, refer: Refer) -> Any:
    """As JSON: None, booleans, strings, floats and integers below 2**53 as they are, all else as [tag, content].

    A value of a subclass becomes one of its base, e.g. a Counter a dict. Raises NotSerializable.
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
            return [_base(value, (list, tuple, set, frozenset)), [encode_value(one, refer) for one in value]]
        case dict():
            return ["dict", [[encode_value(key, refer), encode_value(one, refer)] for key, one in value.items()]]
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
        return encode_value(value.tolist(), refer)
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


def decode_value(data: Any, resolve: Callable[[Reference | ModuleName], Any]) -> Any:
    """Inverse of `encode_value`; `resolve` maps references. Malformed data raises any exception."""
    if not isinstance(data, list):
        return data
    tag, content = data
    if tag == "ref":
        return resolve(Reference(int(content)))
    if tag == "module":
        return resolve(ModuleName(str(content)))
    return _DECODERS[tag](content, lambda one: decode_value(one, resolve))


class RpcConnection:
    """Messages in both directions over two pipes."""

    def __init__(self, reader: BinaryIO, writer: BinaryIO) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, message: Any) -> None:
        self._writer.write(json.dumps(message).encode() + b"\n")
        self._writer.flush()

    def receive(self) -> Any:
        """Raises EOFError if the other end is gone or the line too long, ValueError or RecursionError if not JSON."""
        line = self._reader.readline(_MAX_LINE_BYTES)
        if not line.endswith(b"\n"):
            raise EOFError("the other end of the line is gone")
        return json.loads(line)
