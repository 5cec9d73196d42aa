"""Which agent gets which worker, and what is lacking. Pure: workloads and free agents in, places out."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from dapo.bus.agents import Agent
from dapo.spec.tree.resources import Device
from dapo.spec.workloads import Role, Workload


class Need(NamedTuple):
    """Of one worker."""

    worker_id: str
    role: Role
    gpus: int
    device: Device


class Choice(NamedTuple):
    places: Mapping[str, str]
    """Worker → agent; no agent twice."""
    unplaced: Sequence[Need]
    """For which no agent is left, in the order of the needs."""


def needs_of(workloads: Iterable[Workload], *, fewest: bool = False) -> list[Need]:
    """Of all workers, in the order in which they start; `fewest`: of those alone that a run cannot do without."""
    found = []
    for workload in workloads:
        count = workload.replicas
        if fewest and workload.fewest is not None:
            count = min(count, workload.fewest)
        resources = workload.resources
        ids = workload.worker_ids[:count]
        found += [Need(worker, workload.role, resources.gpus, resources.device) for worker in ids]
    return found


def choose(needs: Sequence[Need], free: Iterable[Agent]) -> Choice:
    """Each worker gets an agent of its role with GPUs enough, and of those one with the fewest, so that larger ones
    stay for whoever needs them. With `device` auto an agent without any GPU does, too, where no other is left."""
    left = sorted(free, key=lambda agent: (agent.gpus, agent.agent_id))
    places: dict[str, str] = {}
    # Those that want most first: an agent that is enough for them is for all others.
    for need in sorted(needs, key=lambda need: -need.gpus):
        fitting = [agent for agent in left if fits(need, agent)]
        if not fitting:
            continue
        best = next((agent for agent in fitting if agent.gpus >= need.gpus), fitting[0])
        places[need.worker_id] = best.agent_id
        left.remove(best)
    return Choice(places, [need for need in needs if need.worker_id not in places])


def fits(need: Need, agent: Agent) -> bool:
    """Whether an agent could have the worker, if it were free."""
    enough = agent.gpus >= need.gpus or (need.device == "auto" and agent.gpus == 0)
    return agent.role == need.role and enough


def lacking(unplaced: Sequence[Need], agents: Iterable[Agent], free: Iterable[Agent]) -> str:
    """Which roles lack how many agents, in words; "": none does. `free`: those of `agents` that have no worker."""
    known, idle = Counter(agent.role for agent in agents), Counter(agent.role for agent in free)
    words = []
    wanted = Counter((need.role, need.gpus if need.device == "cuda" else 0) for need in unplaced)
    for (role, gpus), count in wanted.items():
        with_gpus = f" with {gpus} GPU{'s' * (gpus > 1)}" if gpus else ""
        more = f"{count} more {role} agent{'s' * (count > 1)}{with_gpus}"
        words.append(f"{more} (of {known[role]} that are there {idle[role]} {'is' if idle[role] == 1 else 'are'} free)")
    return " and ".join(words)


def cure(unplaced: Sequence[Need]) -> str:
    """What to do about it."""
    role = unplaced[0].role
    return f"Start agents (dapo agent --role {role}), or wait for those that other runs have"
