"""What is read of a run: curves, the pipeline, samples, evaluations, groups."""

from typing import NotRequired, TypedDict


class Series(TypedDict):
    """Metrics by step."""

    step: list[int]
    """Ascending."""
    columns: dict[str, list[float | None]]
    """By metric, a value for each of `step`; None where it was not measured."""
    units: dict[str, str]
    """By metric."""
    last_step: int
    """The newest finished step; 0: none."""


class Stream(TypedDict):
    name: str
    reader: str
    """Role that consumes it."""
    depth: int
    """Entries that nobody has done with: groups, on `completions` responses."""
    oldest_s: float | None
    """How long the oldest has been in the hands of its worker or, where none has it, on the stream."""
    oldest_group: str | None
    oldest_worker: str | None


class Generator(TypedDict):
    id: str
    state: str
    """starting, ready, updating, evaluating or stopped."""
    version: int | None
    """Step of the weights that it serves."""
    running: int
    """Requests in its engine."""
    generated_tokens: int
    """Since it started."""
    busy_share: float | None
    """Of the time since it started in which it had something to generate."""
    evaluates: bool
    """It does nothing but evaluate."""
    devices: list[str]
    """GPUs of its engine; none on a CPU."""


class Workers(TypedDict):
    wanted: list[str]
    alive: list[str]
    """Those whose heart beats."""


class Learner(Workers):
    training: bool
    """A batch is cut and not yet trained on."""
    step: int
    """That it trains, or waits to train; from 1."""


class Bottleneck(TypedDict):
    stage: str
    share: float
    """0 to 1."""
    text: str
    """The number that says so, in a sentence."""


class Demand(TypedDict):
    generators: int
    """Wanted, so that they keep up with the learner."""
    running: int
    """That the run is to have now."""
    balance: float | None
    """The number before it is rounded; None before enough steps were measured."""
    reason: str


class Pipeline(TypedDict):
    """What stands where now; of a run that has ended only `groups` and `bottleneck`."""

    live: bool
    version: int | None
    """Step of the newest weights that every ready generator serves."""
    groups: dict[str, int]
    """By state of the ledger."""
    streams: list[Stream]
    generators: list[Generator]
    verifiers: Workers | None
    learner: Learner | None
    """None without training."""
    bottleneck: Bottleneck | None
    """The slowest stage of the last steps; None before one was measured."""
    demand: Demand | None
    """None without training."""


class SampleResponse(TypedDict):
    index: int
    text: str | None
    """None: it was deleted before the group was archived."""
    correct: bool
    score: float | None
    reason: str
    extracted: str
    tokens: int
    truncated: bool
    reward: float | None
    penalty: float | None
    version_min: int
    version_max: int
    parts: dict[str, float | None]


class Sample(TypedDict):
    """A group with its responses and verdicts."""

    step: int
    """Of a group of an evaluation: that whose weights were evaluated."""
    set: str | None
    """Evaluation set; None: training."""
    group_id: str
    row_id: str
    prompt: str
    gold: str
    grader: str
    outcome: str
    responses: list[SampleResponse]


class SamplePage(TypedDict):
    samples: list[Sample]
    """The newest first."""
    cursor: str
    """Where the next page begins; "": there is none. A page may be empty and have a next one all the same."""


class Interval(TypedDict):
    value: float
    low: float
    high: float


class Evaluation(TypedDict):
    """A line of evaluations.jsonl (docs/evaluation.md), which has more keys than these."""

    step: int
    set: str
    samples: NotRequired[int]
    """k: responses a problem; not where every problem failed."""
    avg_at_k: Interval | None
    """None where every problem failed."""
    pass_at_k: NotRequired[dict[str, Interval]]
    maj_at_k: NotRequired[dict[str, Interval]]


class GroupLine(TypedDict):
    group_id: str
    state: str
    """Of the ledger."""
    reason: str
    row_id: str
    issued_version: int
    prompt: str
    """Its first 200 characters."""
    responses: int
    """Graded ones."""
    correct: int
    group_size: int
    evaluation: str | None
    """Set of the evaluation that it belongs to; None: it is for training."""
