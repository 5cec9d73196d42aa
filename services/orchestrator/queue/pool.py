"""What agents have to give to runs."""

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence

from dapo.bus.agents import Agent, Known, Order
from dapo.records.identity import RunIdentity
from dapo.spec.problem import Problem
from dapo.spec.run import RunSpec
from dapo.spec.workloads import plan_workloads
from dapo.v1 import run_pb2 as pb
from services.orchestrator.launch.attached.census import Census
from services.orchestrator.launch.attached.choice import Need, choose, cure, lacking, needs_of
from services.orchestrator.launch.launcher import LaunchError
from services.orchestrator.queue.rule import Amounts, Inventory, Verdict, Waiting

_RESERVED_S = 60.0
"""Longer than a run takes to place its workers once it starts, or fails to."""


class Pool:
    """Implements Capacity: a run starts where an agent is free for each worker that it cannot do without.

    Nothing of the service's own machine is counted. Agents are counted as they were seen a second ago, less what other
    runs of this service are about to take; where another service is faster, the launcher waits, and then says so.
    """

    def __init__(self, census: Census, *, runs: int | None = None) -> None:
        """`runs`: at a time."""
        self._census = census
        self._reserved: dict[str, tuple[Sequence[Need], float]] = {}
        """Run → what it is about to take, and until when that counts, by the monotonic clock."""
        self.has = Inventory(runs=runs)

    def needs(self, spec: RunSpec) -> Amounts:
        return Amounts()

    def misfits(self, spec: RunSpec) -> list[Problem]:
        url = spec.resources.redis.url
        if url is None:
            return []
        why = "agents work for runs in the Redis of the run service. Leave it empty"
        return [Problem("resources.redis.url", "a server of the run's own", why)]

    def lacks(self, identity: RunIdentity) -> str:
        return ""

    def taken(self, under_way: Iterable[RunSpec]) -> Amounts:
        return Amounts()

    def room(self, run_id: str, now: RunSpec, wanted: RunSpec, under_way: Iterable[RunSpec]) -> str:
        before = {need.worker_id for need in needs_of(plan_workloads(now))}
        more = [need for need in needs_of(plan_workloads(wanted)) if need.worker_id not in before]
        try:
            return self._lacking(more, beside=run_id)
        except LaunchError as error:
            return str(error)

    def reserve(self, run_id: str, spec: RunSpec) -> None:
        needs = needs_of(plan_workloads(spec), fewest=True)
        placed = self._placed(run_id)
        left = [need for need in needs if need.worker_id not in placed]
        if short := self._lacking(left, but=run_id):
            raise LaunchError(short)
        self._reserved[run_id] = left, time.monotonic() + _RESERVED_S

    def release(self, run_id: str) -> None:
        self._reserved.pop(run_id, None)

    def view(self, under_way: Collection[RunSpec], queue: Iterable[tuple[Waiting, Verdict]]) -> pb.Machine:
        """All agents together, none where they cannot be seen. Each has its GPUs for itself; cores and memory are of
        its machine, and those with a worker are taken to have an equal part of them."""
        try:
            known = self._census.latest
        except LaunchError:
            known = ()
        gpus = pb.Share(
            total=sum(one.agent.gpus for one in known), free=sum(one.agent.gpus for one in known if one.free)
        )
        return pb.Machine(
            gpus=gpus,
            cores=_shared(known, lambda agent: agent.cores),
            memory=_shared(known, lambda agent: agent.memory),
            runs=pb.RunsUnderWay(most=self.has.runs, under_way=len(under_way)),
            queue=[
                pb.QueuedRun(run_id=one.run_id, position=found.position, priority=one.priority, reason=found.reason)
                for one, found in queue
            ],
            agents=[_agent(one.agent, one.order) for one in known],
        )

    def _placed(self, run_id: str) -> set[str]:
        """Workers of the run that agents have. Raises LaunchError."""
        orders = [one.order for one in self._census.latest if one.order is not None]
        return {order.worker_id for order in orders if order.run_id == run_id}

    def _lacking(self, needs: Sequence[Need], *, but: str = "", beside: str = "") -> str:
        """Which agents are not free for these; "": there are all. `but`: a run whose reservation does not count;
        `beside`: one that goes on, which they are to join. Raises LaunchError."""
        known = self._census.latest
        free = self._free([one.agent for one in known if one.free], but)
        its = [one.agent for one in known if one.order is not None and one.order.run_id == beside]
        unplaced = choose(needs, free, beside=its).unplaced
        if not unplaced:
            return ""
        return f"needs {lacking(unplaced, [one.agent for one in known], free)}. {cure(unplaced)}"

    def _free(self, free: Sequence[Agent], but: str) -> list[Agent]:
        """Those of the agents that other runs are not about to take."""
        now, about = time.monotonic(), list[Need]()
        for run_id, (needs, until) in list(self._reserved.items()):
            if now >= until:
                del self._reserved[run_id]
            elif run_id != but:
                placed = self._placed(run_id)
                about += [need for need in needs if need.worker_id not in placed]
        taken = set(choose(about, free).places.values())
        return [agent for agent in free if agent.agent_id not in taken]


def _agent(agent: Agent, order: Order | None) -> pb.Agent:
    its = {} if order is None else {"run_id": order.run_id, "worker_id": order.worker_id}
    return pb.Agent(id=agent.agent_id, role=agent.role, host=agent.host, gpus=agent.gpus, release=agent.release, **its)


def _shared(known: Iterable[Known], amount: Callable[[Agent], int]) -> pb.Share:
    """Of what the agents of a machine have in common."""
    machines = defaultdict[str, list[Known]](list)
    for one in known:
        machines[one.agent.machine or one.agent.host].append(one)
    total = free = 0
    for there in machines.values():
        most = max(amount(one.agent) for one in there)
        total += most
        free += most * sum(one.free for one in there) // len(there)
    return pb.Share(total=total, free=free)
