"""RunSpec: everything a run is made of, as one tree that YAML, REST and gRPC share."""

from typing import Self

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from dapo.spec.checks.all import find_problems
from dapo.spec.tree.run import RunTree


class RunSpec(RunTree):
    """The fields of a run, which have been found to go together."""

    @model_validator(mode="after")
    def _check_across_fields(self) -> Self:
        if problems := find_problems(self):
            text = "\n".join(map(str, problems))
            raise PydanticCustomError("spec_problems", "{text}", {"text": text, "problems": problems})
        return self
