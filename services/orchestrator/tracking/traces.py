"""A step as a tree of spans, from what the bus and the step's row know of it. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from dapo.bus.parts.records import GroupFacts
from services.orchestrator.tracking.sink import Row, Trained

Attribute = str | int | float | bool


@dataclass(frozen=True)
class Span:
    name: str
    start_ms: int
    """Unix time, as `end_ms`, which is never before it."""
    end_ms: int
    attributes: Mapping[str, Attribute]
    children: Sequence["Span"] = field(default=())


def step_trace(row: Row, trained: Trained, model: str) -> Span:
    """The step from the first issue of one of `trained.groups` to its end, with a span for each of them, one for the
    training, and one for the weight update.

    Times of groups are those of their trails, by the clock of Redis. The learner tells how long it trained and sent
    weights, not when: these two spans are laid before the end of the step, which is that of the groups' last mark
    where one is there.
    """
    ends = [end for facts in trained.groups if (end := _times(facts).get("trained")) is not None]
    end_ms = max(ends, default=trained.ended_ms)
    sent_ms = end_ms - _milliseconds(row, "weight_sync_s")
    trained_ms = sent_ms - _milliseconds(row, "train_s")
    groups = [one for facts in trained.groups if (one := _group(facts, row, model)) is not None]
    children = (
        *groups,
        Span("train", trained_ms, sent_ms, _of_row(row, _TRAINING)),
        Span("update weights", sent_ms, end_ms, _of_row(row, _SENDING)),
    )
    start_ms = min(child.start_ms for child in children)
    return Span("step", start_ms, end_ms, _of_row(row, _STEP), children)


_STEP = ("step", "staleness_mean", "staleness_max", "accuracy_mean", "reward_mean", "learner_wait_s", "step_s")
_TRAINING = ("trained_responses", "trained_tokens", "updates", "skipped_updates", "loss", "grad_norm")
_SENDING = ("policy_version", "weight_pause_s")


def _of_row(row: Row, names: Sequence[str]) -> dict[str, Attribute]:
    return {f"dapo.{name}": row[name] for name in names if isinstance(row.get(name), int | float)}


def _milliseconds(row: Row, name: str) -> int:
    value = row.get(name)
    return round(1000 * value) if isinstance(value, int | float) else 0


def _times(facts: GroupFacts) -> dict[str, int]:
    """When it first was issued, and when it came to each later state for the last time."""
    found: dict[str, int] = {}
    for mark in facts.marks:
        if mark.what != "issued" or "issued" not in found:
            found[mark.what] = mark.at_ms
    return found


def _group(facts: GroupFacts, row: Row, model: str) -> Span | None:
    times = _times(facts)
    if "issued" not in times or "trained" not in times:
        return None
    record, task = facts.record, facts.record.task
    completions = [grade.completion for grade in record.grades]
    attributes: dict[str, Attribute] = {
        "dapo.group.id": record.group_id,
        "dapo.group.size": task.group_size,
        "dapo.group.deliveries": facts.deliveries,
        "dapo.row.id": task.row_id,
        "dapo.version.issued": task.issued_version,
        "dapo.version.trained": row["step"] - 1,
        "dapo.staleness": row["step"] - 1 - task.issued_version,
    }
    generation: dict[str, Attribute] = {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "sglang",
        "gen_ai.request.model": model,
        "gen_ai.request.choice.count": task.group_size,
        "gen_ai.usage.input_tokens": max((one.prompt_tokens for one in completions), default=0),
        "gen_ai.usage.output_tokens": sum(one.response_tokens for one in completions),
        "dapo.version.min": min((one.version_min for one in completions), default=task.issued_version),
        "dapo.version.max": max((one.version_max for one in completions), default=task.issued_version),
    }
    verification: dict[str, Attribute] = {
        "dapo.grader": task.grader,
        "dapo.correct": sum(grade.correct for grade in record.grades),
    }
    stages: tuple[tuple[str, str, str, Mapping[str, Attribute]], ...] = (
        (f"text_completion {model}", "issued", "generated", generation),
        ("verify", "generated", "scored", verification),
        ("wait for batch", "scored", "batched", {}),
        ("wait for learner and train", "batched", "trained", {}),
    )
    return Span("group", times["issued"], times["trained"], attributes, list(_stages(stages, times)))


def _stages(
    stages: Sequence[tuple[str, str, str, Mapping[str, Attribute]]], times: Mapping[str, int]
) -> Iterator[Span]:
    for name, begin, end, attributes in stages:
        if begin in times and end in times:
            yield Span(name, times[begin], max(times[begin], times[end]), attributes)
