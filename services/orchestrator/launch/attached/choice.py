"""Which agent gets which worker, and what is lacking. Pure: workloads and free agents in, places out."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import dapo
from dapo.bus.agents import Agent
from dapo.spec.tree.resources import Device
from dapo.spec.workloads import Role, Workload

_NONE: Mapping[str, int] = MappingProxyType({})
_NAMED = 3
"""So many agents are named at most."""


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


def choose(
    needs: Sequence[Need],
    free: Iterable[Agent],
    *,
    beside: Iterable[Agent] = (),
    failures: Mapping[str, int] = _NONE,
) -> Choice:
    """Each worker gets an agent of its role with GPUs enough, and of those one with the fewest, so that larger ones
    stay for whoever needs them. With `device` auto an agent without any GPU does, too, where no other is left.

    `beside`: agents whose like the workers are to have: with GPUs, or without. `failures`: by agent, how many workers
    of the run failed there; it comes after those with fewer.
    """
    left = sorted(free, key=lambda agent: (failures.get(agent.agent_id, 0), agent.gpus, agent.agent_id))
    kinds = {(agent.role, agent.gpus > 0) for agent in beside}
    places: dict[str, str] = {}
    # Those that want most first: an agent that is enough for them is for all others.
    for need in sorted(needs, key=lambda need: -need.gpus):
        fitting = [agent for agent in left if fits(need, agent) and _alike(need, agent, kinds)]
        if not fitting:
            continue
        best = next((agent for agent in fitting if agent.gpus >= need.gpus), fitting[0])
        places[need.worker_id] = best.agent_id
        left.remove(best)
    return Choice(places, [need for need in needs if need.worker_id not in places])


def fits(need: Need, agent: Agent) -> bool:
    """Whether an agent could have the worker, if it were free."""
    enough = agent.gpus >= need.gpus or (need.device == "auto" and agent.gpus == 0)
    return agent.role == need.role and agent.release == dapo.__version__ and enough


def _alike(need: Need, agent: Agent, kinds: Collection[tuple[str, bool]]) -> bool:
    """Workers that may run with or without GPUs are no mixture for others of another kind."""
    either = need.device == "auto" and need.gpus > 0
    return not either or (need.role, agent.gpus > 0) in kinds or (need.role, agent.gpus == 0) not in kinds


def lacking(unplaced: Sequence[Need], agents: Iterable[Agent], free: Iterable[Agent]) -> str:
    """Which roles lack how many agents, in words; "": none does. `free`: those of `agents` that have no worker."""
    every = list(agents)
    known = Counter(agent.role for agent in every if agent.release == dapo.__version__)
    idle = Counter(agent.role for agent in free if agent.release == dapo.__version__)
    words = []
    wanted = Counter((need.role, need.gpus if need.device == "cuda" else 0) for need in unplaced)
    for (role, gpus), count in wanted.items():
        with_gpus = f" with {gpus} GPU{'s' * (gpus > 1)}" if gpus else ""
        more = f"{count} more {role} agent{'s' * (count > 1)}{with_gpus}"
        words.append(f"{more} (of {known[role]} that are there {idle[role]} {'is' if idle[role] == 1 else 'are'} free)")
    return " and ".join(words) + _of_other_releases({role for role, _ in wanted}, every)


def _of_other_releases(roles: Collection[str], agents: Iterable[Agent]) -> str:
    others = [one for one in agents if one.role in roles and one.release != dapo.__version__]
    if not others:
        return ""
    named = ", ".join(f"{one} ({one.release})" for one in others[:_NAMED])
    more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
    return f"; of another release than the service's {dapo.__version__}, and so left out: {named}{more}"


def cure(unplaced: Sequence[Need]) -> str:
    """What to do about it."""
    role = unplaced[0].role
    return f"Start agents (dapo agent --role {role}), or wait for those that other runs have"
