"""Why a group is what it is: the structure that answers, made of what the bus knows of it. Pure.

A program reads GroupExplanation itself, a person what dapo/records/explained.py makes of it.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field

from dapo.algo.batches import is_truncated
from dapo.bus import RETRIES
from dapo.bus.failures import explain_failure
from dapo.bus.parts.records import GroupFacts, Mark
from dapo.bus.parts.streams import Holder
from dapo.contracts.prompts import prompt_text
from dapo.records.json_lines import json_number
from dapo.v1 import messages_pb2 as pb

_TEXT_CHARACTERS = 2_000
"""Of a prompt or an answer; of a longer one the beginning is kept."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class Happening(_Record):
    at: str
    """ISO 8601, UTC, by the clock of Redis."""
    what: str
    """A state that the group went to, or claimed, handed_back, refilled."""
    worker: str = ""
    """Who lost the try: claimed from, handed back by, refilled since its response was lost."""
    successor: str = ""
    """Of claimed: who took it over."""
    engine_lost: bool = False
    """Of handed_back: because the engine was lost."""
    index: int | None = None
    """Of refilled: the response."""
    attempt: int | None = None
    """Of refilled: of the response that was lost."""


class VersionUse(_Record):
    """Tokens [start, end) of a response were sampled by the weights of a step."""

    step: int
    start: int
    end: int


class GroupVerdict(_Record):
    correct: bool
    score: float | None
    """The grader's; like every number here None where it was not finite."""
    reward: float | None
    """Shaped: with the penalty."""
    penalty: float | None
    reason: str
    extracted: str
    parts: dict[str, float | None] = Field(default={})


class GroupResponse(_Record):
    index: int
    generator: str
    delivery: int
    """Which delivery of the prompt it came from, from 1."""
    retry: int
    """Which try of that delivery, from 1."""
    prompt_tokens: int
    tokens: int
    salvaged: int = 0
    """Of these tokens, those that an earlier request had sampled when it was cut short."""
    truncated: bool
    """Cut at the token limit."""
    version_min: int
    version_max: int
    versions: tuple[VersionUse, ...]
    """Empty where the record is of a release that did not keep them."""
    verdict: GroupVerdict | None
    """None: not graded yet."""


class GroupFailure(_Record):
    reason: str
    detail: str
    explanation: str
    """The reason in a sentence."""


class GroupHolder(_Record):
    stream: str
    response: int | None
    """Index of the response that waits for its grade; None: the entry is the whole group's."""
    worker: str
    """Empty: nobody has read the entry yet."""
    alive: bool
    held_s: float


class GroupExplanation(_Record):
    """All that is known of a group."""

    group_id: str
    state: str
    """Of the ledger."""
    reason: str
    """Of the state, as the ledger has it."""
    evaluation: str | None
    """Set of the evaluation that it belongs to; None: it is for training."""
    row_id: str
    epoch: int
    cursor: int
    """Position in the epoch's order."""
    prompt: str
    """Its first 2,000 characters, as of the other texts."""
    gold: str
    grader: str
    group_size: int
    issued_version: int
    """Step of the weights that were published when it was issued."""
    deliveries: int
    """Times that its prompt was handed out, or put on its stream for that."""
    batch: int | None
    step: int | None
    """That trained on it, or will: batch + 1."""
    requeued_from: str
    """The failed group whose prompt this one issues once more; empty: none."""
    requeued_as: str
    """The group that issues this failed one's prompt once more; empty: none."""
    failure: GroupFailure | None
    """The first dead letter that names it."""
    happenings: tuple[Happening, ...]
    """Oldest first."""
    happenings_lost: int
    """After the first one, since there were too many."""
    missing: tuple[int, ...]
    """Indices without a response, of a group that waits for them."""
    responses: tuple[GroupResponse, ...]
    """By index; those that were lost are not among them."""
    holders: tuple[GroupHolder, ...]
    """Who has what the group waits for, of one that is not settled."""


def explain_group(facts: GroupFacts, letter: dict[str, str] | None, holders: Sequence[Holder]) -> GroupExplanation:
    """`letter`: the dead letter that the facts name, where it is still there."""
    record, task = facts.record, facts.record.task
    responses = [_response(grade.completion, grade) for grade in record.grades]
    responses += [_response(completion, None) for completion in facts.ungraded]
    there = {response.index for response in responses}
    return GroupExplanation(
        group_id=record.group_id,
        state=record.state,
        reason=record.reason,
        evaluation=task.evaluation or None,
        row_id=task.row_id,
        epoch=task.epoch,
        cursor=task.cursor,
        prompt=_cut(prompt_text(task.prompt)),
        gold=_cut(task.gold),
        grader=task.grader,
        group_size=task.group_size,
        issued_version=task.issued_version,
        deliveries=facts.deliveries,
        batch=facts.batch,
        step=None if facts.batch is None else facts.batch + 1,
        requeued_from=task.requeued_from,
        requeued_as=facts.requeued_as,
        failure=_failure(letter, record.state, record.reason),
        happenings=tuple(map(_happening, facts.marks)),
        happenings_lost=facts.marks_lost,
        missing=tuple(index for index in range(task.group_size) if record.state == "issued" and index not in there),
        responses=tuple(sorted(responses, key=lambda response: response.index)),
        holders=tuple(
            GroupHolder(
                stream=one.stream, response=one.response, worker=one.worker_id, alive=one.alive, held_s=one.held_s
            )
            for one in holders
        ),
    )


def iso(at_ms: int) -> str:
    """Unix time in milliseconds as ISO 8601 in UTC."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")


def _happening(mark: Mark) -> Happening:
    at, words = iso(mark.at_ms), mark.words
    match mark.what, words:
        case "claimed", [dead, successor]:
            return Happening(at=at, what=mark.what, worker=_worker(dead), successor=_worker(successor))
        case "handed_back", [worker, lost]:
            return Happening(at=at, what=mark.what, worker=_worker(worker), engine_lost=lost == "1")
        case "refilled", [index, generator, attempt]:
            return Happening(at=at, what=mark.what, worker=generator, index=int(index), attempt=int(attempt))
    return Happening(at=at, what=mark.what)


def _worker(consumer: str) -> str:
    """Without the instance."""
    return consumer.rpartition("/")[0]


def _response(completion: pb.Completion, grade: pb.Grade | None) -> GroupResponse:
    return GroupResponse(
        index=completion.index,
        generator=completion.generator_id,
        delivery=completion.attempt // RETRIES + 1,
        retry=completion.attempt % RETRIES + 1,
        prompt_tokens=completion.prompt_tokens,
        tokens=completion.response_tokens,
        salvaged=completion.salvaged_tokens,
        truncated=is_truncated(completion),
        version_min=completion.version_min,
        version_max=completion.version_max,
        versions=tuple(VersionUse(step=s.version.step, start=s.start, end=s.end) for s in completion.spans),
        verdict=None if grade is None else _verdict(grade),
    )


def _verdict(grade: pb.Grade) -> GroupVerdict:
    return GroupVerdict(
        correct=grade.correct,
        score=json_number(grade.score),
        reward=json_number(grade.reward),
        penalty=json_number(grade.overlong_penalty),
        reason=grade.reason,
        extracted=_cut(grade.extracted),
        parts={name: json_number(score) for name, score in sorted(grade.parts.items())},
    )


def _failure(letter: dict[str, str] | None, state: str, reason: str) -> GroupFailure | None:
    if letter is not None:
        named = letter["reason"]
        return GroupFailure(reason=named, detail=letter["detail"], explanation=explain_failure(named))
    return GroupFailure(reason=reason, detail="", explanation=explain_failure(reason)) if state == "failed" else None


def _cut(text: str) -> str:
    return text if len(text) <= _TEXT_CHARACTERS else f"{text[:_TEXT_CHARACTERS]} […]"
