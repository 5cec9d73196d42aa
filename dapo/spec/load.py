"""From text to a RunSpec and back. Every refusal is a SpecError that names the field, its value and the cure."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from dapo.redaction import redact_url
from dapo.spec.checks.data import data_fields, missing_rows
from dapo.spec.checks.model import missing_model, unfit_model
from dapo.spec.checks.tracking import missing_for_tracking
from dapo.spec.checks.training import missing_for_mirror
from dapo.spec.diagnosis import diagnose
from dapo.spec.paths import absolute, is_hub_dataset, is_local_model
from dapo.spec.problem import Problem, SpecError
from dapo.spec.run import RunSpec
from dapo.spec.tree.base import Section
from dapo.spec.tree.data import RowsSpec
from dapo.spec.tree.graders import AnyGrader, JsonSchemaGrader
from dapo.spec.tree.run import RunTree
from dapo.spec.wording import shown
from dapo.spec.yaml_text import read_yaml, write_yaml

Rows = TypeVar("Rows", bound=RowsSpec)


def load_spec(path: Path, overrides: Sequence[str] = ()) -> RunSpec:
    """Reads a spec file and applies `a.b.c=value` overrides, whose values are YAML.

    Local model and data paths come back absolute, from the current directory. Raises SpecError.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise _refusal(f"cannot read the spec {path}: {error.strerror}. Give the path of a YAML file") from error
    except UnicodeDecodeError as error:
        raise _refusal(f"{path} is not UTF-8 text (byte {error.start}). Give the path of a YAML file") from error
    return _build(_override(_read_tree(text, str(path)), overrides))


def build_spec(tree: dict[str, Any], overrides: Sequence[str] = ()) -> RunSpec:
    """The spec of a tree as YAML would give it, with overrides as in `load_spec`. Raises SpecError."""
    return _build(_override(tree, overrides))


def parse_spec(text: str, overrides: Sequence[str] = ()) -> RunSpec:
    """Reads a spec from YAML or JSON text, with overrides as in `load_spec`. Raises SpecError."""
    return _build(_override(_read_tree(text, "the spec"), overrides))


def dump_yaml(spec: RunSpec) -> str:
    """The resolved spec, every field written out in the order of the tree; `parse_spec` reads the same spec from it."""
    return write_yaml(spec.model_dump(mode="json"))


def show_yaml(spec: RunSpec) -> str:
    """As `dump_yaml`, for eyes other than the user's: no URL has a user name or password."""
    return write_yaml(show_tree(spec))


def show_tree(spec: RunTree) -> dict[str, Any]:
    """The resolved spec as JSON has it, for such eyes."""
    return _redacted(spec.model_dump(mode="json"))


def _redacted(section: dict[str, Any]) -> dict[str, Any]:
    found = dict(section)
    for name, value in section.items():
        if isinstance(value, dict):
            found[name] = _redacted(value)
        elif name.endswith("url") and isinstance(value, str):
            found[name] = redact_url(value)
    return found


def missing_inputs(spec: RunSpec) -> list[Problem]:
    """Files that the spec names and that are not on this machine. Loading a spec does not look for them."""
    problems = list(missing_model(spec))
    for field, rows in data_fields(spec).items():
        problems += missing_rows(field, rows)
    return problems


def unfit_inputs(spec: RunSpec) -> list[Problem]:
    """What files that are on this machine show not to go together with the spec."""
    return list(unfit_model(spec))


def check_inputs(spec: RunSpec) -> None:
    """Raises SpecError where the model, the data or what tracking or the mirror needs is not on this machine, or does
    not fit the spec."""
    lacking = (missing_inputs, unfit_inputs, missing_for_tracking, missing_for_mirror)
    if problems := [problem for check in lacking for problem in check(spec)]:
        raise SpecError(problems)


def _build(tree: dict[str, Any]) -> RunSpec:
    try:
        spec = RunSpec.model_validate(tree)
    except ValidationError as error:
        raise SpecError(diagnose(error)) from error
    sources = {name: _absolute_rows(source) for name, source in spec.data.sources.items()}
    sets = {name: _absolute_rows(one) for name, one in spec.evaluation.sets.items()}
    found: dict[str, Section] = {
        "data": _absolute_rows(spec.data).model_copy(update={"sources": sources}),
        "evaluation": spec.evaluation.model_copy(update={"sets": sets}),
    }
    graders = {name: _absolute_schema(grader) for name, grader in spec.reward.graders.items()}
    found["reward"] = spec.reward.model_copy(update={"graders": graders})
    if is_local_model(spec.model.path):
        found["model"] = spec.model.model_copy(update={"path": absolute(spec.model.path)})
    return spec.model_copy(update=found)


def _absolute_schema(grader: AnyGrader) -> AnyGrader:
    if not isinstance(grader, JsonSchemaGrader) or grader.schema_path is None:
        return grader
    return grader.model_copy(update={"schema_path": absolute(grader.schema_path)})


def _absolute_rows(rows: Rows) -> Rows:
    if rows.path is None or is_hub_dataset(rows.path):
        return rows
    return rows.model_copy(update={"path": absolute(rows.path)})


def _read_tree(text: str, source: str) -> dict[str, Any]:
    tree = _read_text(text, source)
    if tree is None:
        raise _refusal(f"{source} is empty. Write at least model.path and data.path")
    if not isinstance(tree, dict):
        raise _refusal(f"{source} must be a mapping of sections (model: …, data: …), not {shown(tree)}")
    return tree


def _read_text(text: str, source: str) -> Any:
    try:
        if text.lstrip().startswith("{"):
            try:
                return json.loads(text, object_pairs_hook=_unique_keys)
            except json.JSONDecodeError:
                return read_yaml(text)  # A flow mapping of YAML begins the same way.
        return read_yaml(text)
    except yaml.YAMLError as error:
        raise _refusal(f"{source} is not YAML: {_syntax(error)}") from error
    except SpecError:
        raise
    except ValueError as error:  # An integer of thousands of digits.
        raise _refusal(f"{source} holds a number that cannot be read: {error}") from error
    except RecursionError as error:
        raise _refusal(f"{source} is nested too deeply. A spec has sections, fields and no more") from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in pairs:
        if key in tree:
            raise _refusal(f"`{key}` is written twice in one section. Keep one")
        tree[key] = value
    return tree


def _syntax(error: yaml.YAMLError) -> str:
    mark, what = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None:
        return " ".join(str(error).split())
    return f"line {mark.line + 1}, column {mark.column + 1}: {what}. Mend that line"


def _override(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    tree = copy.deepcopy(tree)
    for override in overrides:
        path, equals, text = override.partition("=")
        names = path.strip().split(".")
        if not equals or not all(names):
            raise _refusal(f"--set {override}: write it as section.field=value, e.g. training.steps=20")
        value = _read_text(text, f"--set {override}: the value")
        section = tree
        for depth, name in enumerate(names[:-1], start=1):
            inner = section.get(name)
            if inner is None:
                inner = section[name] = {}
            if not isinstance(inner, dict):
                outer = ".".join(names[:depth])
                raise SpecError([Problem(path.strip(), shown(value), f"{outer} is no section, it is {shown(inner)}")])
            section = inner
        section[names[-1]] = value
    return tree


def _refusal(message: str) -> SpecError:
    return SpecError([Problem("", None, message)])
