"""A spec as a mapping and as text, to be bent by the tests of dapo.spec."""

from typing import Any

import pytest

from dapo.spec import RunSpec, SpecError, parse_spec

MINIMAL: dict[str, Any] = {"model": {"path": "/models/m"}, "data": {"path": "/data/d.jsonl"}}
MINIMAL_YAML = "model: {path: /m}\ndata: {path: /d.jsonl}\n"


def tree(**fields: Any) -> dict[str, Any]:
    """The smallest spec with dotted fields set, written with `__` for the dot."""
    result: dict[str, Any] = {name: dict(section) for name, section in MINIMAL.items()}
    for path, value in fields.items():
        section = result
        *outer, leaf = path.split("__")
        for name in outer:
            section = section.setdefault(name, {})
        section[leaf] = value
    return result


def spec(**fields: Any) -> RunSpec:
    return RunSpec.model_validate(tree(**fields))


def refusal(text: str) -> list[str]:
    """The lines with which the spec is refused."""
    with pytest.raises(SpecError) as error:
        parse_spec(text)
    return str(error.value).splitlines()
