"""Of the service's machine, and of what is written there."""

from typing import TypedDict


class Share(TypedDict):
    total: int
    free: int


class RunsUnderWay(TypedDict):
    most: int | None
    """So many may be under way at once; None: as many as there is room for."""
    under_way: int


class QueuedRun(TypedDict):
    run_id: str
    position: int
    """From 1."""
    priority: int
    reason: str
    """Why it waits, e.g. "needs 2 GPUs, 1 free of 4"."""


class Agent(TypedDict):
    """With the launcher attached: what runs workers, one at a time."""

    id: str
    role: str
    """Of the workers that it takes."""
    host: str
    gpus: int
    release: str
    """Of dapo."""
    run_id: str
    """Of the worker that it has; empty where it is free."""
    worker_id: str


class Machine(TypedDict):
    """What the service's machine has, and who waits for it."""

    gpus: Share
    cores: Share
    memory: Share
    """Bytes."""
    runs: RunsUnderWay
    queue: list[QueuedRun]
    agents: list[Agent]
    """By id; none with another launcher than attached."""


class Export(TypedDict):
    """A checkpoint as a Hugging Face folder."""

    name: str
    step: int
    """Finished steps of its checkpoint."""
    dtype: str | None
    """As it was asked for; None of an adapter."""
    adapter: bool
    state: str
    """queued, running, succeeded or failed."""
    directory: str
    """On the service's machine; there once it has succeeded."""
    size: int
    """Bytes of all its files."""
    files: dict[str, int]
    """Bytes of each, once it has succeeded."""
    problem: str
    """Why it failed; empty otherwise."""
    warning: str
    """What whoever uses it should know; empty otherwise."""
