"""The same prompts' answers over the evaluations of one set. Pure."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from dapo.records.samples import Group, Sample

Change = Literal["became right", "became wrong", ""]


class Cell(NamedTuple):
    """One prompt at one step."""

    correct: int
    """How many of the responses are correct."""
    total: int
    answer: str
    """The answer that was extracted most often, of several the first; where none was, the first response's text."""

    @property
    def right(self) -> bool:
        """More than half of the responses are correct."""
        return 2 * self.correct > self.total


class PromptAnswers(NamedTuple):
    row_id: str
    prompt: str
    gold: str
    cells: dict[int, Cell]
    """By step, ascending. Steps at which the prompt has no responses are missing."""

    @property
    def change(self) -> Change:
        """How the first step differs from the last."""
        first, last = (self.cells[step].right for step in (min(self.cells), max(self.cells)))
        if first == last:
            return ""
        return "became right" if last else "became wrong"


def make_cell(sample: Sample) -> Cell:
    answers = Counter(response.extracted for response in sample.responses if response.extracted)
    answer = answers.most_common(1)[0][0] if answers else sample.responses[0].text or ""
    return Cell(sample.correct_count, len(sample.responses), answer)


def collect_answers(groups: Iterable[Group]) -> list[PromptAnswers]:
    """One for each prompt, in order of first appearance. Prompts are the same where row id and text are."""
    found: dict[tuple[str, str], PromptAnswers] = {}
    for step, sample in groups:
        fresh = PromptAnswers(sample.row_id, sample.prompt, sample.gold, {})
        found.setdefault((sample.row_id, sample.prompt), fresh).cells[step] = make_cell(sample)
    return [one._replace(cells=dict(sorted(one.cells.items()))) for one in found.values()]


def changed_first(prompts: Iterable[PromptAnswers]) -> list[PromptAnswers]:
    """Those that became right, then those that became wrong, then the others."""
    order: list[Change] = ["became right", "became wrong", ""]
    return sorted(prompts, key=lambda prompt: order.index(prompt.change))


def spread(steps: Sequence[int], count: int) -> list[int]:
    """At most `count` ≥ 2 of the steps, evenly apart, with the first and the last."""
    if len(steps) <= count:
        return list(steps)
    return [steps[round(at * (len(steps) - 1) / (count - 1))] for at in range(count)]
