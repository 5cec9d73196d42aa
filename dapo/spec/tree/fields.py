"""The tree as rows: path, type, default, bounds and meaning of each field."""

import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import annotated_types
from pydantic import JsonValue
from pydantic.fields import FieldInfo

from dapo.spec.tree.base import Section
from dapo.spec.tree.run import RunTree
from dapo.spec.wording import scalar_text

ANY_VALUE = "any value"
_NAMED_SECTIONS = "{name: section, …}"
_WORDS: dict[Any, str] = {int: "integer", float: "number", bool: "true or false", str: "text", JsonValue: ANY_VALUE}


@dataclass(frozen=True)
class FieldRow:
    path: str
    """Dotted. `<name>` stands for a name of the user's; `[type: code]` after it says which choice has the field."""
    type: str
    default: str | None
    """As YAML; None where the field must be written."""
    bounds: str
    """E.g. `> 0, < 1`; empty where there are none."""
    meaning: str

    @property
    def section(self) -> str:
        return self.path.rpartition(".")[0]


class _Inner(NamedTuple):
    """A section below a field."""

    step: str
    """From the field to the section: empty, `.<name>` or `.<name>[type: code]`."""
    type: type[Section]
    chooser: str | None
    """Name of the field that chooses this section of several; None where there is no choice."""
    tags: tuple[str, ...]
    """Its values that choose this one."""


@cache
def field_rows() -> dict[str, FieldRow]:
    """Every leaf of the tree by its path, in the tree's order. A mapping of sections has a row of its own too,
    and so has a section that may be null."""
    return {row.path: row for row in _walk(RunTree, "")}


@cache
def section_names() -> dict[str, tuple[str, ...]]:
    """Names of the fields and sections in each section, by the section's path; the root is the empty path."""
    return {path: tuple(section.model_fields) for path, section in section_types().items()}


@cache
def section_types() -> dict[str, type[Section]]:
    """The class of each section by its path."""
    return dict(_sections(RunTree, ""))


class Location(NamedTuple):
    shown: str
    """As the user writes it: `reward.graders.mine.timeout_s`."""
    path: str
    """As in field_rows and section_names: `reward.graders.<name>[type: code].timeout_s`."""


def locate(steps: Sequence[str | int]) -> Location:
    """Where pydantic's location of an error lies; what lies inside a field's value goes on as it is."""
    shown: list[str] = []
    path: list[str] = []
    section: type[Section] | None = RunTree
    rest = list(map(str, steps))
    while rest:
        name = rest.pop(0)
        shown.append(name)
        path.append(name)
        info = section.model_fields.get(name) if section is not None else None
        inner = _inner_sections(info) if info is not None else []
        section = inner[0].type if inner else None
        if inner and inner[0].step and rest:
            shown.append(rest.pop(0))
            path.append("<name>")
            chosen = [one for one in inner if rest and rest[0] in one.tags]
            if chosen:
                rest.pop(0)
                section = chosen[0].type
                path[-1] = chosen[0].step.removeprefix(".")
            elif inner[0].tags:
                section = None
    return Location(".".join(shown), ".".join(path))


def _walk(section: type[Section], prefix: str, chooser: str | None = None) -> Iterator[FieldRow]:
    """A section's own fields, then the sections below it."""
    below = {name: _inner_sections(info) for name, info in section.model_fields.items()}
    for name, info in section.model_fields.items():
        inner = below[name]
        optional = bool(inner) and info.default is None
        if name != chooser and (not inner or inner[0].step or optional):
            default = None if info.is_required() else scalar_text(info.default)
            kind = _type_text(info.annotation) if not inner else "section or null" if optional else _NAMED_SECTIONS
            yield FieldRow(prefix + name, kind, default, _bounds(info), _meaning(section, name))
    for name, inner in below.items():
        for one in inner:
            yield from _walk(one.type, f"{prefix}{name}{one.step}.", one.chooser)


def _sections(section: type[Section], path: str) -> Iterator[tuple[str, type[Section]]]:
    yield path, section
    for name, info in section.model_fields.items():
        for inner in _inner_sections(info):
            yield from _sections(inner.type, (f"{path}.{name}" if path else name) + inner.step)


def _inner_sections(info: FieldInfo) -> list[_Inner]:
    """The sections below a field: its own, those of a mapping's values, each choice of a discriminated union."""
    annotation: Any = info.annotation
    if get_origin(annotation) is dict:
        return _choices(get_args(annotation)[1], None, ".<name>")
    return _choices(annotation, info.discriminator, "")


def _choices(annotation: Any, chooser: Any, step: str) -> list[_Inner]:
    if get_origin(annotation) is Annotated:
        annotation, *metadata = get_args(annotation)
        found = (entry.discriminator for entry in metadata if isinstance(entry, FieldInfo))
        chooser = next((name for name in found if name is not None), chooser)
    parts = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    sections = [part for part in parts if isinstance(part, type) and issubclass(part, Section)]
    if not isinstance(chooser, str):
        return [_Inner(step, section, None, ()) for section in sections]
    inner = []
    for section in sections:
        tags = get_args(section.model_fields[chooser].annotation)
        inner.append(_Inner(f"{step}[{chooser}: {' or '.join(tags)}]", section, chooser, tags))
    return inner


def _meaning(section: type[Section], name: str) -> str:
    """A field that a subclass declares anew without a word means what it meant."""
    owners = (owner.model_fields.get(name) for owner in section.__mro__ if issubclass(owner, Section))
    described = (info.description for info in owners if info is not None and info.description)
    return " ".join(next(described, "").split())


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
