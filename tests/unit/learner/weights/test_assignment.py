"""Which learner rank sends to which generator: evenly, near where that costs nothing, and always one that sends."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from services.learner.weights.assignment import choose_sender, sender_ranks

HOSTS = st.lists(st.sampled_from("abc"), min_size=1, max_size=24)
SHARES = st.floats(0.01, 1.0)
MEMBERS = st.lists(st.sampled_from(["", "a", "b", "c", "elsewhere"]), max_size=60)


def test_a_share_of_one_has_every_rank_send_and_a_small_one_one_of_each_host() -> None:
    hosts = ["a"] * 4 + ["b"] * 4
    assert sender_ranks(hosts, 1.0) == list(range(8))
    assert sender_ranks(hosts, 0.5) == [0, 1, 4, 5]
    assert sender_ranks(hosts, 0.01) == [0, 4]
    assert sender_ranks(["a"] * 10, 0.7) == list(range(7))


@given(HOSTS, SHARES)
def test_every_host_has_its_share_of_senders_and_rank_0_is_one(hosts: list[str], share: float) -> None:
    senders = sender_ranks(hosts, share)
    assert senders == sorted(set(senders))
    assert senders[0] == 0
    counts = Counter(hosts[rank] for rank in senders)
    for host, count in Counter(hosts).items():
        assert abs(counts[host] - share * count) < 1 or counts[host] == 1
        assert counts[host] >= share * count - 1e-6


@given(HOSTS, SHARES, MEMBERS)
def test_no_sender_has_two_members_more_than_another(hosts: list[str], share: float, members: list[str]) -> None:
    senders = sender_ranks(hosts, share)
    loads = Counter(dict.fromkeys(senders, 0))
    for member in members:
        least = min(loads.values())
        chosen = choose_sender(member, senders, hosts, loads)
        near = [rank for rank in senders if hosts[rank] == member and loads[rank] == least]
        assert loads[chosen] == least
        assert not near or hosts[chosen] == member
        loads[chosen] += 1
    assert set(loads) == set(senders)
    assert max(loads.values()) - min(loads.values()) <= 1


@given(st.integers(1, 4), st.integers(1, 8), st.integers(0, 40))
def test_members_from_elsewhere_are_spread_over_hosts_first(hosts: int, each: int, members: int) -> None:
    placed = [f"host-{rank // each}" for rank in range(hosts * each)]
    senders = sender_ranks(placed, 1.0)
    loads: Counter[int] = Counter()
    for _ in range(members):
        loads[choose_sender("", senders, placed, loads)] += 1
    by_host = Counter(dict.fromkeys(placed, 0))
    for rank, load in loads.items():
        by_host[placed[rank]] += load
    assert max(by_host.values()) - min(by_host.values()) <= 1


@given(HOSTS, st.lists(st.tuples(st.booleans(), st.integers(0, 100)), max_size=80))
def test_who_comes_after_others_have_left_fills_the_gaps(hosts: list[str], events: list[tuple[bool, int]]) -> None:
    senders = sender_ranks(hosts, 1.0)
    serving: list[int] = []
    for leaves, which in events:
        if leaves and serving:
            serving.pop(which % len(serving))
            continue
        loads = Counter(serving)
        chosen = choose_sender("", senders, hosts, loads)
        assert loads[chosen] == min(loads[rank] for rank in senders)
        serving.append(chosen)
