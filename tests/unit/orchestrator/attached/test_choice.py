"""Which agent gets which worker."""

from itertools import permutations

from hypothesis import given, settings
from hypothesis import strategies as st

import dapo
from dapo.bus.agents import Agent
from dapo.spec.workloads import MODULES, Resources, Workload
from services.orchestrator.launch.attached.choice import Need, choose, cure, fits, lacking, needs_of

ROLES = ("generator", "learner")
needs_lists = st.lists(
    st.tuples(st.sampled_from(ROLES), st.integers(0, 3), st.sampled_from(["auto", "cuda"])), max_size=4
).map(lambda rows: [Need(f"{row[0]}-{at}", *row) for at, row in enumerate(rows)])
agents_lists = st.lists(st.tuples(st.sampled_from(ROLES), st.integers(0, 3)), max_size=4).map(
    lambda rows: [Agent(f"agent-{at}", role, "host", gpus) for at, (role, gpus) in enumerate(rows)]
)


@given(needs=needs_lists, agents=agents_lists)
def test_no_agent_gets_two_workers_and_none_that_it_cannot_run(needs: list[Need], agents: list[Agent]) -> None:
    places, unplaced = choose(needs, agents)
    by_id = {agent.agent_id: agent for agent in agents}
    assert len(set(places.values())) == len(places)
    for need in needs:
        assert (need in unplaced) != (need.worker_id in places)
        if need.worker_id in places:
            assert fits(need, by_id[places[need.worker_id]])


@settings(max_examples=200)
@given(rows=st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["auto", "cuda"])), max_size=4), agents=agents_lists)
def test_as_many_are_placed_as_there_is_a_way_to_place(rows: list[tuple], agents: list[Agent]) -> None:
    """Of one role, whose workers all want the same of a machine, as a run's do."""
    gpus, device = rows[0] if rows else (0, "cuda")
    needs = [Need(f"generator-{at}", "generator", gpus, device) for at in range(len(rows))]
    most = 0
    for order in permutations(agents, min(len(agents), len(needs))):
        most = max(most, sum(fits(need, agent) for need, agent in zip(needs, order, strict=False)))
    assert len(choose(needs, agents).places) == most


def test_larger_agents_are_kept_for_those_that_need_them() -> None:
    needs = [Need("small", "generator", 1, "cuda"), Need("large", "generator", 4, "cuda")]
    agents = [Agent("four", "generator", "host", 4), Agent("one", "generator", "host", 1)]
    assert choose(needs, agents).places == {"large": "four", "small": "one"}


def test_with_device_auto_an_agent_without_gpus_does_where_no_other_is_left() -> None:
    needs = [Need(f"generator-{at}", "generator", 1, "auto") for at in range(2)]
    agents = [Agent("bare", "generator", "host"), Agent("one", "generator", "host", 1)]
    assert choose(needs, agents).places == {"generator-0": "one", "generator-1": "bare"}
    assert choose([Need("g", "generator", 1, "cuda")], agents[:1]).unplaced


def test_an_agent_where_workers_of_the_run_failed_comes_last() -> None:
    need, agents = [Need("g", "generator", 0, "cpu")], [Agent(name, "generator", "host") for name in "abc"]
    assert choose(need, agents, failures={"a": 1, "b": 2}).places == {"g": "c"}
    assert choose(need, agents, failures={"a": 2, "b": 1, "c": 2}).places == {"g": "b"}
    larger = [agents[0], Agent("d", "generator", "host", 4)]
    assert choose(need, larger, failures={"a": 1}).places == {"g": "d"}


def test_a_run_grows_into_agents_like_those_that_it_has() -> None:
    need = [Need("g", "generator", 1, "auto")]
    bare, gpu = Agent("bare", "generator", "host"), Agent("gpu", "generator", "host", 1)
    assert choose(need, [bare], beside=[gpu]).unplaced == need
    assert choose(need, [gpu], beside=[bare]).unplaced == need
    assert choose(need, [bare, gpu], beside=[gpu]).places == {"g": "gpu"}
    assert choose(need, [bare], beside=[bare, gpu]).places == {"g": "bare"}
    assert choose(need, [bare], beside=[Agent("l", "learner", "host", 1)]).places == {"g": "bare"}
    verifier = Need("v", "verifier", 0, "cpu")
    assert choose([verifier], [Agent("v", "verifier", "host")], beside=[Agent("w", "verifier", "host", 1)]).places


def test_agents_of_another_release_are_passed_over_and_named() -> None:
    needs, other = [Need("g", "generator", 0, "cpu")], Agent("a", "generator", "box", release="9.0")
    unplaced = choose(needs, [other]).unplaced
    assert unplaced == needs
    assert lacking(unplaced, [other, Agent("l", "learner", "box", release="9.0")], [other]) == (
        "1 more generator agent (of 0 that are there 0 are free); of another release than the service's "
        f"{dapo.__version__}, and so left out: agent a on box (9.0)"
    )


def test_what_is_lacking_is_said_by_role() -> None:
    needs = [Need("g0", "generator", 0, "cpu"), Need("g1", "generator", 0, "cpu"), Need("l0", "learner", 1, "cuda")]
    agents = [Agent("a", "generator", "host"), Agent("b", "generator", "host")]
    unplaced = choose(needs, agents[:1]).unplaced
    assert lacking(unplaced, agents, agents[:1]) == (
        "1 more generator agent (of 2 that are there 1 is free) and 1 more learner agent with 1 GPU (of 0 that are "
        "there 0 are free)"
    )
    assert "dapo agent --role generator" in cure(unplaced)


def test_a_workload_that_can_do_with_fewer_needs_so_many() -> None:
    elastic = Workload("generator", "generator", 3, MODULES["generator"], {}, Resources("cuda", 2), fewest=1)
    fixed = Workload("verifier", "verifier", 2, MODULES["verifier"])
    assert [need.worker_id for need in needs_of([elastic, fixed])] == [
        *("generator-0", "generator-1", "generator-2", "verifier-0", "verifier-1")
    ]
    assert needs_of([elastic, fixed], fewest=True) == [
        Need("generator-0", "generator", 2, "cuda"),
        Need("verifier-0", "verifier", 0, "cpu"),
        Need("verifier-1", "verifier", 0, "cpu"),
    ]
