"""Finds the fields that hold the prompt and the gold answer, by names and values that common datasets use.

verl: `prompt` (messages) and `reward_model.ground_truth`. TRL: `prompt` (text or messages) and a column for the reward
functions, in its examples `solution`, `answer` or `ground_truth`. GSM8K: `question` and `answer`, whose gold answer
follows `####`. MATH: `problem` and `answer`.
"""

from collections.abc import Sequence
from typing import Any

from dapo.data.errors import DatasetError, RowError
from dapo.data.rows import Fields, decoded, find
from dapo.spec.tree.data import SourceSpec

SAMPLE_ROWS = 100
_VERL_GOLD = "reward_model.ground_truth"
_PROMPTS = (("prompt", "question", "problem", "query"),)
# A name counts only where none of those before it is there: `solution` beside `answer` is worked out at length.
_GOLDS = (
    (_VERL_GOLD,),
    ("answer", "ground_truth", "gold", "gold_answer", "final_answer", "expected_answer"),
    ("solution", "target", "label"),
)
_GSM8K_MARK = "####"


def detect(what: str, sample: Sequence[dict[str, Any]], columns: Sequence[str] | None, spec: SourceSpec) -> Fields:
    """The fields of a source: those that are set, the others detected in the first rows.

    Raises DatasetError with the columns where a field that is set is missing, or where no field or several fit.
    """
    known = list(columns) if columns is not None else list(dict.fromkeys(name for row in sample for name in row))
    for option, field in (("prompt_field", spec.prompt_field), ("gold_field", spec.gold_field)):
        if field is not None and field not in known and field.split(".")[0] not in known:
            raise DatasetError(f"{what} has no column {field!r} (it has {', '.join(known)}): mend {option}")
    gold = spec.gold_field
    if gold is None:
        gold = _choose(what, "gold_field", "gold answer", _GOLDS, sample, known)
    prompt = spec.prompt_field
    if prompt is None:
        prompt = "prompt" if gold == _VERL_GOLD and _values(sample, "prompt") else None
    if prompt is None:
        prompt = _choose(what, "prompt_field", "prompt", _PROMPTS, sample, known)
    gold_after = spec.gold_after
    if gold_after is None and spec.gold_field is None and _is_worked_out(sample, prompt, gold):
        gold_after = _GSM8K_MARK
    set_by_hand = spec.prompt_field is not None and spec.gold_field is not None
    return Fields(_schema(sample, prompt, gold, set_by_hand), prompt, gold, gold_after, spec.grader_field)


def _choose(
    what: str, option: str, meaning: str, tiers: Sequence[Sequence[str]], sample: Sequence[dict[str, Any]],
    columns: Sequence[str],
) -> str:  # fmt: skip
    for tier in tiers:
        found = {field: values for field in tier if (values := _values(sample, field))}
        if not found:
            continue
        first, *others = found
        if all(found[other] == found[first] for other in others):
            return first
        raise DatasetError(
            f"{what}: {' and '.join(found)} could each be the {meaning}: set {option} to one of them (columns: "
            f"{', '.join(columns)})"
        )
    names = ", ".join(name for tier in tiers for name in tier)
    raise DatasetError(
        f"{what}: no column looks like the {meaning} (columns: {', '.join(columns) or 'none'}; looked for {names}): "
        f"set {option}"
    )


def _values(sample: Sequence[dict[str, Any]], field: str) -> list[Any]:
    """The field's values in the sample, or nothing where every row lacks it."""
    values = []
    for row in sample:
        try:
            values.append(find(row, field))
        except RowError:
            values.append(None)
    return values if any(value not in (None, "", [], {}) for value in values) else []


def _is_worked_out(sample: Sequence[dict[str, Any]], prompt: str, gold: str) -> bool:
    """Whether the gold answers of most rows follow GSM8K's mark. Most is enough: a row without it is malformed."""
    texts = [value for value in _values(sample, gold) if value is not None]
    marked = sum(isinstance(text, str) and _GSM8K_MARK in text for text in texts)
    return prompt == "question" and 2 * marked > len(texts)


def _schema(sample: Sequence[dict[str, Any]], prompt: str, gold: str, set_by_hand: bool) -> str:
    if gold == _VERL_GOLD:
        return "verl"
    if set_by_hand:
        return "as set"
    conversational = any(isinstance(decoded(value), list) for value in _values(sample, prompt))
    match prompt, gold:
        case "question", "answer":
            return "GSM8K"
        case "problem", "answer" | "solution":
            return "MATH"
        case "prompt", _ if conversational or gold in ("solution", "ground_truth"):
            return "TRL"
    return f"{prompt}/{gold}"
