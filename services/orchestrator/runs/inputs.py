"""What a run reads: the rows it trains on, and those it is evaluated with."""

from typing import NamedTuple

from dapo.data import Dataset, DatasetError, open_source, open_splits
from dapo.spec.run import RunSpec
from dapo.spec.tree.evaluation import HELD_OUT
from services.orchestrator.control.evaluation import EvaluationSetting


class Inputs(NamedTuple):
    training: Dataset
    evaluation: list[EvaluationSetting]
    excluded: int
    """Rows left out of the training because an evaluation set asks the same prompt."""


def open_inputs(spec: RunSpec) -> Inputs:
    """Reads the files through. Raises DatasetError where one of them cannot be used."""
    whole, held_out = open_splits(spec.data)
    settings = _settings(spec, held_out)
    if not (spec.evaluation.exclude_from_training and spec.training.steps):
        return Inputs(whole, settings, 0)
    training = whole
    for setting in settings:
        training = training.without(setting.dataset.prompt_hashes())
    if not len(training):
        raise DatasetError(
            "every prompt to train on occurs in an evaluation set. Give other data, or set "
            "evaluation.exclude_from_training to false"
        )
    return Inputs(training, settings, len(whole) - len(training))


def _settings(spec: RunSpec, held_out: Dataset | None) -> list[EvaluationSetting]:
    found = [
        EvaluationSetting(name, open_source(one, name), one.samples or spec.evaluation.samples)
        for name, one in spec.evaluation.sets.items()
    ]
    if held_out is not None:
        found.append(EvaluationSetting(HELD_OUT, held_out, spec.evaluation.samples))
    return found


def input_problems(inputs: Inputs) -> list[str]:
    """What a user should know of rows that are left out."""
    found = []
    for dataset in (inputs.training, *(one.dataset for one in inputs.evaluation)):
        if dataset.malformed:
            first = dataset.malformed[0]
            found.append(
                f"{len(dataset.malformed)} malformed rows are left out; the first is line {first.line} of "
                f"{first.file}: {first.reason}"
            )
    for one in inputs.evaluation:
        if repeated := one.dataset.duplicates().rows:
            found.append(
                f"{repeated} prompts of {one.name} stand in it before: they count as problems of their own, and its "
                "intervals are too narrow"
            )
    if inputs.excluded:
        found.append(f"{inputs.excluded} rows are left out of the training: evaluation sets ask the same prompts")
    return found
