"""Which learner ranks send weights, and which of them sends to which generator. Pure."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

_ROUNDING = 1e-9
"""0.7 of 10 ranks are 7, though 0.7 · 10 > 7 in floating point."""


def sender_ranks(hosts: Sequence[str], share: float) -> list[int]:
    """Of each host's ranks the first ones, `share` (in (0, 1]) of them rounded up. `hosts` names the host of each rank.

    So every host has a sender, and rank 0 is one.
    """
    left = {host: max(1, math.ceil(share * count - _ROUNDING)) for host, count in Counter(hosts).items()}
    senders = []
    for rank, host in enumerate(hosts):
        if left[host]:
            left[host] -= 1
            senders.append(rank)
    return senders


def choose_sender(host: str, senders: Sequence[int], hosts: Sequence[str], loads: Mapping[int, int]) -> int:
    """The rank of `senders` that is to send to one more generator, which runs on `host` ("": not known).

    Of those that send to the fewest (`loads`, by rank; none: 0) one on the generator's own host, as no network carries
    that; else one whose host's ranks send least in all, as they may share a network card; else the first.
    """
    by_host: Counter[str] = Counter()
    for rank in senders:
        by_host[hosts[rank]] += loads.get(rank, 0)
    return min(senders, key=lambda rank: (loads.get(rank, 0), hosts[rank] != host, by_host[hosts[rank]], rank))
