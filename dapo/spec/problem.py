"""What is wrong with a spec, one problem a line, for people and for machines."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    field: str
    """Dotted path such as `optimizer.learning_rate`; empty where the text as a whole is at fault."""
    value: str | None
    """The refused value as YAML text, shortened; None where there is none to show."""
    message: str
    """What is wrong, then the cure."""

    def __str__(self) -> str:
        if not self.field:
            return self.message
        shown = self.field if self.value is None else f"{self.field} = {self.value}"
        return f"{shown}: {self.message}"


class SpecError(ValueError):
    """A spec was refused. `str()` gives one line per problem."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))
