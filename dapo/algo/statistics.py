"""What a step's groups say about the policy: pure summaries, named as in metrics.jsonl."""

from collections.abc import Iterable, Sequence
from itertools import chain
from math import fsum

from dapo.algo.batches import ScoredGroup, is_truncated
from dapo.algo.dynamic_sampling import is_informative
from dapo.contracts.verdicts import GRADER_FAILURES
from dapo.v1 import messages_pb2 as pb


def summarise_graded(groups: Sequence[ScoredGroup], *, dynamic_sampling: bool = True) -> dict[str, float]:
    """Statistics of the groups of one batch and those that were passed over for it (`Cut.passed`).

    Filtered ones count, so they describe the policy. Shares lie in [0, 1], lengths are in tokens. No groups give an
    empty dictionary; a statistic of texts that no response was measured for has no entry.
    """
    grades = list(chain.from_iterable(group.grades for group in groups))
    if not grades:
        return {}
    return {**_rewards(grades), **_groups(groups, dynamic_sampling), **_texts(groups, grades)}


def summarise_batch(number: int, groups: Sequence[ScoredGroup]) -> dict[str, float]:
    """Statistics of the groups of train batch `number`, staleness in versions. No groups give an empty dictionary."""
    grades = list(chain.from_iterable(group.grades for group in groups))
    if not grades:
        return {}
    staleness = [number - group.issued_version for group in groups]
    return {
        "batch_accuracy_mean": _mean(grade.correct for grade in grades),
        "effective_prompts": float(sum(map(is_informative, map(_verdicts, groups)))),
        "staleness_mean": _mean(staleness),
        "staleness_max": float(max(staleness)),
    }


def _rewards(grades: Sequence[pb.Grade]) -> dict[str, float]:
    return {
        "accuracy_mean": _mean(grade.correct for grade in grades),
        "reward_mean": _mean(grade.reward for grade in grades),
        "accuracy_reward_mean": _mean(grade.reward - grade.overlong_penalty for grade in grades),
        "overlong_penalty_mean": _mean(grade.overlong_penalty for grade in grades),
        "correct_penalised_share": _mean(grade.correct and grade.overlong_penalty < 0 for grade in grades),
        "response_length_mean": _mean(grade.completion.response_tokens for grade in grades),
        "truncated_share": _mean(is_truncated(grade.completion) for grade in grades),
        "salvaged_tokens": float(sum(grade.completion.salvaged_tokens for grade in grades)),
        "unclosed_thinking_share": _mean(grade.unclosed_thinking for grade in grades),
        "grader_failed_share": _mean(grade.reason in GRADER_FAILURES for grade in grades),
    }


def _groups(groups: Sequence[ScoredGroup], dynamic_sampling: bool) -> dict[str, float]:
    verdicts = list(map(_verdicts, groups))
    return {
        "keep_rate": _mean(map(is_informative, verdicts)) if dynamic_sampling else 1.0,
        "all_correct_share": _mean(map(all, verdicts)),
        "all_wrong_share": _mean(not any(verdict) for verdict in verdicts),
        "distinct_answers_mean": _mean(len({grade.extracted for grade in group.grades}) for group in groups),
    }


def _texts(groups: Sequence[ScoredGroup], grades: Sequence[pb.Grade]) -> dict[str, float]:
    measured = [grade for grade in grades if grade.HasField("fingerprint")]
    if not measured:
        return {}
    found = {
        "repetition_rate": _mean(grade.repetition for grade in measured),
        "reflection_share": _mean(grade.reflection for grade in measured),
    }
    # A group of which a response was not measured would look less diverse than it is.
    whole = [group for group in groups if all(grade.HasField("fingerprint") for grade in group.grades)]
    if whole:
        found["distinct_responses_mean"] = _mean(len({grade.fingerprint for grade in group.grades}) for group in whole)
    return found


def _verdicts(group: ScoredGroup) -> list[bool]:
    return [grade.correct for grade in group.grades]


def _mean(values: Iterable[float]) -> float:
    """Of at least one value; its sum is exact."""
    numbers = list(values)
    return fsum(numbers) / len(numbers)
