"""How a train batch is cut: into updates, over ranks, into micro-batches. Pure, and the same on every rank.

Every rank computes the whole plan from the batch record, so no rank needs to be told its share. Indices are positions
in the batch's flat list of samples; lengths are prompt plus response tokens.
"""

import heapq
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Denominators:
    """Tokens and sequences in the loss of one mini-batch, over all micro-batches and ranks."""

    tokens: int
    sequences: int

    @classmethod
    def count(cls, indices: Iterable[int], loss_tokens: Sequence[int]) -> "Denominators":
        """`loss_tokens[i]` is the number of tokens of sample i in the loss; 0 takes it out of both counts."""
        tokens = [loss_tokens[i] for i in indices if loss_tokens[i] > 0]
        return cls(tokens=sum(tokens), sequences=len(tokens))


def split_updates(count: int, updates: int, *, seed: int, batch: int) -> list[list[int]]:
    """The samples 0 … count − 1 of one batch, shuffled from (seed, batch), in `updates` nearly equal mini-batches."""
    order = list(range(count))
    random.Random(f"mini-batches:{seed}:{batch}").shuffle(order)
    cuts = [count * k // updates for k in range(updates + 1)]
    return [order[start:end] for start, end in pairwise(cuts)]


def partition(indices: Iterable[int], lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """One share a rank, balanced by tokens: longest first, each to the rank with the fewest tokens so far."""
    shares: list[list[int]] = [[] for _ in range(ranks)]
    loads = [(0, rank) for rank in range(ranks)]
    for index in sorted(indices, key=lambda i: (-lengths[i], i)):
        load, rank = heapq.heappop(loads)
        shares[rank].append(index)
        heapq.heappush(loads, (load + lengths[index], rank))
    return shares


def pack(indices: Iterable[int], lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Micro-batches of similar lengths whose padded size, sequences × longest, stays within `budget` tokens.

    A sequence longer than the budget goes alone.
    """
    micro_batches: list[list[int]] = []
    longest = 0
    for index in sorted(indices, key=lambda i: (-lengths[i], i)):
        if micro_batches and longest * (len(micro_batches[-1]) + 1) <= budget:
            micro_batches[-1].append(index)
        else:
            micro_batches.append([index])
            longest = lengths[index]
    return micro_batches


def schedule(shares: Sequence[Sequence[int]], lengths: Sequence[int], budget: int) -> list[list[list[int]]]:
    """Micro-batches [rank][k] of one update, equally many on each rank (at least one): short ranks get empty ones.

    Collectives run once a micro-batch under ZeRO, so ranks must take the same number of them.
    """
    packed = [pack(share, lengths, budget) for share in shares]
    most = max(1, *(len(micro_batches) for micro_batches in packed))
    return [micro_batches + [[]] * (most - len(micro_batches)) for micro_batches in packed]


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """Who trains on what: `shares[update][rank]` are the samples of one rank in one update."""

    lengths: Sequence[int]
    shares: Sequence[Sequence[Sequence[int]]]

    def rank_indices(self, rank: int) -> list[int]:
        """Every sample of the batch that this rank trains on, and so must fetch."""
        return [index for update in self.shares for index in update[rank]]

    def update(
        self, number: int, loss_tokens: Sequence[int], budget: int
    ) -> tuple[list[list[list[int]]], Denominators]:
        """Micro-batches [rank][k] and denominators of one update, without the samples that have no loss token."""
        usable = [[i for i in share if loss_tokens[i] > 0] for share in self.shares[number]]
        totals = Denominators.count((i for share in usable for i in share), loss_tokens)
        return schedule(usable, self.lengths, budget), totals


def plan_batch(
    lengths: Sequence[int], in_loss: Sequence[bool], *, updates: int, ranks: int, seed: int, batch: int
) -> BatchPlan:
    """Cut a batch into `updates` mini-batches and each of them over `ranks`; samples out of the loss are left out."""
    mini_batches = split_updates(len(lengths), updates, seed=seed, batch=batch)
    kept = [[i for i in indices if in_loss[i]] for indices in mini_batches]
    return BatchPlan(lengths=lengths, shares=[partition(indices, lengths, ranks) for indices in kept])


def merge_sums(sums: dict[str, float], more: Mapping[str, float]) -> None:
    """Add `more` into `sums`, name by name."""
    for name, value in more.items():
        sums[name] = sums.get(name, 0.0) + value
