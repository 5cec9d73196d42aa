"""Of runs."""

from typing import Any, NamedTuple, TypedDict


class Run(TypedDict):
    """What the service says of a run."""

    id: str
    state: str
    """queued, starting, running, draining, succeeded, failed, stopped or cancelled."""
    run_dir: str
    """Folder of the run on the service's machine."""
    message: str
    """Why the run failed, stopped or waits, or why nobody leads it; "" otherwise."""
    step: int
    """Finished steps."""
    steps_total: int
    created_at: str
    """ISO 8601, in UTC."""
    ledger: dict[str, int]
    """Number of groups by ledger state."""
    name: str
    """As the spec has it."""
    labels: dict[str, str]
    notes: str
    priority: int
    """-100 to 100; of queued runs the highest starts first."""
    queue_position: int | None
    """From 1; None where it is not queued."""


class RunEvent(NamedTuple):
    """Something that happened in a run."""

    id: str
    kind: str
    """state, step, service, evaluation or alert."""
    data: dict[str, Any]


class Checkpoint(TypedDict):
    step: int
    """Finished steps."""
    directory: str
    size: int
    """Bytes."""
    damage: str
    """What is the matter with it; "" where it is whole."""


class Identity(TypedDict):
    """Whose token it is."""

    name: str
    """Empty where the service wants none."""
    scope: str
    """read, run or admin."""
