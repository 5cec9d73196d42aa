"""What a source holds, in figures: schema, usable and malformed rows, duplicates, kinds of answers, lengths."""

import json
import math
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from dapo.contracts.prompts import is_started
from dapo.data.dataset import Conflict, Dataset, collect
from dapo.data.errors import Malformed
from dapo.data.rows import Fields, Row
from dapo.data.source import GoldCheck, Scanned, Source, with_problems
from dapo.data.tokens import PromptTokens
from dapo.v1 import messages_pb2 as pb

_BINS = 10
_SHOWN = 5
"""Malformed rows, conflicts and bad gold answers that are listed; all are counted."""
_TOKEN_BATCH = 256
_QUANTILES = (0.5, 0.9, 0.99)


@dataclass(frozen=True)
class Distribution:
    """Of whole numbers. A bin goes up to its bound; the last one, beyond the 0.99 quantile, to the maximum."""

    mean: float
    minimum: int
    quantiles: dict[str, int]
    maximum: int
    bins: list[tuple[int, int]]
    """(upper bound, count), ascending."""


@dataclass(frozen=True)
class Inspection:
    path: str
    fields: Fields
    columns: Sequence[str]
    rows: int
    usable: int
    malformed: int
    first_malformed: list[Malformed]
    duplicates: int
    """Rows whose prompt an earlier row has."""
    conflicts: int
    """Those of them with another gold answer."""
    first_conflicts: list[Conflict]
    golds: dict[str, int]
    """integer, number, text, JSON."""
    bad_golds: int
    """Gold answers that no response can honestly meet; 0 where nobody was asked."""
    first_bad_golds: list[str]
    prompts: dict[str, int]
    """text, messages, messages with a started answer."""
    graders: dict[str, int]
    characters: Distribution
    tokens: Distribution | None
    refused: int
    """Prompts that the model's chat template refuses."""
    samples: list[Row]
    rendered: list[str]
    """The samples as the model reads them, special tokens included; empty where no model was given."""


class _RowMeasures:
    """What one pass over the rows gathers."""

    def __init__(self, counter: PromptTokens | None, samples: int, check: GoldCheck | None) -> None:
        self.bad_golds = 0
        self.first_bad_golds: list[str] = []
        self._check = check
        self.golds: Counter[str] = Counter()
        self.prompts: Counter[str] = Counter()
        self.graders: Counter[str] = Counter()
        self.characters = array("q")
        self.tokens = array("q")
        self.refused = 0
        self.malformed = 0
        self.samples: list[Row] = []
        self._counter = counter
        self._wanted = samples
        self._uncounted: list[pb.Prompt] = []

    def watch(self, items: Iterable[Scanned | Malformed]) -> Iterator[Scanned | Malformed]:
        for item, problem in with_problems(items, self._check):
            if isinstance(item, Scanned):
                self._add(item.row)
                self._note(problem)
            else:
                self.malformed += 1
            yield item
        self._count()

    def _note(self, problem: str) -> None:
        if problem:
            self.bad_golds += 1
            if len(self.first_bad_golds) < _SHOWN:
                self.first_bad_golds.append(problem)

    def _add(self, row: Row) -> None:
        self.golds[gold_kind(row.gold)] += 1
        self.prompts[_prompt_kind(row.prompt)] += 1
        if row.grader is not None:
            self.graders[row.grader] += 1
        self.characters.append(prompt_characters(row.prompt))
        if len(self.samples) < self._wanted:
            self.samples.append(row)
        if self._counter is not None:
            self._uncounted.append(row.prompt)
            if len(self._uncounted) == _TOKEN_BATCH:
                self._count()

    def _count(self) -> None:
        if self._counter is not None:
            for count in self._counter.count(self._uncounted):
                if count is None:
                    self.refused += 1
                else:
                    self.tokens.append(count)
            self._uncounted.clear()


def inspect(
    source: Source,
    items: Iterable[Scanned | Malformed],
    counter: PromptTokens | None = None,
    samples: int = 3,
    check: GoldCheck | None = None,
) -> Inspection:
    """`items` is `source.scan()`, perhaps within a progress bar; `check` tells of gold answers. Raises DatasetError
    where no row is usable."""
    measures = _RowMeasures(counter, samples, check)
    rows, malformed = collect(source, measures.watch(items), limit=len(source), listed=_SHOWN)
    dataset = Dataset([rows])
    duplicates = dataset.duplicates()
    return Inspection(
        path=source.spec.path,
        fields=source.fields,
        columns=source.columns,
        rows=len(source),
        usable=len(dataset),
        malformed=measures.malformed,
        first_malformed=malformed,
        duplicates=duplicates.rows,
        conflicts=len(duplicates.conflicts),
        first_conflicts=duplicates.conflicts[:_SHOWN],
        golds=dict(measures.golds.most_common()),
        bad_golds=measures.bad_golds,
        first_bad_golds=measures.first_bad_golds,
        prompts=dict(measures.prompts.most_common()),
        graders=dict(measures.graders.most_common()),
        characters=distribution(measures.characters),
        tokens=distribution(measures.tokens) if measures.tokens else None,
        refused=measures.refused,
        samples=measures.samples,
        rendered=[] if counter is None else [counter.shown(row.prompt) for row in measures.samples],
    )


def distribution(values: Sequence[int]) -> Distribution:
    """Nearest-rank quantiles. Raises ValueError for no values."""
    if not values:
        raise ValueError("no values have no distribution")
    ordered = sorted(values)
    quantiles = {f"p{share * 100:g}": ordered[math.ceil(share * len(ordered)) - 1] for share in _QUANTILES}
    low, high = ordered[0], quantiles["p99"]
    width = max(1, math.ceil((high - low + 1) / _BINS))
    counts = Counter(min((value - low) // width, _BINS) for value in ordered)
    bounds = [(low + (index + 1) * width - 1, index) for index in range(max(counts) + 1)]
    bins = [(ordered[-1] if index == _BINS else bound, counts[index]) for bound, index in bounds]
    return Distribution(sum(ordered) / len(ordered), low, quantiles, ordered[-1], bins)


def gold_kind(gold: str) -> str:
    """integer, number (as Python or JSON write one), JSON (an object or a list), else text."""
    text = gold.strip()
    if re.fullmatch(r"[+-]?\d+", text, re.ASCII):
        return "integer"
    if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text, re.ASCII):
        return "number"
    if text[:1] in ("[", "{"):
        try:
            json.loads(text)
        except (ValueError, RecursionError):
            return "text"
        return "JSON"
    return "text"


def _prompt_kind(prompt: pb.Prompt) -> str:
    if not prompt.messages:
        return "text"
    return "messages with a started answer" if is_started(prompt) else "messages"


def prompt_characters(prompt: pb.Prompt) -> int:
    """Of the text or of all messages, without what a chat template puts around them."""
    return len(prompt.text) + sum(len(message.content) for message in prompt.messages)
