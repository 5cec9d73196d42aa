"""What no single grader's options can tell: names that nothing answers to, weighted sums in a circle."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dapo.spec.text.problem import Problem
from dapo.spec.text.wording import shown
from dapo.spec.tree.graders import RegexGrader, UnknownGrader, WeightedGrader, find_grader

if TYPE_CHECKING:
    from dapo.spec.run import RunSpec


def referenced_graders(spec: "RunSpec") -> dict[str, str]:
    """Name of each grader that the spec refers to, and the field that does so first."""
    found = {spec.reward.grader: "reward.grader"}
    sources = {f"data.sources.{name}": source for name, source in spec.data.sources.items()}
    sets = {f"evaluation.sets.{name}": one for name, one in spec.evaluation.sets.items()}
    for field, rows in (sources | sets).items():
        if rows.grader is not None:
            found.setdefault(rows.grader, f"{field}.grader")
    for name, grader in spec.reward.graders.items():
        if isinstance(grader, WeightedGrader):
            for part in grader.parts:
                found.setdefault(part, f"reward.graders.{name}.parts")
    return found


def graders(spec: "RunSpec") -> Iterator[Problem]:
    named = spec.reward.graders
    for name, field in referenced_graders(spec).items():
        try:
            find_grader(name, named)
        except UnknownGrader as error:
            yield Problem(field, shown(name), str(error))
    for name, grader in named.items():
        field = f"reward.graders.{name}"
        if isinstance(grader, RegexGrader):
            try:
                re.compile(grader.pattern)
            except (re.error, OverflowError, RecursionError) as error:
                yield Problem(f"{field}.pattern", shown(grader.pattern), f"is no regular expression: {error}. Mend it")
        elif isinstance(grader, WeightedGrader):
            yield from _weighted(field, grader, spec)


def _weighted(field: str, grader: WeightedGrader, spec: "RunSpec") -> Iterator[Problem]:
    for part in grader.parts:
        if isinstance(spec.reward.graders.get(part), WeightedGrader):
            yield Problem(f"{field}.parts", part, "is a weighted sum itself. Name its parts here instead")
