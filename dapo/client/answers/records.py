"""What is known of a group, and what was taken out of circulation."""

from typing import TypedDict


class DeadLetter(TypedDict):
    """Something that was taken out of circulation."""

    id: str
    group: str
    """Empty where the entry named none."""
    reason: str
    detail: str
    explanation: str
    """The reason in a sentence."""
    at: str
    """ISO 8601, UTC."""


class Happening(TypedDict):
    at: str
    """ISO 8601, UTC, by the clock of Redis."""
    what: str
    """A state that the group went to, or claimed, handed_back, refilled."""
    worker: str
    """Who lost the try."""
    successor: str
    """Of claimed: who took it over."""
    engine_lost: bool
    """Of handed_back: because the engine was lost."""
    index: int | None
    """Of refilled: the response."""
    attempt: int | None
    """Of refilled: of the response that was lost."""


class VersionUse(TypedDict):
    """Tokens [start, end) of a response were sampled by the weights of a step."""

    step: int
    start: int
    end: int


class GroupVerdict(TypedDict):
    correct: bool
    score: float | None
    """The grader's; like every number here None where it was not finite."""
    reward: float | None
    """Shaped: with the penalty."""
    penalty: float | None
    reason: str
    extracted: str
    parts: dict[str, float | None]


class GroupResponse(TypedDict):
    index: int
    generator: str
    delivery: int
    """Which delivery of the prompt it came from, from 1."""
    retry: int
    """Which try of that delivery, from 1."""
    prompt_tokens: int
    tokens: int
    salvaged: int
    """Of these tokens, those that an earlier request had sampled when it was cut short."""
    truncated: bool
    """Cut at the token limit."""
    version_min: int
    version_max: int
    versions: list[VersionUse]
    verdict: GroupVerdict | None
    """None: not graded yet."""


class GroupFailure(TypedDict):
    reason: str
    detail: str
    explanation: str
    """The reason in a sentence."""


class GroupHolder(TypedDict):
    stream: str
    response: int | None
    """Index of the response that waits for its grade; None: the entry is the whole group's."""
    worker: str
    """Empty: nobody has read the entry yet."""
    alive: bool
    held_s: float


class GroupExplanation(TypedDict):
    """All that is known of a group; docs/why.md tells more of each field."""

    group_id: str
    state: str
    """Of the ledger."""
    reason: str
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
    """The failed group whose prompt this one issues once more; "": none."""
    requeued_as: str
    """The group that issues this failed one's prompt once more; "": none."""
    failure: GroupFailure | None
    """The first dead letter that names it."""
    happenings: list[Happening]
    """Oldest first."""
    happenings_lost: int
    """After the first one, since there were too many."""
    missing: list[int]
    """Indices without a response, of a group that waits for them."""
    responses: list[GroupResponse]
    """By index; those that were lost are not among them."""
    holders: list[GroupHolder]
    """Who has what the group waits for, of one that is not settled."""
