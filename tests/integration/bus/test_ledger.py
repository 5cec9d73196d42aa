"""Random orders of random operations: the ledger always adds up, and every group is announced once."""

import asyncio
from collections import Counter
from contextlib import suppress

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dapo.bus import Bus, BusError, Delivery, GroupState, LedgerError
from dapo.bus.ledger import OPEN, TRANSITIONS
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.v1 import messages_pb2 as pb
from tests.support.bus import (
    drive,
    grade,
    group_id,
    make_batch,
    make_completion,
    make_task,
    store,
    stored_payloads,
)

GROUPS, SIZE = 5, 2
OPERATIONS = [
    "issue",
    "write",
    "write",
    "write",
    "verify",
    "verify",
    "again",
    "settle",
    "settle",
    "fail",
    "cut",
    "step",
]
OPERATIONS += ["commit", "close", "claim", "refill", "hand_back"]
REFUSALS = {"settle": [LedgerError], "cut": [BusError], "step": [BusError], "commit": [BusError]}
"""Operations that may come at a wrong moment, and how they are then refused."""
steps = st.lists(st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 10**6)), min_size=10, max_size=60)


class Driver:
    """Does one operation after another, whatever state things are in, and looks at the ledger from outside."""

    def __init__(self, bus: Bus, orchestrator: int, learner: int) -> None:
        self.bus, self.orchestrator, self.learner = bus, orchestrator, learner
        self.seen: list[Delivery] = []
        self.announced: Counter[str] = Counter()
        self.states: dict[str, str] = {}
        self.cut: list[list[str]] = []
        self.trained = 0

    async def check(self) -> None:
        stored = {
            name.decode(): int(count)
            for name, count in (await self.bus.control_server.client.hgetall(self.bus.keys.ledger)).items()
        }
        total = stored.pop("total", 0)
        assert sum(stored.values()) == total == len(self.states)
        records = await self.bus.groups.read_many(list(self.states))
        assert Counter(one.state for one in records) == Counter({state: n for state, n in stored.items() if n})
        for one in records:
            before = self.states[one.group_id]
            assert one.state in self.reached_from(before), f"{before} -> {one.state}"
            self.states[one.group_id] = one.state
        assert set(await self.bus.groups.open_ids()) == {group for group, state in self.states.items() if state in OPEN}
        for entry in await self.bus.streams.consume("scored", "orchestrator-0", count=100, block_s=0):
            self.announced[entry.data.decode()] += 1
        assert all(count == 1 for count in self.announced.values())

    def reached_from(self, state: str) -> set[str]:
        reached = {GroupState(state)}
        for _ in GroupState:
            reached |= {target for one in reached for target in TRANSITIONS[one]}
        return set(map(str, reached))

    async def issue(self, luck: int) -> None:
        if len(self.states) < GROUPS:
            await self.bus.groups.issue([make_task(len(self.states), SIZE)], self.orchestrator)
            self.states[group_id(len(self.states))] = "issued"

    async def write(self, luck: int) -> None:
        completion = make_completion(self.bus, group_id(luck % GROUPS), luck // 7 % SIZE, attempt=1 + luck % 3)
        await store(self.bus, [completion])
        await self.bus.groups.write_completions([completion, completion])

    async def verify(self, luck: int) -> None:
        fresh = await self.bus.streams.consume("completions", "verifier-0", count=1 + luck % 3, block_s=0)
        self.seen += fresh
        await self.bus.groups.write_grades([grade(one) for one in fresh])

    async def again(self, luck: int) -> None:
        if self.seen:
            await self.bus.groups.write_grades([grade(self.seen[luck % len(self.seen)], correct=False)] * 2)

    async def refill(self, luck: int) -> None:
        fresh = await self.bus.streams.consume("completions", "verifier-0", count=1 + luck % 2, block_s=0)
        self.seen += fresh
        for one in (*fresh, *self.seen[-1:]):
            await self.bus.groups.refill(one)

    async def hand_back(self, luck: int) -> None:
        for one in await self.bus.streams.consume("prompts", "generator-0", count=2, block_s=0):
            await self.bus.streams.hand_back("prompts", "generator-0", one, lost=bool(luck % 2))

    async def settle(self, luck: int) -> None:
        state = ["kept", "kept", "kept", "filtered", "surplus", "stale"][luck % 6]
        await self.bus.groups.settle(None, group_id(luck % GROUPS), state, "luck", self.orchestrator)

    async def fail(self, luck: int) -> None:
        if luck % 3 == 0:
            await self.bus.groups.fail(group_id(luck % GROUPS), "luck")

    async def cut_(self, luck: int) -> None:
        chosen = [number for number in range(GROUPS) if self.states.get(group_id(number)) == "kept"][: 1 + luck % 2]
        if luck % 5 == 0:
            chosen.append(luck % GROUPS)
        await self.bus.batches.cut(make_batch(self.bus, len(self.cut), chosen, SIZE), self.orchestrator)
        self.cut.append([group_id(number) for number in chosen])

    async def step(self, luck: int) -> None:
        batch = max(0, self.trained - luck % 2)
        await self.bus.batches.record_step(
            pb.StepReport(batch=batch), self.cut[batch] if batch < len(self.cut) else [], self.learner
        )
        self.trained = max(self.trained, batch + 1)

    async def commit(self, luck: int) -> None:
        await self.bus.batches.commit_checkpoint(luck % 3, self.learner)

    async def close(self, luck: int) -> None:
        if luck % 4 == 0:
            await self.bus.groups.close_open("luck", self.orchestrator)

    async def claim(self, luck: int) -> None:
        await self.bus.streams.claim_dead("completions", "verifier", "verifier-1", count=3)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
def test_the_ledger_adds_up_under_any_order_of_operations(valkey: EmbeddedValkey, steps: list[tuple[str, int]]) -> None:
    async def scenario(bus: Bus) -> None:
        await bus.control_server.client.flushdb()
        driver = Driver(bus, await bus.lease.acquire("orchestrator"), await bus.lease.acquire("learner"))
        for name, luck in steps:
            operation = driver.cut_ if name == "cut" else getattr(driver, name)
            with suppress(*REFUSALS.get(name, ())):
                await operation(luck)
            await driver.check()
        await bus.groups.close_open("end", driver.orchestrator)
        await driver.check()
        alive = {group for group, state in driver.states.items() if state in ("batched", "trained")}
        assert {key.split(":")[3] for key in await stored_payloads(bus)} <= alive

    drive(valkey.url, scenario)


def test_counts_add_up_while_many_writers_work(valkey: EmbeddedValkey) -> None:
    async def scenario(*buses: Bus) -> None:
        bus = buses[0]
        epoch = await bus.lease.acquire("orchestrator")
        done = asyncio.Event()

        async def watch() -> int:
            looks = 0
            while not done.is_set():
                stored = await bus.control_server.client.hgetall(bus.keys.ledger)
                total = int(stored.pop(b"total", 0))
                assert sum(map(int, stored.values())) == total
                looks += 1
            return looks

        async def generate(worker: Bus, name: str) -> None:
            while prompts := await worker.streams.consume("prompts", name, count=3, block_s=0.1):
                for prompt in prompts:
                    group = prompt.data.decode()
                    work = [
                        make_completion(worker, group, index) for index in await worker.groups.missing_indices(group)
                    ]
                    await worker.groups.write_completions(work)

        async def verify(worker: Bus, name: str) -> None:
            while entries := await worker.streams.consume("completions", name, count=10, block_s=0.3):
                await worker.groups.write_grades([grade(one) for one in entries])

        async def settle() -> int:
            settled = 0
            while entries := await bus.streams.consume("scored", "orchestrator-0", count=10, block_s=0.5):
                for one in entries:
                    await bus.groups.settle(one, one.data.decode(), "kept" if settled % 2 else "filtered", "", epoch)
                    settled += 1
            return settled

        await bus.groups.issue([make_task(number) for number in range(100)], epoch)
        watcher = asyncio.create_task(watch())
        jobs = [generate(buses[1], "generator-0"), generate(buses[2], "generator-1"), verify(buses[1], "verifier-0")]
        *_, settled = await asyncio.gather(*jobs, verify(buses[2], "verifier-1"), settle())
        done.set()
        assert await watcher > 0
        assert settled == 100
        counts = await bus.groups.ledger()
        assert (counts["kept"], counts["filtered"]) == (50, 50)

    drive(valkey.url, scenario, buses=3)
