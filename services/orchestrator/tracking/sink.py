"""What a place is that a run can be told to, and what it is told."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

from pydantic import BaseModel

from dapo.bus.parts.records import GroupFacts
from dapo.spec.run import RunSpec

Row = Mapping[str, Any]
"""As in metrics.jsonl, or as in evaluations.jsonl."""


class TrackedRun(NamedTuple):
    run_id: str
    run_dir: Path
    spec: RunSpec


class Trained(NamedTuple):
    """What is known of a step besides its row, shortly after it."""

    groups: Sequence[GroupFacts]
    """Some of its batch."""
    ended_ms: int
    """Unix time."""


class Told(BaseModel):
    """How far a place has been told of a run; kept in RUN_DIR/tracking/NAME.json."""

    starts: int = 0
    """Of the run, as far as this place knows. The newest one writes here."""
    records: int = 0
    """Rows and evaluations, in all starts of the run together."""
    step: int = 0
    evaluations: dict[str, int] = {}
    """By set, the step of the last one."""

    def lacks(self, evaluation: Row) -> bool:
        return bool(evaluation["step"] > self.evaluations.get(evaluation["set"], -1))

    def rewind(self, step: int) -> None:
        """What came after that step is told again."""
        self.step = min(self.step, step)
        self.evaluations = {name: min(last, step) for name, last in self.evaluations.items()}


class Sink(Protocol):
    """Called from one thread, in order. A call may take as long as it takes, and raise what its library raises: then
    another sink is made, which begins where this one had come to."""

    rewinds: ClassVar[bool]
    """Steps that are trained again are told again, in the place of those before; else the first word stands."""
    forgets: ClassVar[bool]
    """`begin` drops what the place has of later steps than the last one told, evaluations of them included."""

    def begin(self, run: TrackedRun, told: Told) -> None:
        """Open what there is of the run, or make it. First call."""

    def step(self, row: Row, record: int, trained: Trained | None) -> None:
        """`record` counts what is told from 0, over all starts. `trained`: where it is known."""

    def evaluation(self, row: Row, record: int) -> None: ...

    def alert(self, message: str) -> None: ...

    def end(self, state: str, message: str) -> None:
        """What was told has arrived when this returns. `state`: succeeded, failed or stopped."""

    def close(self) -> None:
        """Let go of everything. Last call, whatever was called before it or has failed."""
