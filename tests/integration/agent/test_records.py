"""Who has which worker, whatever agents and services do at once: a state machine over the real scripts."""

import asyncio
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis import Redis

from dapo.bus import Bus, Fenced
from dapo.bus.agents import Agent, AgentRecords, Answer, NotPlaced, Order, Placement, Report
from dapo.bus.keys import AGENTS, placed
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.spec.workloads import MODULES
from services.agent.rule import Move, next_move

RUN = "run"
WORKERS = ("verifier-0", "verifier-1")


def order(worker: str) -> Order:
    return Order(RUN, worker, "verifier", MODULES["verifier"], f"runs/{RUN}")


@dataclass
class Acting:
    """An agent as its loop goes, whose process is a flag."""

    agent: Agent
    held: Order | None = None
    runs: bool = False

    def act(self, answer: Answer) -> tuple[Move, Order | None]:
        move = next_move(self.held, runs=self.runs, answer=answer, leaving=False, unled_s=0.0)
        cleared = self.held or answer.order
        if move == Move.START:
            self.held, self.runs = answer.order, True
        elif move == Move.END:
            self.runs = False
        elif move == Move.CLEAR:
            self.held = None
        return move, cleared


class Placing(RuleBasedStateMachine):
    """Two services lead the run in turn; both may act at any moment, and agents may be silent for any time."""

    url = ""

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.redis = Redis.from_url(self.url)
        self.redis.flushall()
        self.records = self.do(AgentRecords.connect(self.url))
        self.bus = self.do(Bus.connect(self.url, RUN))
        self.agents: list[Acting] = []
        self.terms = [self.do(self.bus.lease.take("first", 600))]

    def do(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.do(self.records.close())
            self.do(self.bus.close())
            self.redis.close()
            self.loop.close()

    @precondition(lambda self: len(self.agents) < 3)
    @rule()
    def come(self) -> None:
        agent = Agent(f"agent-{len(self.agents)}", "verifier", "host")
        self.agents.append(Acting(agent))
        self.do(self.records.beat(agent))

    @precondition(lambda self: self.agents)
    @rule(data=st.data())
    def beat(self, data: st.DataObject) -> None:
        acting = data.draw(st.sampled_from(self.agents))
        report = Report("running" if acting.runs else "exited", None if acting.runs else 0)
        answer = self.do(self.records.beat(acting.agent, acting.held, report if acting.held else None))
        if answer.order is not None and not answer.stop:
            mine = (acting.agent.agent_id, answer.order.number)
            assert self.placements()[answer.order.worker_id][:2] == mine
        move, cleared = acting.act(answer)
        if move == Move.CLEAR:
            self.do(self.records.clear(acting.agent.agent_id, cleared))

    @precondition(lambda self: self.agents)
    @rule(data=st.data())
    def lapse(self, data: st.DataObject) -> None:
        self.redis.delete(f"{AGENTS}:{data.draw(st.sampled_from(self.agents)).agent.agent_id}")

    @precondition(lambda self: any(one.held for one in self.agents))
    @rule(data=st.data())
    def lapse_and_lose_the_worker_to_another(self, data: st.DataObject) -> None:
        acting = data.draw(st.sampled_from([one for one in self.agents if one.held]))
        held, placement = acting.held, self.placements().get(acting.held.worker_id)
        self.redis.delete(f"{AGENTS}:{acting.agent.agent_id}")
        if placement is None or placement.number != held.number:
            return
        self.do(self.records.withdraw(RUN, held.worker_id, held.number, self.terms[-1], final=True))
        for other in self.do(self.records.agents()):
            if other.free:
                self.do(self.records.place(other.agent.agent_id, order(held.worker_id), self.terms[-1]))
                return

    @precondition(lambda self: any(one.held for one in self.agents))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        acting = data.draw(st.sampled_from([one for one in self.agents if one.held]))
        self.do(self.records.leave(acting.agent.agent_id, acting.held, "told to leave"))
        acting.held, acting.runs = None, False

    @rule()
    def take_over(self) -> None:
        self.redis.delete(self.bus.keys.lease)
        self.terms.append(self.do(self.bus.lease.take(f"service-{len(self.terms)}", 600)))

    @precondition(lambda self: self.agents)
    @rule(data=st.data(), worker=st.sampled_from(WORKERS), late=st.booleans())
    def place(self, data: st.DataObject, worker: str, late: bool) -> None:
        acting, before = data.draw(st.sampled_from(self.agents)), self.placements()
        term = self.terms[0] if late else self.terms[-1]
        try:
            number = self.do(self.records.place(acting.agent.agent_id, order(worker), term))
        except NotPlaced:
            assert self.placements() == before
        except Fenced:
            assert term != self.terms[-1]
            assert self.placements() == before
        else:
            assert term == self.terms[-1]
            assert worker not in before
            assert self.placements()[worker] == Placement(acting.agent.agent_id, number, "verifier", "")

    @rule(worker=st.sampled_from(WORKERS), final=st.booleans(), late=st.booleans())
    def withdraw(self, worker: str, final: bool, late: bool) -> None:
        if (placement := self.placements().get(worker)) is None:
            return
        term = self.terms[0] if late else self.terms[-1]
        try:
            self.do(self.records.withdraw(RUN, worker, placement.number, term, final=final))
        except Fenced:
            assert term != self.terms[-1]
            return
        assert (worker in self.placements()) != final
        assert not final or not self.may_write(worker, placement.number)

    def placements(self) -> dict[str, Placement]:
        return self.do(self.records.placements(RUN))

    def may_write(self, worker: str, number: str) -> bool:
        return self.redis.get(self.bus.keys.epoch(placed(worker))) == number.encode()

    @invariant()
    def no_two_processes_of_a_worker_may_write(self) -> None:
        if not hasattr(self, "agents"):
            return
        for worker in WORKERS:
            writers = [
                one
                for one in self.agents
                if one.runs and one.held and one.held.worker_id == worker and self.may_write(worker, one.held.number)
            ]
            assert len(writers) <= 1

    @invariant()
    def whoever_may_write_is_the_one_that_the_worker_is_placed_with(self) -> None:
        if not hasattr(self, "agents"):
            return
        placements = self.placements()
        for one in self.agents:
            if one.runs and one.held and self.may_write(one.held.worker_id, one.held.number):
                placement = placements[one.held.worker_id]
                assert (placement.agent_id, placement.number) == (one.agent.agent_id, one.held.number)

    @invariant()
    def no_worker_is_with_two_agents(self) -> None:
        if not hasattr(self, "agents"):
            return
        known = {one.agent.agent_id: one.order for one in self.do(self.records.agents())}
        with_current = [
            (agent_id, held.worker_id)
            for agent_id, held in known.items()
            if held is not None and self.may_write(held.worker_id, held.number)
        ]
        assert len({worker for _, worker in with_current}) == len(with_current)


def test_whatever_happens_no_worker_is_run_twice(valkey: EmbeddedValkey) -> None:
    class OnValkey(Placing):
        url = valkey.url

    run_state_machine_as_test(
        OnValkey,
        settings=settings(
            max_examples=40,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_an_agent_whose_record_lapsed_keeps_its_worker_unless_somebody_took_it(valkey: EmbeddedValkey) -> None:
    async def scenario() -> None:
        records, bus = await AgentRecords.connect(valkey.url), await Bus.connect(valkey.url, RUN)
        term = await bus.lease.take("service", 600)
        agent, running = Agent("agent-0", "verifier", "host"), Report("running")
        await records.beat(agent)
        await records.place("agent-0", order("verifier-0"), term)
        held = (await records.beat(agent)).order
        assert held is not None
        await bus.control_server.client.delete(f"{AGENTS}:agent-0")
        assert (await records.beat(agent, held, running)).order == held
        await bus.control_server.client.delete(f"{AGENTS}:agent-0")
        await records.withdraw(RUN, "verifier-0", held.number, term, final=True)
        assert (await records.beat(agent, held, running)).order is None
        await bus.close()
        await records.close()

    asyncio.run(scenario())


def test_how_a_run_stands_is_told_with_each_beat(valkey: EmbeddedValkey) -> None:
    async def scenario() -> list[str]:
        records, bus = await AgentRecords.connect(valkey.url), await Bus.connect(valkey.url, RUN)
        agent = Agent("agent-0", "verifier", "host")
        seen = [(await records.beat(agent)).run]
        term = await bus.lease.take("service", 600)
        await records.place("agent-0", order("verifier-0"), term)
        held = (await records.beat(agent)).order
        for desired in ("running", "stopped"):
            seen.append((await records.beat(agent, held)).run)
            await bus.control_server.client.hset(bus.keys.run, "desired", desired)
            await bus.control_server.client.delete(bus.keys.lease)
            seen.append((await records.beat(agent, held)).run)
            await bus.lease.take("service", 600)
        await bus.close()
        await records.close()
        return seen

    assert asyncio.run(scenario()) == ["led", "led", "awaits", "led", "over"]


def test_two_services_that_place_at_once_do_not_both_get_an_agent(valkey: EmbeddedValkey) -> None:
    async def scenario() -> list[int]:
        records = [await AgentRecords.connect(valkey.url) for _ in range(2)]
        buses = [await Bus.connect(valkey.url, f"run-{at}") for at in range(2)]
        terms = [await bus.lease.take("service", 600) for bus in buses]
        agent = Agent("agent-0", "verifier", "host")
        await records[0].beat(agent)

        async def place(at: int) -> int:
            wanted = Order(f"run-{at}", "verifier-0", "verifier", MODULES["verifier"], "runs/r")
            try:
                await records[at].place("agent-0", wanted, terms[at])
            except NotPlaced:
                return 0
            return 1

        won = [sum(await asyncio.gather(place(0), place(1)))]
        for one in (*records, *buses):
            await one.close()
        return won

    assert asyncio.run(scenario()) == [1]
