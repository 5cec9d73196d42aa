"""A failed group's prompt that is issued once more: no row of the data is lost or comes twice by it, whoever dies."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from dapo.algo.dynamic_sampling import KeepRate, Resting
from dapo.algo.pacing import Pacing
from dapo.bus import Bus
from dapo.bus.failures import FailureReason
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.contracts.events import Event
from services.orchestrator.control.issuer import NotRequeued, PromptIssuer
from services.orchestrator.runs.inputs import open_inputs
from tests.support.bus import drive, group_id
from tests.support.orchestrator.control import make_spec

ROWS = 9


class Life:
    """An issuer in one process; the next one takes up what is in Redis."""

    def __init__(self, bus: Bus, tmp_path: Path) -> None:
        self.bus = bus
        self.spec = make_spec(tmp_path, staleness=1, rows=ROWS)
        self.dataset = open_inputs(self.spec).training
        self.epoch = 0
        self.issuer: PromptIssuer

    async def begin(self) -> None:
        async def emit(event: Event) -> None:
            raise AssertionError(event)

        pacing = Pacing(prompts_per_step=4, max_staleness=1, steps=10, keep_rate=KeepRate())
        resting = Resting(None, 1)
        self.issuer = PromptIssuer(self.bus, self.spec, self.dataset, pacing, resting, emit)
        self.epoch = await self.bus.lease.acquire("orchestrator")
        self.issuer.take_up(await self.bus.decisions.read())

    async def issue(self, count: int) -> None:
        await self.issuer.issue(count, 0, self.epoch)

    async def fail(self, number: int, reason: FailureReason = FailureReason.GRADER_FAILED) -> None:
        await self.bus.groups.fail(group_id(number), reason)

    async def requeue(self, number: int) -> None:
        await self.issuer.requeue(await self.bus.groups.facts(group_id(number)), self.epoch)

    async def rows(self, numbers: Sequence[int]) -> list[tuple[str, str]]:
        tasks = await self.bus.groups.read_tasks([group_id(number) for number in numbers])
        return [(task.row_id, task.requeued_from) for task in tasks]


@pytest.mark.parametrize("deaths", range(8))
def test_it_comes_next_under_a_new_number_and_moves_no_other_prompt(
    valkey: EmbeddedValkey, tmp_path: Path, deaths: int
) -> None:
    """`deaths`: at which of three moments another issuer takes over, a bit each."""

    async def scenario(bus: Bus) -> None:
        life = Life(bus, tmp_path)

        async def moment(bit: int) -> None:
            if deaths >> bit & 1:
                await life.begin()

        await life.begin()
        await life.issue(3)
        await life.fail(1)
        await life.requeue(1)
        await life.requeue(1)
        await moment(0)
        await life.issue(1)
        await moment(1)
        await life.issue(2)
        await moment(2)
        await life.issue(ROWS - 5)

        order = await life.rows(range(10))
        assert order[3] == (order[1][0], group_id(1))
        others = [row for row, failed in order if not failed]
        assert sorted(others) == sorted(set(others)), "an epoch has every row once"
        assert len(others) == ROWS
        assert (await bus.groups.facts(group_id(1))).requeued_as == group_id(3)
        assert (await bus.decisions.read()).requeued == []
        counts = await bus.groups.ledger()
        assert (counts["failed"], sum(counts.values()), await bus.groups.issued_total()) == (1, 10, 10)
        assert life.issuer.rested == 0, "no place of the data was left out"
        with pytest.raises(NotRequeued, match=f"that was done before, as {group_id(3)}"):
            await life.requeue(1)

    drive(valkey.url, scenario)


def test_what_was_issued_once_more_may_fail_and_come_again(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    async def scenario(bus: Bus) -> None:
        life = Life(bus, tmp_path)
        await life.begin()
        await life.issue(1)
        for number in range(3):
            await life.fail(number)
            await life.requeue(number)
            await life.issue(1)
        order = await life.rows(range(4))
        assert {row for row, _ in order} == {order[0][0]}
        assert [failed for _, failed in order] == ["", *map(group_id, range(3))]

    drive(valkey.url, scenario)


def test_a_checkpoint_that_has_it_unsettled_still_knows_which_failed(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    """Twice, as the second checkpoint may be written before it is issued again."""

    async def scenario(bus: Bus) -> None:
        life = Life(bus, tmp_path)
        await life.begin()
        await life.issue(2)
        await life.fail(1)
        await life.requeue(1)
        await life.issue(1)
        before = await life.rows(range(3))
        assert before[2] == (before[1][0], group_id(1))
        for _ in range(2):
            frontier = await bus.decisions.frontier(0)
            await bus.decisions.begin_at(0, frontier, life.epoch)
        await life.begin()
        await life.issue(ROWS)
        assert await life.rows([0, 2]) == [before[0], before[2]]
        rows = await life.rows([0, 2, *range(3, ROWS + 1)])
        assert len({row for row, _ in rows}) == ROWS, "the epoch has every row once"
        assert life.issuer.rested == 0, "it has a number, and no place of its own in the data"
        assert (await bus.decisions.read()).repeats == 1

    drive(valkey.url, scenario)


def test_what_cannot_be_issued_once_more_says_why(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    async def scenario(bus: Bus) -> None:
        life = Life(bus, tmp_path)
        await life.begin()
        await life.issue(2)
        with pytest.raises(NotRequeued, match="it is issued, and only a failed one is"):
            await life.requeue(0)
        await life.fail(1, FailureReason.PROMPT_TOO_LONG)
        with pytest.raises(NotRequeued, match=r"it would fail again.*data\.max_prompt_tokens"):
            await life.requeue(1)
        assert (await bus.decisions.read()).requeued == []

    drive(valkey.url, scenario)
