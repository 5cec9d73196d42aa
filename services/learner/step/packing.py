"""Micro-batches as one row of whole sequences, end to end, in place of padded rows.

The row's position ids start anew with each sequence, and from them transformers keeps the sequences apart: flash
attention gets their lengths and computes nothing between them, other kernels get a block-diagonal mask of [tokens,
tokens] and compute the empty blocks too. Padding costs more than that only where lengths differ much.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from dapo.spec.tree.training import Packing

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def packs(choice: Packing, causal: "PreTrainedModel") -> bool:
    """Whether micro-batches are packed; `auto` asks whether the model's attention skips what lies between sequences."""
    if choice == "auto":
        return str(causal.config._attn_implementation).startswith("flash_attention")
    return choice == "on"


def pack_tokens(indices: Iterable[int], lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Micro-batches whose lengths add up to at most `budget` tokens; a sequence longer than the budget goes alone.

    First fit, longest first: at most about 11/9 as many as the fewest possible (Johnson 1973).
    """
    micro_batches: list[list[int]] = []
    room: list[int] = []
    for index in sorted(indices, key=lambda i: (-lengths[i], i)):
        place = next((k for k, left in enumerate(room) if lengths[index] <= left), None)
        if place is None:
            micro_batches.append([index])
            room.append(budget - lengths[index])
        else:
            micro_batches[place].append(index)
            room[place] -= lengths[index]
    return micro_batches
