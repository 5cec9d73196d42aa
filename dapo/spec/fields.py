"""The RunSpec tree as rows: path, type, default, bounds and meaning of each field."""

import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo

from dapo.spec.base import Section
from dapo.spec.run import RunSpec
from dapo.spec.wording import scalar_text

_WORDS: dict[Any, str] = {int: "integer", float: "number", bool: "true or false", str: "text"}


@dataclass(frozen=True)
class FieldRow:
    path: str
    type: str
    default: str | None
    """As YAML; None where the field must be written."""
    bounds: str
    """E.g. `> 0, < 1`; empty where there are none."""
    meaning: str

    @property
    def section(self) -> str:
        return self.path.rpartition(".")[0]


@cache
def field_rows() -> dict[str, FieldRow]:
    """Every leaf of the tree by its path, in the tree's order."""
    return {row.path: row for row in _walk(RunSpec, "")}


@cache
def section_names() -> dict[str, tuple[str, ...]]:
    """Names of the fields and sections in each section, by the section's path; the root is the empty path."""
    return dict(_sections(RunSpec, ""))


def _walk(section: type[Section], prefix: str) -> Iterator[FieldRow]:
    for name, info in section.model_fields.items():
        if (inner := _section_type(info)) is not None:
            yield from _walk(inner, f"{prefix}{name}.")
        else:
            default = None if info.is_required() else scalar_text(info.default)
            meaning = " ".join((info.description or "").split())
            yield FieldRow(prefix + name, _type_text(info.annotation), default, _bounds(info), meaning)


def _sections(section: type[Section], path: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield path, tuple(section.model_fields)
    for name, info in section.model_fields.items():
        if (inner := _section_type(info)) is not None:
            yield from _sections(inner, f"{path}.{name}" if path else name)


def _section_type(info: FieldInfo) -> type[Section] | None:
    annotation: Any = info.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, Section) else None


def _type_text(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(scalar_text(choice) for choice in arguments)
    if origin is Annotated:
        return _type_text(arguments[0])
    if origin in (Union, types.UnionType):
        return " or ".join("null" if part is type(None) else _type_text(part) for part in arguments)
    if origin is tuple:
        return f"[{', '.join(map(_type_text, arguments))}]"
    if origin is list:
        return f"[{_type_text(arguments[0])}, …]"
    if origin is dict:
        return f"{{{_type_text(arguments[0])}: {_type_text(arguments[1])}}}"
    return _WORDS[annotation]


def _bounds(info: FieldInfo) -> str:
    found = [_bound(entry) for entry in info.metadata]
    # Bounds of the parts of a tuple, a mapping or an optional value stand in nested Annotated types.
    for part in get_args(info.annotation):
        if get_origin(part) is Annotated:
            found += [_bound(entry) for inner in get_args(part)[1:] for entry in getattr(inner, "metadata", [inner])]
    return ", ".join(dict.fromkeys(bound for bound in found if bound))


def _bound(entry: Any) -> str:
    match entry:
        case annotated_types.Gt():
            return f"> {entry.gt}"
        case annotated_types.Ge():
            return f"≥ {entry.ge}"
        case annotated_types.Lt():
            return f"< {entry.lt}"
        case annotated_types.Le():
            return f"≤ {entry.le}"
        case annotated_types.MinLen():
            return "not empty"
    pattern = getattr(entry, "pattern", None)
    return f"matches `{pattern}`" if pattern else ""
