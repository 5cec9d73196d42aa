"""A spec's rules of grading, and how the verifier's tools are told them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dapo.cli.errors import fail

if TYPE_CHECKING:
    from dapo.spec import RunSpec


def spec_of_rules(path: Path | None, overrides: Sequence[str]) -> "RunSpec":
    """The spec in `path`, or one with nothing but defaults: so a refusal reads as it does for a spec.

    Leaves with exit code 2 and one line a problem where it is refused.
    """
    from dapo.spec.load import build_spec, load_spec
    from dapo.spec.problem import SpecError

    try:
        if path is not None:
            return load_spec(path, list(overrides))
        return build_spec({"model": {"path": "."}, "data": {"path": "."}}, list(overrides))
    except SpecError as error:
        fail(str(error))


def rules_arguments(spec: "RunSpec") -> list[str]:
    """As services.verifier.tools.rules reads them."""
    from pydantic import TypeAdapter

    from dapo.spec.tree.graders import GraderSpec

    named = TypeAdapter(dict[str, GraderSpec]).dump_json(spec.named_graders).decode()
    return ["--reward", spec.reward.model_dump_json(exclude={"graders"}), "--graders", named]
