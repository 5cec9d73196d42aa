"""`json_schema`: the response's JSON conforms to a schema. No `$ref` outside the schema is fetched."""

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from dapo.spec.tree.graders import JsonSchemaGrader
from services.verifier.graders.verdict import Grader, GraderSetupError, Verdict, right, wrong

_FENCE = re.compile(r"^[ \t]*```[ \t]*(\w*)[ \t]*$", re.MULTILINE)
_CACHED_SCHEMAS = 256


class _BadSchema(ValueError):
    """It is no JSON schema."""


def make_json_schema(options: JsonSchemaGrader) -> Grader:
    """Raises GraderSetupError where `schema_path` holds no schema, ImportError without the library jsonschema."""
    import jsonschema  # noqa: F401 - here, and not at the first grading, it may be missing
    from referencing.exceptions import Unresolvable

    fixed = _read_file(options.schema_path) if options.schema_path else None
    read_schema = lru_cache(_CACHED_SCHEMAS)(_read_schema)

    def grade(text: str, gold: str) -> Verdict:
        written = _last_block(text).strip()
        if not written:
            return wrong("no_answer")
        try:
            validator = read_schema(gold if fixed is None else fixed)
        except _BadSchema:
            return wrong("bad_gold")
        try:
            value = _read_json(written)
        except (ValueError, RecursionError):
            return wrong("not_json", written)
        try:
            valid = validator.is_valid(value)
        except (Unresolvable, re.error):
            return wrong("bad_gold", written)
        except (RecursionError, ArithmeticError):
            return wrong("too_complex", written)
        return right("valid", written) if valid else wrong("invalid", written)

    def gold_problem(gold: str) -> str:
        try:
            read_schema(gold if fixed is None else fixed)
        except _BadSchema as error:
            return f"it is no JSON schema: {str(error).splitlines()[0]}"
        return ""

    return Grader(grade, gold_problem)


def _read_file(path: str) -> str:
    try:
        text = Path(path).read_text(encoding="utf-8")
        _read_schema(text)
    except OSError as error:
        raise GraderSetupError(
            f"the schema {path} cannot be read: {error.strerror}. Give a file on this machine"
        ) from error
    except (_BadSchema, UnicodeDecodeError) as error:
        raise GraderSetupError(f"{path} is no JSON schema: {str(error).splitlines()[0]}. Mend it") from error
    return text


def _last_block(text: str) -> str:
    """The last closed fenced block; without one, the whole text."""
    fences = list(_FENCE.finditer(text))
    opening: re.Match[str] | None = None
    block: str | None = None
    for fence in fences:
        if opening is None:
            opening = fence
        elif not fence[1]:
            block, opening = text[opening.end() : fence.start()], None
    return text if block is None else block


def _read_json(text: str) -> Any:
    return json.loads(text, parse_constant=_refuse, object_pairs_hook=_unique)


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return tree


def _read_schema(text: str) -> Any:
    """Its validator. Raises _BadSchema."""
    from jsonschema import Draft202012Validator, SchemaError
    from jsonschema.validators import validator_for
    from referencing import Registry

    try:
        schema = _read_json(text)
        if not isinstance(schema, dict):
            raise _BadSchema("a schema is an object")
        kind = validator_for(schema, default=Draft202012Validator)
        kind.check_schema(schema)
        return kind(schema, registry=Registry())
    except (ValueError, RecursionError, SchemaError) as error:
        raise _BadSchema(str(error)) from error
