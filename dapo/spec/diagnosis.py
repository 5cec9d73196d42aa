"""Pydantic's errors as problems in the words of this project."""

import difflib
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from dapo.redaction import names_secret, names_url, redact_url
from dapo.spec.problem import Problem
from dapo.spec.tree.fields import ANY_VALUE, FieldRow, field_rows, locate, section_names
from dapo.spec.wording import printable, shown

_PHRASES: dict[str, Callable[[dict[str, Any]], str]] = {
    "greater_than": lambda ctx: f"must be greater than {ctx['gt']:g}",
    "greater_than_equal": lambda ctx: f"must be at least {ctx['ge']:g}",
    "less_than": lambda ctx: f"must be less than {ctx['lt']:g}",
    "less_than_equal": lambda ctx: f"must be at most {ctx['le']:.12g}",
    "finite_number": lambda ctx: "must be a finite number",
    "invalid_key": lambda ctx: "field names are text",
    "string_unicode": lambda ctx: "must be text without lone surrogates",
    "string_type": lambda ctx: "must be text; quote it if it looks like a number",
    "string_too_short": lambda ctx: "must not be empty",
    "string_pattern_mismatch": lambda ctx: "does not have the right form",
    "literal_error": lambda ctx: "is not one of the choices",
    "dict_type": lambda ctx: "must be a mapping",
    "invalid-json-value": lambda ctx: "is no JSON value; quote it if it looks like a date",
}
_KINDS = {"int": "must be an integer", "float": "must be a number", "bool": "must be true or false"}


def diagnose(error: ValidationError) -> list[Problem]:
    """One problem for each thing that is wrong."""
    problems: list[Problem] = []
    for detail in error.errors(include_url=False):
        if detail["type"] == "spec_problems":
            problems += detail["ctx"]["problems"]
        else:
            problems.append(_problem(detail))
    return problems


def _problem(detail: ErrorDetails) -> Problem:
    field, path = map(printable, locate(detail["loc"]))
    if detail["type"] == "missing":
        return Problem(field, None, f"is required. {_missing(path)}")
    given = detail["input"]
    if isinstance(given, str) and names_secret(path.rpartition(".")[2]):
        given = None
    value = None if given is None else shown(redact_url(given) if names_url(path) and isinstance(given, str) else given)
    if detail["type"] == "extra_forbidden":
        return Problem(field, value, _unknown(field, path))
    if detail["type"].startswith("union_tag"):
        return _choice(field, path, detail)
    if path in section_names():
        return Problem(field, value, f"is a section. Put its fields below it: {', '.join(section_names()[path])}")
    row = _row(path)
    if row is not None and ANY_VALUE in row.type:
        # What follows the key are pydantic's names of the kinds of JSON values.
        field = ".".join(field.split(".")[: row.path.count(".") + 2])
    words = phrase(detail)
    if value in ("none", "None") and row is not None and row.type.endswith("or null"):
        return Problem(field, value, f"{words}. Write null for none")
    return Problem(field, value, f"{words}. {_cure(row)}" if row else words)


def _choice(field: str, path: str, detail: ErrorDetails) -> Problem:
    """None of several sections was chosen, or one that there is not."""
    chooser, value = detail["ctx"]["discriminator"].strip("'"), detail["input"]
    tag = value.get(chooser) if isinstance(value, dict) else None
    start = f"{path}[{chooser}: "
    choices = [one.removeprefix(start).rstrip("]") for one in section_names() if one.startswith(start)]
    says = "is required" if tag is None else "is not one of the choices"
    return Problem(f"{field}.{chooser}", None if tag is None else shown(tag), f"{says}. Set {' or '.join(choices)}")


def phrase(detail: ErrorDetails | dict[str, Any]) -> str:
    """What is wrong with a value, by the kind of pydantic's error."""
    kind = detail["type"]
    if kind in _PHRASES:
        return _PHRASES[kind](detail.get("ctx", {}))
    return _KINDS.get(kind.partition("_")[0], detail["msg"].rstrip(".").replace("Input should", "must"))


def _row(path: str) -> FieldRow | None:
    """The field that a location lies in: locations inside a list or mapping go on after the field."""
    while path and path not in field_rows():
        path = path.rpartition(".")[0]
    return field_rows().get(path)


def _cure(row: FieldRow) -> str:
    article = {"integer": "an ", "number": "a "}.get(row.type.partition(" ")[0], "")
    form = f"{article}{row.type}" + (f" ({row.bounds})" if row.bounds else "")
    default = "" if row.default is None else f"; the default is {row.default}"
    return f"Set {form}{default}"


def _missing(path: str) -> str:
    row = _row(path)
    if row is not None:
        return row.meaning if row.path == path else _cure(row)
    needed = [inner.path for inner in field_rows().values() if inner.section == path and inner.default is None]
    return f"Add the section with at least {_names(needed) or f'{path}.{section_names()[path][0]}'}"


def _unknown(field: str, path: str) -> str:
    (outer, _, name), section = field.rpartition("."), path.rpartition(".")[0]
    names = section_names().get(section, ())
    guess = _guess(outer, name, names)
    where = f"`{outer}` has" if outer else "A spec has"
    return f"is no field of a spec. {f'Did you mean {guess}? ' if guess else ''}{where} {_names(names)}"


def _guess(outer: str, name: str, names: Sequence[str]) -> str | None:
    prefix = f"{outer}." if outer else ""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.7)
    if close:
        return prefix + close[0]
    leaves = {path.rpartition(".")[2]: path for path in reversed(field_rows())}
    elsewhere = difflib.get_close_matches(name, leaves, n=1, cutoff=0.8)
    return leaves[elsewhere[0]] if elsewhere else None


def _names(names: Sequence[str]) -> str:
    return ", ".join(names)
