"""How a train batch is cut: into updates, over ranks, into micro-batches. Pure, and the same on every rank.

Every rank computes the whole plan from the batch record, so no rank needs to be told its share. Indices are positions
in the batch's flat list of samples; lengths are prompt plus response tokens.
"""

import heapq
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from services.learner.loss.denominators import Denominators
from services.learner.step.packing import pack_tokens


def split_updates(count: int, updates: int, *, seed: int, batch: int, epoch: int = 0) -> list[list[int]]:
    """The samples 0 … count − 1 of a batch, shuffled from (seed, batch, epoch), in nearly equal mini-batches."""
    order = list(range(count))
    random.Random(f"mini-batches:{seed}:{batch}:{epoch}").shuffle(order)
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


def schedule(
    shares: Sequence[Sequence[int]], lengths: Sequence[int], budget: int, *, packed: bool = False
) -> list[list[list[int]]]:
    """Micro-batches [rank][k] of one update, equally many on each rank and at least one: empty ones fill up.

    Collectives run once a micro-batch under ZeRO, so ranks must take the same number of them.
    """
    fill = pack_tokens if packed else pack
    filled = [fill(share, lengths, budget) for share in shares]
    most = max(1, *(len(micro_batches) for micro_batches in filled))
    return [micro_batches + [[]] * (most - len(micro_batches)) for micro_batches in filled]


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """Who trains on what: `shares[update][rank]` are the samples of one rank in one update, epoch after epoch."""

    lengths: Sequence[int]
    shares: Sequence[Sequence[Sequence[int]]]
    packed: bool = False

    def rank_indices(self, rank: int) -> list[int]:
        """Every sample of the batch that this rank trains on, and so must fetch."""
        return sorted({index for update in self.shares for index in update[rank]})

    def whole(self, loss_tokens: Sequence[int], budget: int) -> list[list[list[int]]]:
        """Micro-batches [rank][k] of everything that a rank trains on in the step, each sample once a rank."""
        ranks = range(len(self.shares[0]))
        return schedule(
            [[i for i in self.rank_indices(rank) if loss_tokens[i] > 0] for rank in ranks],
            self.lengths,
            budget,
            packed=self.packed,
        )

    def update(
        self, number: int, loss_tokens: Sequence[int], budget: int
    ) -> tuple[list[list[list[int]]], Denominators]:
        """Micro-batches [rank][k] and denominators of one update, without the samples that have no loss token."""
        usable = [[i for i in share if loss_tokens[i] > 0] for share in self.shares[number]]
        totals = Denominators.count((i for share in usable for i in share), loss_tokens)
        return schedule(usable, self.lengths, budget, packed=self.packed), totals


def plan_batch(
    lengths: Sequence[int],
    in_loss: Sequence[bool],
    *,
    updates: int,
    epochs: int,
    ranks: int,
    seed: int,
    batch: int,
    packed: bool = False,
) -> BatchPlan:
    """Cut a batch into mini-batches, with another shuffle for each epoch, and each of them into shares of `ranks`.

    `lengths` are in tokens. Samples that are not `in_loss` are left out.
    """
    mini_batches = [
        part
        for epoch in range(epochs)
        for part in split_updates(len(lengths), updates, seed=seed, batch=batch, epoch=epoch)
    ]
    kept = [[i for i in indices if in_loss[i]] for indices in mini_batches]
    return BatchPlan(lengths=lengths, shares=[partition(indices, lengths, ranks) for indices in kept], packed=packed)
