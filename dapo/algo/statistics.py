"""What a step's groups say about the policy: pure summaries, named as in metrics.jsonl."""

from collections.abc import Sequence
from itertools import chain
from math import fsum

from dapo.algo.batches import ScoredGroup, is_truncated
from dapo.algo.dynamic_sampling import is_informative


def summarise_graded(groups: Sequence[ScoredGroup], *, dynamic_sampling: bool = True) -> dict[str, float]:
    """Over all groups graded since the last batch was cut, filtered ones included: the policy as it is.

    Shares lie in [0, 1], lengths are in tokens. No groups give an empty dictionary.
    """
    grades = list(chain.from_iterable(group.grades for group in groups))
    if not grades:
        return {}
    verdicts = [[grade.correct for grade in group.grades] for group in groups]
    kept = sum(map(is_informative, verdicts)) if dynamic_sampling else len(groups)
    return {
        "accuracy_mean": sum(grade.correct for grade in grades) / len(grades),
        "reward_mean": fsum(grade.reward for grade in grades) / len(grades),
        "response_length_mean": sum(grade.completion.response_tokens for grade in grades) / len(grades),
        "truncated_share": sum(map(is_truncated, grades)) / len(grades),
        "keep_rate": kept / len(groups),
        "all_correct_share": sum(map(all, verdicts)) / len(groups),
        "all_wrong_share": sum(not any(verdict) for verdict in verdicts) / len(groups),
    }


def summarise_batch(number: int, groups: Sequence[ScoredGroup]) -> dict[str, float]:
    """Over the groups of train batch `number`. Staleness is in versions. No groups give an empty dictionary."""
    grades = list(chain.from_iterable(group.grades for group in groups))
    if not grades:
        return {}
    staleness = [number - group.issued_version for group in groups]
    return {
        "batch_accuracy_mean": sum(grade.correct for grade in grades) / len(grades),
        "staleness_mean": sum(staleness) / len(staleness),
        "staleness_max": float(max(staleness)),
    }
