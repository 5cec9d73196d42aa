"""Groups of a run by the state that they are in: what is open, and what was settled last."""

from collections.abc import Collection, Iterable, Sequence

from pydantic import BaseModel, ConfigDict

from dapo.bus.ledger import OPEN
from dapo.bus.parts.records import GroupRecord
from dapo.bus.questions import QuestionBus
from dapo.contracts.prompts import prompt_text

_PROMPT_CHARACTERS = 200


class GroupLine(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    group_id: str
    state: str
    """Of the ledger."""
    reason: str
    """Of the state."""
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


def group_line(record: GroupRecord) -> GroupLine:
    task = record.task
    return GroupLine(
        group_id=record.group_id,
        state=record.state,
        reason=record.reason,
        row_id=task.row_id,
        issued_version=task.issued_version,
        prompt=prompt_text(task.prompt)[:_PROMPT_CHARACTERS],
        responses=len(record.grades),
        correct=sum(grade.correct for grade in record.grades),
        group_size=task.group_size,
        evaluation=task.evaluation or None,
    )


def newest(records: Iterable[GroupRecord], states: Collection[str], limit: int) -> list[GroupLine]:
    """Those in one of the states, all states where none is named; the newest first."""
    wanted = [record for record in records if not states or record.state in states]
    return [group_line(record) for record in sorted(wanted, key=_serial, reverse=True)[:limit]]


def _serial(record: GroupRecord) -> tuple[str, str]:
    """Groups of training (g) before those of evaluations (e), each by number."""
    return record.group_id[0], record.group_id[1:]


async def read_records(bus: QuestionBus, states: Collection[str]) -> Sequence[GroupRecord]:
    """Of the groups that have one; of open ones alone, which is quick, where no other is wanted. Raises BusError."""
    if states and set(states) <= OPEN:
        return await bus.groups.read_known(await bus.groups.open_ids())
    return await bus.groups.read_known([group_id for group_id, _ in await bus.groups.stored()])
